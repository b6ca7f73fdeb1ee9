"""An update and its application to the parameters, as one function."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer

from optimiz import checks
from optimiz.numerics.block_kernels.leaf_kernel import update_leaf
from optimiz.numerics.block_kernels.ops import tracing
from optimiz.numerics.control_flow import is_staged
from optimiz.numerics.fusion import deferred, programs


def update_and_apply(
    tx: optax.GradientTransformation,
    updates: Any,
    state: Any,
    params: Any,
    *,
    shardings: tuple[Any, Any] | None = None,
    **extra_args: Any,
) -> tuple[Any, Any]:
    """``tx.update`` and ``optax.apply_updates``, one kernel per parameter where state is stored in few bits.

    Within ``jit``, on a TPU or an NVIDIA GPU, each large matrix whose state ``low_bit`` stores in blocks is
    read and written once: a kernel decodes a tile of the state, computes the optimizer's update of it, and
    writes parameters, codes and scales. ``tx.update`` alone cannot: its caller adds the update to the
    parameters, so that it would be written and read once more. Everything else, and any other state, is
    computed as by the two calls.

    Args:
        tx: any transformation.
        updates: the gradients.
        state: state of ``tx``; donate it to ``jit``, and the parameters.
        params: the parameters.
        shardings: how a mesh of several devices splits the parameters and the state: a pair of trees like
            these, of ``NamedSharding``. Each device's kernel then updates its part; without it, several
            devices use no kernel.
        **extra_args: further arguments of ``tx.update``.

    Returns:
        The new parameters and the new state.

    Example:
        >>> tx, params = optax.sgd(0.5), jnp.array([1.0, 2.0])
        >>> step = jax.jit(lambda g, s, p: update_and_apply(tx, g, s, p))
        >>> params, state = step(params, tx.init(params), params)
        >>> params.tolist()
        [0.5, 1.0]
    """
    tx = optax.with_extra_args_support(tx)

    def step(updates: Any, state: Any, params: Any) -> tuple[Any, Any]:
        updates, state = tx.update(updates, state, params, **extra_args)
        return optax.apply_updates(params, updates), state

    if not (_has_codes(state) and is_staged()) or _is_laid_out((updates, state, params)):
        return step(updates, state, params)

    def traced(*args: Any) -> tuple[Any, Any]:
        with tracing():
            return step(*args)

    results, structure = jax.tree.flatten(deferred(traced)(updates, state, params))
    before = jax.tree.leaves((params, state))
    laid = [None] * len(before) if shardings is None else jax.tree.leaves(shardings)
    values = [each.value for each in results]
    for members, jaxpr, arguments in programs(results):
        aliases = _aliases(arguments, [before[i] for i in members], jaxpr.out_avals)
        sharding = next((laid[i] for i in members if _is_code(before[i])), None)
        found = update_leaf(jaxpr, aliases, arguments, sharding)
        for i, value in zip(members, found, strict=True):
            values[i] = value
    return jax.tree.unflatten(structure, values)


def _has_codes(state: Any) -> bool:
    """Whether a traced state holds codes."""
    return any(isinstance(x, Tracer) and _is_code(x) for x in jax.tree.leaves(state))


def _is_code(x: Any) -> bool:
    return x.dtype in (jnp.int8, jnp.uint8, jnp.float8_e4m3fn)


def _is_laid_out(tree: Any) -> bool:
    """Whether the types of some arrays say how a mesh splits them, as on explicit axes and in ``shard_map``."""
    leaves = jax.tree.leaves(tree)
    return any(any(jax.typeof(x).sharding.spec) or checks.varying_axes(x) for x in leaves)


def _aliases(arguments: list[Any], before: list[Any], after: Any) -> list[tuple[int, int]]:
    """Each result takes the memory of what it replaces, if that is an argument of its type."""
    places = {id(x): i for i, x in enumerate(arguments)}
    found = [(places.get(id(x)), i) for i, x in enumerate(before)]
    return [(a, i) for a, i in found if a is not None and arguments[a].dtype == after[i].dtype]
