"""Dtypes: in which one computes, and how a value gets there and back."""

import functools

import jax
import jax.numpy as jnp

from optimiz.numerics.dispatch import dispatched_once


@functools.cache
def compute_dtype(dtype: jax.typing.DTypeLike) -> jnp.dtype:
    """The dtype in which statistics of such an array are computed: at least float32.

    Example:
        >>> compute_dtype(jnp.bfloat16), compute_dtype(jnp.float64)
        (dtype('float32'), dtype('float64'))
    """
    return jnp.promote_types(dtype, jnp.float32)


@functools.cache
def real_dtype(dtype: jax.typing.DTypeLike) -> jnp.dtype:
    """The compute dtype of such an array's squared magnitudes.

    Example:
        >>> real_dtype(jnp.float16), real_dtype(jnp.complex64)
        (dtype('float32'), dtype('float32'))
    """
    return jnp.finfo(compute_dtype(dtype)).dtype


def widen(x: jax.Array) -> jax.Array:
    """``x`` in its compute dtype: bfloat16 and float16 become float32, all else stays.

    Args:
        x: any shape.

    Returns:
        The same values, same shape.
    """
    return x.astype(compute_dtype(x.dtype))


def narrow(x: jax.Array, dtype: jax.typing.DTypeLike) -> jax.Array:
    """``x`` in a dtype, with finite entries limited to those that it can hold; NaN and infinity stay.

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

    Not together with a sum that follows: some processors round the two once if they are compiled as one, and an
    update outside of ``jit`` would not be Optax's to the bit.

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
    """Whether it is a real float of fewer bits than one computes in.

    Example:
        >>> is_narrow(jnp.bfloat16), is_narrow(jnp.float32), is_narrow(jnp.int8)
        (True, False, False)
    """
    return jnp.issubdtype(dtype, jnp.floating) and jnp.dtype(dtype).itemsize < 4
