"""What a step that is not finite does to a run: one policy, for every optimizer.

A step is bad where its loss or the norm of its gradient is not finite. What comes of it is the optimizer's:

- One that skips bad steps says in its state how many there were in a row, as ``optimiz.guard`` does, and
  ``optax.apply_if_finite``. Then the run logs them, writes their rows and goes on. Parameters and optimizer are
  those of the last good step, to the bit, and so the next good step is what it would have been without them. A
  bad step is one of the run's all the same: its batch and its random key are used up, its price is charged. The
  run ends with the step after which the parameters are no longer finite. That is how either gives up, after as
  many bad steps in a row as it was told to bear.
- Without such a count the run ends with the first bad step.

The row of the step that ends a run is the last one written, and nothing is saved from then on: the newest
checkpoint is of a good state. Of a mean over micro-batches, ``optimiz.guard`` around ``optimiz.accumulate``
leaves out the bad one, and within it skips the mean. On several devices all skip or none, for the gradient is
that of the whole batch.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from optimiz.hyperparams import hyperparams, skipped_in_a_row


def sound(opt_state: Any, params: Any) -> jax.Array | None:
    """Whether the parameters are finite after an update; traceable.

    Args:
        opt_state: of the optimizer.
        params: floating-point arrays.

    Returns:
        A bool scalar; None for an optimizer that skips nothing.
    """
    if not skipped_in_a_row(hyperparams(opt_state)):
        return None
    finite = [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(params)]
    return jnp.stack(finite).all()


def end_of(rows: Sequence[Mapping[str, Any]], sounds: Sequence[bool | None]) -> int | None:
    """The place of the row that ends the run; None where it goes on.

    Args:
        rows: of metrics, with ``loss`` and ``gradient_norm``.
        sounds: of each, what :func:`sound` says.
    """
    for place, (row, is_sound) in enumerate(zip(rows, sounds, strict=True)):
        if is_bad(row) if is_sound is None else not is_sound:
            return place
    return None


def is_bad(row: Mapping[str, Any]) -> bool:
    """Whether the step was bad, by its row of metrics."""
    return not (math.isfinite(row["loss"]) and math.isfinite(row["gradient_norm"]))


def told(row: Mapping[str, Any]) -> str:
    """A step in words: its figures, and the how many-th bad one in a row it is, if the optimizer says so."""
    said = f"at step {row['step']} the loss is {row['loss']} and the gradient norm {row['gradient_norm']}"
    count = max(skipped_in_a_row(row), default=0)
    return f"{said}, bad step {count} in a row" if count else said
