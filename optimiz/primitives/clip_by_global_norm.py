r"""Clip all updates together, where their joint norm is too large.

.. math:: g \leftarrow g \min(1, c \,/\, \|g\|_2), \qquad \|g\|_2 = \Big( \sum_i \|g_i\|_2^2 \Big)^{1/2}

Parameters that ``optax.masked``, ``optax.partition`` or ``optimiz.groups.freeze`` keep away have no part in the
norm.

Source: arXiv 1211.5063.

Departures from ``optax.clip_by_global_norm``: the norm is summed in float32 at the least (Optax's is bfloat16
for bfloat16 gradients), of entries divided by the largest, so that a gradient of 1e30 is clipped and not set to
zero, and one of 1e-30 has a norm; a zero gradient stays zero also where c = 0, in place of 0/0; where one entry
is infinite all updates are NaN, as they are where one is NaN (Optax's are NaN there and 0, a clean step,
everywhere else); and the norm is kept in the state, where a log can read it.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from optimiz import checks, numerics


class ClipByGlobalNormState(NamedTuple):
    """State of :func:`clip_by_global_norm`."""

    global_norm: jax.Array  # float32 scalar: of the last updates, before they were clipped


def clip_by_global_norm(max_norm: jax.typing.ArrayLike) -> optax.GradientTransformationExtraArgs:
    """Scale all updates by one factor, so that their joint norm is at most ``max_norm``.

    Args:
        max_norm: c ≥ 0.

    Returns:
        A transformation that keeps its updates' dtype.

    Raises:
        TypeError: ``max_norm`` is not a number.
        ValueError: it is NaN, infinite or negative; or, in ``update``, an update's shape is not its
            parameter's.

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
        zero = jnp.zeros([], dtype)
        largest = functools.reduce(jnp.maximum, (jnp.max(jnp.abs(g), initial=0) for g in leaves), zero)
        # Neither it nor its inverse is below the smallest normal number, where digits are lost.
        unit = jnp.clip(largest, jnp.finfo(dtype).tiny, 1 / jnp.finfo(dtype).tiny)
        squares = (jnp.sum(numerics.abs_sq(numerics.widen(g) / unit)) for g in leaves)
        root = jnp.sqrt(sum(squares, start=zero))
        norm = unit * root  # infinite where float32 has no such number; the root is finite even then
        limit = jnp.asarray(max_norm, dtype)
        factor = jnp.where(jnp.isfinite(root), limit / jnp.where(root == 0, 1, root), jnp.nan)

        def clip(g):
            return jnp.where(norm <= limit, g, (numerics.widen(g) / unit * factor).astype(g.dtype))

        return jax.tree.map(clip, updates), ClipByGlobalNormState(norm.astype(jnp.float32))

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
