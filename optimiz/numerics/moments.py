"""Accumulators of gradients and of their squares."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from optimiz import checks
from optimiz.numerics.dispatch import dispatched_once
from optimiz.numerics.precision import compute_dtype, real_dtype


def zero_moment(p: jax.Array, dtype: jax.typing.DTypeLike | None) -> jax.Array:
    """A zero accumulator for a parameter, with its shape and sharding.

    Args:
        p: the parameter, or a ``jax.ShapeDtypeStruct``.
        dtype: dtype of the accumulator; None for the parameter's compute dtype.

    Raises:
        TypeError: ``dtype`` is not floating point.
    """
    checks.floating("the dtype of a moment", dtype)
    return jnp.zeros_like(p, dtype=compute_dtype(p.dtype) if dtype is None else dtype)


def wide_copy(p: jax.Array) -> jax.Array:
    """A copy of a parameter in its compute dtype, with its sharding.

    Args:
        p: the parameter; of a ``jax.ShapeDtypeStruct``, whose values are not known, the copy is zero.
    """
    if isinstance(p, jax.ShapeDtypeStruct):
        return zero_moment(p, None)  # pyright: ignore[reportArgumentType]
    return jnp.array(p, compute_dtype(p.dtype), copy=True)


def real_moment(
    p: jax.Array, dtype: jax.typing.DTypeLike | None, value: jax.typing.ArrayLike = 0.0
) -> jax.Array:
    """An accumulator of a parameter's magnitudes, with its shape and sharding.

    Args:
        p: the parameter, or a ``jax.ShapeDtypeStruct``.
        dtype: dtype of the accumulator; None for :func:`real_dtype` of the parameter's.
        value: initial value.

    Raises:
        TypeError: ``dtype`` is not floating point.
    """
    checks.floating("the dtype of a moment", dtype)
    return jnp.full_like(p, value, dtype=real_dtype(p.dtype) if dtype is None else dtype)


@dispatched_once
def abs_sq(x: jax.Array) -> jax.Array:
    """Squared magnitude, elementwise: x² for real entries, x x̄ for complex ones, in a real dtype."""
    return jnp.square(x) if jnp.isrealobj(x) else jnp.square(x.real) + jnp.square(x.imag)


@functools.partial(dispatched_once, static=("terms",))
def squarable(g: jax.Array, terms: float = 1) -> jax.Array:
    """``g`` with finite entries limited so that their squares are finite; other entries become NaN.

    Otherwise one finite gradient of 1e30 would leave an accumulated square at infinity for good.

    Args:
        g: any shape, of a compute dtype; real and imaginary parts are limited separately.
        terms: number of squares whose sum is to be finite too.

    Returns:
        The same shape and dtype.

    Example:
        >>> squarable(jnp.array([1e30, -2.0, jnp.inf])).tolist()
        [4.611686018427388e+18, -2.0, nan]
    """
    if not jnp.isrealobj(g):
        return jax.lax.complex(squarable(g.real, terms), squarable(g.imag, terms))
    limit = (largest_square(g.dtype) / terms) ** 0.5
    # g - g is 0 where g is finite, else NaN; numerics.fusion, rule 4.
    return jnp.clip(g, -limit, limit) + (g - g)


def largest_square(dtype: jax.typing.DTypeLike) -> float:
    """The square of the largest number that :func:`squarable` returns, a power of two.

    It is the largest power of two divided by 16, so that sums of two squares are finite too.

    Args:
        dtype: dtype of the gradient.
    """
    return 4.0 ** (jnp.finfo(compute_dtype(dtype)).maxexp // 2 - 2)


@dispatched_once
def limited_square(g: jax.Array) -> jax.Array:
    """Squared magnitude, at most :func:`largest_square`, also of infinity; NaN stays.

    It is accumulated next to a direction in which :func:`squarable` shows infinity as NaN. The two share no
    intermediate array (``numerics.fusion``, rule 2).

    Args:
        g: any shape, of a compute dtype.

    Returns:
        The same shape, in a real dtype.

    Example:
        >>> limited_square(jnp.array([1e30, -2.0, jnp.nan])).tolist()
        [2.1267647932558654e+37, 4.0, nan]
    """
    return jnp.minimum(abs_sq(g), largest_square(g.dtype))


def nonzero_divisor(x: jax.Array, least: jax.typing.ArrayLike = 0.0) -> jax.Array:
    """``x``, but 1 where it is 0, as a divisor.

    Args:
        x: entries ≥ 0, or NaN; any shape.
        least: lower bound of the entries. If it is a positive Python number, ``x`` is returned unchanged.

    Example:
        >>> nonzero_divisor(jnp.array([0.0, 3.0, jnp.inf])).tolist()
        [1.0, 3.0, inf]
    """
    if isinstance(least, float | int) and least >= jnp.finfo(x.dtype).tiny:
        return x
    # No select; numerics.fusion, rule 4.
    return x + (1 - jnp.sign(x))


def bias_correction(decay: jax.typing.ArrayLike, count: jax.Array) -> jax.Array:
    r"""The total weight of an exponential moving average from zero: 1 - decayᵗ.

    Computed as -expm1(t log decay). In float32, 0.999 has a relative error of 3e-8, and so 1 - 0.999 one of
    3e-5.

    Args:
        decay: decay rate in [0, 1).
        count: number of updates t ≥ 1, a float scalar.

    Returns:
        A scalar of the dtype of ``count``.

    Example:
        >>> round(float(bias_correction(0.999, jnp.float32(1))), 8)
        0.001
    """
    if isinstance(decay, float | int):
        log_decay = math.log(decay) if decay > 0 else -math.inf
    else:
        log_decay = jnp.log(decay)
    return _gathered(log_decay, count)


@dispatched_once
def _gathered(log_decay: jax.typing.ArrayLike, count: jax.Array) -> jax.Array:
    return -jnp.expm1(count * log_decay)


def bias_corrections(decay: jax.typing.ArrayLike, count: jax.Array, tree: Any) -> dict[jnp.dtype, jax.Array]:
    """:func:`bias_correction` once per :func:`real_dtype` of the leaves.

    Args:
        decay: decay rate in [0, 1).
        count: number of updates t ≥ 1, an integer scalar.
        tree: a pytree of arrays.

    Example:
        >>> list(bias_corrections(0.9, jnp.int32(1), [jnp.zeros(2), jnp.zeros(3, jnp.bfloat16)]))
        [dtype('float32')]
    """
    dtypes = dict.fromkeys(real_dtype(x.dtype) for x in jax.tree.leaves(tree))
    return {real: bias_correction(decay, count.astype(real)) for real in dtypes}
