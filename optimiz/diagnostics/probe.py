"""A probe in a chain: measure the heterogeneity of the gradient every k steps, without changing it.

Put it first, or after the average over devices, since it measures what ``update`` is given. Between
measurements it only evaluates comparisons. Operands of a branch are held in memory, so large arrays have
branches of their own; a single branch would hold all of them together. ``tests/records/probe_cost.json``
records the remaining cost. Under ``vmap`` both branches run, so that it measures at every step.

``block_names(params, blocks)`` names the blocks of the arrays in the state; inside ``optax.masked`` or
``optax.partition``, call it with the masked tree.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optimiz import checks, numerics
from optimiz.diagnostics.blocks import Labels, partition
from optimiz.diagnostics.heterogeneity import Heterogeneity, heterogeneity, of_norms
from optimiz.hyperparams import bare

LARGE = 1_000_000  # entries from which an array has its own branch; a branch costs some microseconds


class ProbeState(NamedTuple):
    """State of :func:`probe`."""

    count: jax.Array  # int32 scalar: number of updates so far
    probed_step: jax.Array  # int32 scalar: 0-based index of the update last measured, -1 before the first
    heterogeneity: Heterogeneity  # statistics of that update; zeros before the first


def probe(
    blocks: Labels | Any | None = None, *, every: jax.typing.ArrayLike
) -> optax.GradientTransformationExtraArgs:
    """Measure the heterogeneity of every k-th update, beginning with the first.

    Args:
        blocks: labels, as a function of the tree or as a tree (or prefix); None for one block per tensor,
            ``by_tensor()``.
        every: number k ≥ 1 of updates from one measurement to the next.

    Returns:
        A transformation that returns its updates unchanged. :func:`readings` reads its state.

    Raises:
        TypeError: ``every`` is not an integer, or ``blocks`` is a function that returns labels.
        ValueError: ``every`` is less than 1; or, in ``init``, the labels do not fit the parameters.

    Example:
        >>> tx = optax.chain(probe(every=2), optax.sgd(0.5))
        >>> params = {"a": jnp.zeros(1), "b": jnp.zeros(1)}
        >>> state = tx.init(params)
        >>> for g in (1.0, 3.0):
        ...     updates, state = tx.update({"a": jnp.array([g]), "b": jnp.array([1.0])}, state)
        >>> int(state[0].count), int(state[0].probed_step), state[0].heterogeneity.norm.tolist()
        (2, 0, [1.0, 1.0])
    """
    checks.integer("every", every, ge=1)
    if blocks is not None:
        checks.per_parameter("blocks", blocks)

    def init_fn(params):
        shapes = jax.eval_shape(lambda tree: heterogeneity(tree, blocks), params)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        return ProbeState(jnp.zeros([], jnp.int32), jnp.full([], -1, jnp.int32), zeros)

    def update_fn(updates, state, params=None, **extra_args):
        del params, extra_args

        due = state.count % every == 0
        cut, leaves = partition(updates, blocks), jax.tree.leaves(updates)

        def norms_if_due(i, x):
            norms = partial(cut.leaf_norms, i)
            return numerics.cond(due, norms, lambda x: jnp.zeros_like(jax.eval_shape(norms, x)), x)

        large = {i: norms_if_due(i, x) for i, x in enumerate(leaves) if x.size >= LARGE}

        def measure():
            if not cut.names:
                return state.heterogeneity
            norms = [large[i] if i in large else cut.leaf_norms(i, x) for i, x in enumerate(leaves)]
            measured = of_norms(cut.joined(norms), cut.sizes)
            # The gradient need not have the parameters' dtype.
            return jax.tree.map(lambda new, old: new.astype(old.dtype), measured, state.heterogeneity)

        measured = numerics.cond(due, measure, lambda: state.heterogeneity)
        step = jnp.where(due, state.count, state.probed_step)
        count = numerics.increment(state.count)
        return updates, ProbeState(count, step, measured)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def readings(state: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """The last measurement of a probe, as a row for a log.

    Args:
        state: state of an optimizer that contains one probe, however nested, with arrays wrapped or not, see
            ``optimiz.hyperparams``; not traced.
        names: names of the blocks, from ``block_names``.

    Returns:
        ``{"step": 0, "heterogeneity": {statistic: number}, "block_norms": {name: n_b}, "block_rms": {name:
        r_b}}``; empty before the first measurement.

    Raises:
        ValueError: there is not exactly one probe, or it measures another number of blocks.

    Example:
        >>> grads = {"a": jnp.array([3.0]), "b": jnp.array([1.0])}
        >>> tx = probe(every=100)
        >>> _, state = tx.update(grads, tx.init(grads))
        >>> row = readings(state, ("a", "b"))
        >>> row["step"], row["block_norms"], row["heterogeneity"]["gini_norm"]
        (0, {'a': 3.0, 'b': 1.0}, 0.25)
    """
    nodes = jax.tree.leaves(state, is_leaf=lambda node: _fields(node) is not None)
    probes = [fields for fields in map(_fields, nodes) if fields is not None]
    if len(probes) != 1:
        raise ValueError(f"the state must hold one probe, got {len(probes)}")
    (probe,) = probes
    kept = probe["heterogeneity"]
    kept = kept if isinstance(kept, Mapping) else kept._asdict()
    measured = Heterogeneity(**{name: bare(x) for name, x in kept.items()})
    step, measured = jax.device_get((bare(probe["probed_step"]), measured))
    if measured.norm.shape != (len(names),):
        raise ValueError(f"names must have one entry per block, {measured.norm.size}, got {len(names)}")
    if step < 0:
        return {}
    arrays = measured._asdict()
    norms, rms = (arrays.pop(field).tolist() for field in ("norm", "rms"))
    return {
        "step": int(step),
        "heterogeneity": {name: x.item() for name, x in arrays.items()},
        "block_norms": dict(zip(names, norms, strict=True)),
        "block_rms": dict(zip(names, rms, strict=True)),
    }


def _fields(node: Any) -> Mapping[str, Any] | None:
    """The fields of a probe's state, or of a mapping made from it; None for anything else."""
    if isinstance(node, ProbeState):
        return node._asdict()
    return node if isinstance(node, Mapping) and set(node) == set(ProbeState._fields) else None
