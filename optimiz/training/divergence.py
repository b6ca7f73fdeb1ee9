"""What a step that is not finite does to a run: one policy, for every optimizer.

A step is bad where its loss or the norm of its gradient is not finite. What comes of it is the optimizer's:

- One that skips bad steps says in its state how many there were in a row, as ``optimiz.guard`` does, and
  ``optax.apply_if_finite``. Then the run logs them, writes their rows and goes on. Parameters and optimizer are
  those of the last good step, to the bit, and so the next good step is what it would have been without them. A
  bad step is one of the run's all the same: its batch and its random key are used up, its price is charged. The
  run ends with the step after which the parameters are no longer finite. That is how either gives up, after as
  many bad steps in a row as it was told to bear.
- Without such a count the run ends with the first bad step.

An update may also spoil what it is applied to although loss and gradient were finite. So, before a state is
evaluated or saved, and after the last update, all parameters are tested, and what the optimizer keeps for each;
where one is not finite the run ends, and so it does with an evaluation whose loss is not finite. Scalars that
an optimizer keeps of its own, such as the best loss before there is one, may be infinite by right, and so may
what lies outside of an optimizer that skips.

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

from optimiz.groups.state_paths import span_of_parameter
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


def not_finite(params: Any, opt_state: Any, model_state: Any = None) -> str | None:
    """The name of an array that is not finite, of the parameters and of what the optimizer keeps for each.

    Args:
        params: arrays.
        opt_state: of the optimizer.
        model_state: of the model, tested likewise.

    Returns:
        The first, of the parts that lie on this process; None where all are finite.
    """
    flags = {
        name: [_finite(shard.data) for shard in leaf.addressable_shards if shard.replica_id == 0]
        for name, leaf in _tested(params, opt_state, model_state).items()
    }
    return next((name for name, parts in flags.items() if not all(map(bool, parts))), None)


# Array by array, and compiled for each shape once: one program of all takes seconds to compile.
@jax.jit
def _finite(array: jax.Array) -> jax.Array:
    return jnp.isfinite(array).all()


def _tested(params: Any, opt_state: Any, model_state: Any) -> dict[str, jax.Array]:
    """By name, the parameters, and the arrays of the optimizer whose paths have a parameter's within them."""
    owned = jax.tree_util.tree_leaves_with_path(params)
    paths = {path for path, _ in owned if path}
    skips = lambda node: bool(skipped_in_a_row(dict.fromkeys(getattr(node, "_fields", ()))))  # noqa: E731
    nodes = jax.tree_util.tree_leaves_with_path(opt_state, is_leaf=skips)
    if any(skips(node) for _, node in nodes):
        nodes = [(path, node) for path, node in nodes if skips(node)]
    kept = [
        ((*path, *inner), leaf)
        for path, node in nodes
        for inner, leaf in jax.tree_util.tree_leaves_with_path(node)
    ]
    named = {f"params{jax.tree_util.keystr(path)}": leaf for path, leaf in owned}
    for path, leaf in jax.tree_util.tree_leaves_with_path(model_state):
        if jnp.issubdtype(leaf.dtype, jnp.inexact):
            named[f"model_state{jax.tree_util.keystr(path)}"] = leaf
    for path, leaf in kept:
        if jnp.issubdtype(leaf.dtype, jnp.inexact) and span_of_parameter(path, paths) is not None:
            named[f"opt_state{jax.tree_util.keystr(path)}"] = leaf
    return named


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


def judged(figures: Mapping[str, float]) -> tuple[Mapping[str, float], str | None]:
    """The figures of an evaluation, and that which ends the run.

    That is the loss where it is not finite: what else was made of such logits says nothing, and is NaN.
    Another figure may be undefined, as one of a class that no example has; all of them together are not.

    Returns:
        The figures, and the name and value of one that is not finite; None where the run goes on.

    Example:
        >>> judged({"loss": math.inf, "accuracy": 0.5})
        ({'loss': inf, 'accuracy': nan}, 'loss inf')
        >>> judged({"loss": 0.5, "auc": math.nan})
        ({'loss': 0.5, 'auc': nan}, None)
    """
    bad = [name for name, value in figures.items() if not math.isfinite(value)]
    if not bad or ("loss" not in bad and len(bad) < len(figures)):
        return figures, None
    name = "loss" if "loss" in bad else bad[0]
    return dict.fromkeys(figures, math.nan) | {name: figures[name]}, f"{name} {figures[name]}"


def told(row: Mapping[str, Any]) -> str:
    """A step in words: its figures, and the how many-th bad one in a row it is, if the optimizer says so."""
    said = f"at step {row['step']} the loss is {row['loss']} and the gradient norm {row['gradient_norm']}"
    count = max(skipped_in_a_row(row), default=0)
    return f"{said}, bad step {count} in a row" if count else said


def ended(row: Mapping[str, Any]) -> str:
    """The step that ends a run in words, with the reason where its loss and gradient are none.

    Example:
        >>> ended({"step": 9, "loss": 0.5, "gradient_norm": 1.0})
        'at step 9 the loss is 0.5 and the gradient norm 1.0: its update leaves parameters that are not finite'
    """
    return told(row) if is_bad(row) else f"{told(row)}: its update leaves parameters that are not finite"
