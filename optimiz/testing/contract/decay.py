"""Promises about weight decay."""

import jax
import jax.numpy as jnp
import numpy as np

from optimiz.groups import no_decay
from optimiz.testing import expect
from optimiz.testing.promise import promise
from optimiz.testing.subject import Subject
from optimiz.testing.trees import params

_DECAY = 0.5
_MASKS = ("weight_decay_mask", "mask")


def _without_decay(subject: Subject) -> str | None:
    return None if subject.accepts("weight_decay") else "it has no argument weight_decay"


def _without_mask(subject: Subject) -> str | None:
    if not any(map(subject.accepts, _MASKS)):
        return "it has no mask of weight decay"
    return _without_decay(subject)


@promise("with a gradient of zero weight decay only shrinks", applies_to=_without_decay)
def decay_only_shrinks(subject: Subject) -> None:
    """Decoupled weight decay multiplies the parameters by a factor in (0, 1) at any sensible learning rate."""
    p = start = params()
    tx = subject.make(weight_decay=_DECAY)
    state = tx.init(p)
    for _ in range(3 * subject.period):
        updates, state = tx.update(jax.tree.map(jnp.zeros_like, p), state, p)
        p = jax.tree.map(jnp.add, p, updates)
    for (path, after), before in zip(
        jax.tree_util.tree_leaves_with_path(p), jax.tree.leaves(start), strict=True
    ):
        ratio = np.asarray(after / before)
        assert np.all((ratio > 0) & (ratio < 1)), (
            f"parameters{jax.tree_util.keystr(path)} is {ratio} of what it was, after 3 steps"
        )


@promise("weight decay spares what its mask names", applies_to=_without_mask)
def decay_spares_what_the_mask_names(subject: Subject) -> None:
    """Biases and norms are not decayed, and everything else is."""
    p = params()
    name = next(filter(subject.accepts, _MASKS))
    zeros = jax.tree.map(jnp.zeros_like, p)

    def decayed(mask):
        tx = subject.make(weight_decay=_DECAY, **{name: mask})
        state, total = tx.init(p), zeros
        for _ in range(subject.period):
            updates, state = tx.update(zeros, state, p)
            total = jax.tree.map(jnp.add, total, updates)
        return total

    assert np.any(decayed(None)["layer"]["bias"] != 0), "without a mask ['layer']['bias'] is not decayed"
    updates = decayed(no_decay())
    expect.zero(updates["layer"]["bias"], "updates['layer']['bias']")
    assert np.all(updates["kernel"] != 0), f"updates['kernel'] is not decayed: {updates['kernel']}"
