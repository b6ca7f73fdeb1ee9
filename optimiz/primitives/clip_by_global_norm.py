r"""Clip updates by their global norm.

.. math:: g \leftarrow g \min(1, c \,/\, \|g\|_2), \qquad \|g\|_2 = \left( \sum_i \|g_i\|_2^2 \right)^{1/2}

Parameters that ``optax.masked``, ``optax.partition`` or ``optimiz.groups.freeze`` hide are not part of the
norm.

Source: arXiv 1211.5063.

Departures from ``optax.clip_by_global_norm``: the norm is summed in at least float32 (Optax's is bfloat16
for bfloat16 gradients) and neither overflows nor underflows, so that a gradient of 1e30 is clipped, not set to
zero, and one of 1e-30 has a norm; a zero gradient with c = 0 stays zero instead of 0/0; an infinite entry makes
all updates NaN, as a NaN does (Optax's are NaN there and 0 everywhere else); the norm is kept in the state for
logging.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from optimiz import checks, numerics


class ClipByGlobalNormState(NamedTuple):
    """State of :func:`clip_by_global_norm`."""

    global_norm: jax.Array  # float32 scalar: norm of the last updates before clipping


def clip_by_global_norm(max_norm: jax.typing.ArrayLike) -> optax.GradientTransformationExtraArgs:
    """Scale all updates by one factor so that their global norm is at most ``max_norm``.

    Args:
        max_norm: largest norm c ≥ 0.

    Returns:
        A transformation that keeps the dtype of its updates.

    Raises:
        TypeError: ``max_norm`` is not a number.
        ValueError: ``max_norm`` is NaN, infinite or negative; or, in ``update``, an update has another shape
            than its parameter.

    Example:
        >>> tx = clip_by_global_norm(2.5)
        >>> updates, state = tx.update(jnp.array([3.0, -4.0]), tx.init(jnp.zeros(2)))
        >>> updates.tolist(), float(state.global_norm)
        ([1.5, -2.0], 5.0)
    """
    checks.number("max_norm", max_norm, ge=0)

    def init_fn(params):
        del params
        return ClipByGlobalNormState(jnp.zeros([], jnp.float32))

    def update_fn(updates, state, params=None, **extra_args):
        del state, extra_args
        if params is not None:
            checks.same_shapes("gradient", updates, "parameter", params)
        leaves = jax.tree.leaves(updates)
        dtype = functools.reduce(jnp.promote_types, (numerics.real_dtype(g.dtype) for g in leaves), jnp.float32)

        square = numerics.traced_once(_square, leaves)

        def squares(scale):
            # numerics.fusion, rule 1: a narrow leaf is widened for the norm and again where it is clipped.
            pairs = [(numerics.rematerialise(g) if numerics.is_narrow(g.dtype) else g, None) for g in leaves]
            if scale is not None:
                pairs = [numerics.rematerialise((g, scale[0])) for g in leaves]
            return [sum((square(g, s) for g, s in pairs), start=jnp.zeros([], dtype))]

        def factors(pairs):
            [(scale, root)] = pairs
            return _factors(scale, root, max_norm)

        norm, scale, factor = numerics.of_scaled_roots(factors, squares)

        clipped = numerics.map_leaves(lambda g: _times(g, scale, factor), updates)
        return clipped, ClipByGlobalNormState(norm.astype(jnp.float32))

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


@numerics.dispatched_once
def _square(g: jax.Array, scale: jax.Array | None) -> jax.Array:
    return jnp.sum(numerics.abs_sq(numerics.widen(g) * (1 if scale is None else scale)))


@numerics.dispatched_once
def _factors(
    scale: jax.Array, root: jax.Array, max_norm: jax.typing.ArrayLike
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The norm and the two factors that clip to it."""
    norm = root / scale  # infinite if it exceeds the dtype's range; the root stays finite
    limit = jnp.asarray(max_norm, root.dtype)
    factor = jnp.where(jnp.isfinite(root), limit / jnp.where(root == 0, 1, root), jnp.nan)
    # Where nothing is clipped both are 1, which changes no bit; numerics.fusion, rule 4.
    scale, factor = (jnp.where(norm <= limit, 1, x) for x in (scale, factor))
    return norm, scale, factor


@numerics.dispatched_once
def _times(g: jax.Array, scale: jax.Array, factor: jax.Array) -> jax.Array:
    return (numerics.widen(g) * scale * factor).astype(g.dtype)
