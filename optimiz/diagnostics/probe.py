"""A probe in a chain: measure the heterogeneity of the gradient every k steps, and pass it on untouched.

Put it first, or after the average over devices: it measures what ``update`` is given. Between two
measurements it computes comparisons alone. What a branch may read has to be whole in memory when it is passed.
So large arrays have branches of their own: one for all would keep them in memory together, which is dear in a
step that mostly moves memory. ``tests/records/probe_cost.json`` has what is left of the cost. Under ``vmap`` a
branch is taken on both sides: it measures at every step.

State holds arrays alone. Their blocks are named by ``block_names(params, blocks)``; within ``optax.masked`` and
its like, by that of the tree with the holes.
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

LARGE = 1_000_000  # entries of an array that has a branch of its own; a branch costs some microseconds


class ProbeState(NamedTuple):
    """State of :func:`probe`."""

    count: jax.Array  # int32 scalar: updates so far
    probed_step: jax.Array  # int32 scalar: 0-based index of the update last measured, -1 before the first
    heterogeneity: Heterogeneity  # of that update; zeros before the first


def probe(
    blocks: Labels | Any | None = None, *, every: jax.typing.ArrayLike
) -> optax.GradientTransformationExtraArgs:
    """Measure the heterogeneity of the updates at every k-th of them, from the first on.

    Args:
        blocks: labels, as a function of the tree or as a tree (or prefix); None for one block per tensor,
            ``by_tensor()``.
        every: k ≥ 1.

    Returns:
        A transformation whose updates are those it is given. :func:`readings` reads its state.

    Raises:
        TypeError: ``every`` is not an integer, or ``blocks`` is a function that makes labels.
        ValueError: it is less than 1; or, in ``init``, the labels do not fit the parameters.

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
    """What a probe has measured last, as a row for a log.

    Args:
        state: of an optimizer that has one probe in it, however nested, its arrays wrapped or not, see
            ``optimiz.hyperparams``; not traced.
        names: of the blocks, from ``block_names``.

    Returns:
        ``{"step": 0, "heterogeneity": {statistic: number}, "block_norms": {name: n_b}, "block_rms": {name:
        r_b}}``; empty before the first measurement.

    Raises:
        ValueError: there is not one probe, or it measures another number of blocks.

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
    """The fields of a probe's state, also where a mapping has been made of it; None of anything else."""
    if isinstance(node, ProbeState):
        return node._asdict()
    return node if isinstance(node, Mapping) and set(node) == set(ProbeState._fields) else None
