"""The dtype in which to compute, and conversion to and from it."""

import functools

import jax
import jax.numpy as jnp

from optimiz.numerics.dispatch import dispatched_once


@functools.cache
def compute_dtype(dtype: jax.typing.DTypeLike) -> jnp.dtype:
    """The dtype in which to compute with arrays of a dtype: at least float32.

    Example:
        >>> compute_dtype(jnp.bfloat16), compute_dtype(jnp.float64)
        (dtype('float32'), dtype('float64'))
    """
    return jnp.promote_types(dtype, jnp.float32)


@functools.cache
def real_dtype(dtype: jax.typing.DTypeLike) -> jnp.dtype:
    """The compute dtype of squared magnitudes of arrays of a dtype.

    Example:
        >>> real_dtype(jnp.float16), real_dtype(jnp.complex64)
        (dtype('float32'), dtype('float32'))
    """
    return jnp.finfo(compute_dtype(dtype)).dtype


def product(x: jax.Array, y: jax.Array) -> jax.Array:
    """The product of matrices [..., m, k] and [..., k, n] with all their bits, of which a device may drop some.

    Example:
        >>> product(jnp.array([[1.0, 2.0]]), jnp.array([[3.0], [4.0]])).item()
        11.0
    """
    return jnp.matmul(x, y, precision=jax.lax.Precision.HIGHEST)


def widen(x: jax.Array) -> jax.Array:
    """``x`` in its compute dtype: bfloat16 and float16 become float32, others stay.

    Args:
        x: any shape.

    Returns:
        The same values, same shape.
    """
    return x.astype(compute_dtype(x.dtype))


def narrow(x: jax.Array, dtype: jax.typing.DTypeLike) -> jax.Array:
    """``x`` in another dtype, with finite entries limited to its range; NaN and infinity stay.

    Example:
        >>> narrow(jnp.array([1e6, -2.0, jnp.inf]), jnp.float16).tolist()
        [65504.0, -2.0, inf]
    """
    if x.dtype == dtype or not jnp.issubdtype(dtype, jnp.inexact):
        return x.astype(dtype)
    limit = float(jnp.finfo(dtype).max)
    return jnp.where(jnp.isinf(x), x, jnp.clip(x, -limit, limit)).astype(dtype)


@dispatched_once
def scaled(x: jax.Array, factor: jax.typing.ArrayLike) -> jax.Array:
    """``x`` times a factor, computed in its compute dtype and returned in its own; see :func:`narrow`.

    Example:
        >>> scaled(jnp.array([1e4, -2.0], jnp.float16), 1e3).tolist()
        [65504.0, -2000.0]
    """
    return narrow(widen(x) * factor, x.dtype)


@dispatched_once
def times(scalar: jax.typing.ArrayLike, x: jax.Array) -> jax.Array:
    """``x`` times a real scalar, computed and returned in its compute dtype.

    It is dispatched apart from a sum that follows: compiled together, some processors round the two only once,
    and an update outside of ``jit`` would not equal Optax's bit for bit.

    Example:
        >>> times(0.5, jnp.array([1.0, 3.0], jnp.bfloat16))
        Array([0.5, 1.5], dtype=float32)
    """
    return jnp.asarray(scalar).astype(real_dtype(x.dtype)) * widen(x)


@functools.partial(dispatched_once, static=("dtype",))
def plus(x: jax.Array, y: jax.Array, dtype: jax.typing.DTypeLike) -> jax.Array:
    """The sum of two arrays in the compute dtype of the second, returned in another.

    Example:
        >>> plus(jnp.array([1.0]), jnp.array([3.0], jnp.bfloat16), jnp.bfloat16)
        Array([4], dtype=bfloat16)
    """
    return (x + widen(y)).astype(dtype)


def is_narrow(dtype: jax.typing.DTypeLike) -> bool:
    """Whether a dtype is a real float with fewer bits than float32.

    Example:
        >>> is_narrow(jnp.bfloat16), is_narrow(jnp.float32), is_narrow(jnp.int8)
        (True, False, False)
    """
    return jnp.issubdtype(dtype, jnp.floating) and jnp.dtype(dtype).itemsize < 4
