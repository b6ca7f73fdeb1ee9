"""What happens to a run when a step is not finite: one policy for every optimizer.

A step is bad if its loss or the norm of its gradient is not finite. What follows depends on the optimizer:

- An optimizer that skips bad steps counts consecutive ones in its state, as ``optimiz.guard`` and
  ``optax.apply_if_finite`` do. The run then logs bad steps, writes their rows and continues. Parameters and
  optimizer state are, to the bit, those of the last good step, so the next good step is the same as without the
  bad ones. A bad step still counts as a step: it uses up its batch and its random key, and its price is
  charged. The run ends with the step after which the parameters are no longer finite; that is how both wrappers
  give up, after their maximum number of consecutive bad steps.
- With any other optimizer the run ends with the first bad step.

An update may also make parameters or state infinite although loss and gradient were finite. All parameters, and
the arrays that the optimizer keeps for each of them, are therefore tested before a state is evaluated or saved,
and after the last update. If one is not finite, the run ends; so does a run whose evaluation loss is not
finite. Other scalars of an optimizer, such as the best loss before the first step, may legitimately be
infinite, and so may state outside of the wrapper that skips.

The row of the step that ends a run is the last one written, and nothing is saved after it: the newest
checkpoint holds a good state. With micro-batches, ``optimiz.guard`` around ``optimiz.accumulate`` drops only
the bad micro-batch; inside ``optimiz.accumulate`` it skips the whole update. Several devices all skip the same
steps, because the gradient is that of the whole batch.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from optimiz import numerics
from optimiz.groups.state_paths import span_of_parameter
from optimiz.hyperparams import hyperparams, skipped_in_a_row


def sound(opt_state: Any, params: Any) -> jax.Array | None:
    """Whether the parameters are finite after an update; traceable.

    Args:
        opt_state: the optimizer's state.
        params: the parameters.

    Returns:
        A bool scalar; None for an optimizer that does not skip bad steps.
    """
    if not skipped_in_a_row(hyperparams(opt_state)):
        return None
    finite = [jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(params)]
    return jnp.stack(finite).all()


def not_finite(params: Any, opt_state: Any, model_state: Any = None) -> str | None:
    """Find an array that is not finite, among the parameters and what the optimizer keeps for each of them.

    Args:
        params: the parameters.
        opt_state: the optimizer's state.
        model_state: the model's state, which is tested too.

    Returns:
        The name of the first such array, among the parts on this process; None if all are finite.
    """
    flags = {
        name: [_finite(shard.data) for shard in leaf.addressable_shards if shard.replica_id == 0]
        for name, leaf in _tested(params, opt_state, model_state).items()
    }
    return next((name for name, parts in flags.items() if not all(map(bool, parts))), None)


# One array at a time, compiled once per shape: a single program for all would take seconds to compile.
@jax.jit
def _finite(array: jax.Array) -> jax.Array:
    return jnp.isfinite(numerics.on_device(array)).all()


def _tested(params: Any, opt_state: Any, model_state: Any) -> dict[str, jax.Array]:
    """The parameters, and the arrays of the optimizer's state that belong to one of them, by name."""
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
    """The index of the row that ends the run; None if it continues.

    Args:
        rows: rows of metrics, with ``loss`` and ``gradient_norm``.
        sounds: the result of :func:`sound` for each of them.
    """
    for place, (row, is_sound) in enumerate(zip(rows, sounds, strict=True)):
        if is_bad(row) if is_sound is None else not is_sound:
            return place
    return None


def is_bad(row: Mapping[str, Any]) -> bool:
    """Whether the step was bad, by its row of metrics."""
    return not (math.isfinite(row["loss"]) and math.isfinite(row["gradient_norm"]))


def judged(metrics: Mapping[str, float]) -> tuple[Mapping[str, float], str | None]:
    """Find the metric of an evaluation that ends the run.

    A loss that is not finite ends the run; the other metrics, computed from the same logits, are then
    meaningless and become NaN. Any other metric may be undefined, such as one for a class without examples, but
    not all of them.

    Returns:
        The metrics, and the name and value of the one that ends the run; None if it continues.

    Example:
        >>> judged({"loss": math.inf, "accuracy": 0.5})
        ({'loss': inf, 'accuracy': nan}, 'loss inf')
        >>> judged({"loss": 0.5, "auc": math.nan})
        ({'loss': 0.5, 'auc': nan}, None)
    """
    bad = [name for name, value in metrics.items() if not math.isfinite(value)]
    if not bad or ("loss" not in bad and len(bad) < len(metrics)):
        return metrics, None
    name = "loss" if "loss" in bad else bad[0]
    return dict.fromkeys(metrics, math.nan) | {name: metrics[name]}, f"{name} {metrics[name]}"


def step_message(row: Mapping[str, Any]) -> str:
    """Describe a step: its loss and gradient norm, and the number of consecutive bad steps if it is counted."""
    message = f"at step {row['step']} the loss is {row['loss']} and the gradient norm {row['gradient_norm']}"
    count = max(skipped_in_a_row(row), default=0)
    return f"{message}, bad step {count} in a row" if count else message


def end_message(row: Mapping[str, Any]) -> str:
    """Describe the step that ends a run, with the reason if loss and gradient are finite.

    Example:
        >>> end_message({"step": 9, "loss": 0.5, "gradient_norm": 1.0})
        'at step 9 the loss is 0.5 and the gradient norm 1.0: its update leaves parameters that are not finite'
    """
    message = step_message(row)
    return message if is_bad(row) else f"{message}: its update leaves parameters that are not finite"
