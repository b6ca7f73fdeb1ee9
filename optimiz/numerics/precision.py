"""Dtypes: in which one computes, and how a value gets there and back."""

import jax
import jax.numpy as jnp


def compute_dtype(dtype: jax.typing.DTypeLike) -> jnp.dtype:
    """The dtype in which statistics of such an array are computed: float32 at the least.

    Example:
        >>> compute_dtype(jnp.bfloat16), compute_dtype(jnp.float64)
        (dtype('float32'), dtype('float64'))
    """
    return jnp.promote_types(dtype, jnp.float32)


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


def is_narrow(dtype: jax.typing.DTypeLike) -> bool:
    """Whether it is a real float of fewer bits than one computes in.

    Example:
        >>> is_narrow(jnp.bfloat16), is_narrow(jnp.float32), is_narrow(jnp.int8)
        (True, False, False)
    """
    return jnp.issubdtype(dtype, jnp.floating) and jnp.dtype(dtype).itemsize < 4
