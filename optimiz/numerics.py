"""Functions of arrays, JAX only: the arithmetic that primitives map over a tree."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def compute_dtype(dtype: jax.typing.DTypeLike) -> jnp.dtype:
    """The dtype in which statistics of such an array are computed: float32 at the least.

    Example:
        >>> compute_dtype(jnp.bfloat16), compute_dtype(jnp.float64)
        (dtype('float32'), dtype('float64'))
    """
    return jnp.promote_types(dtype, jnp.float32)


def widen(x: jax.Array) -> jax.Array:
    """``x`` in its compute dtype: bfloat16 and float16 become float32, all else stays.

    Args:
        x: any shape.

    Returns:
        The same values, same shape.
    """
    return x.astype(compute_dtype(x.dtype))


def zero_moment(p: jax.Array, dtype: jax.typing.DTypeLike | None) -> jax.Array:
    """A zero accumulator for a parameter, with its shape and sharding.

    Args:
        p: the parameter, or a ``jax.ShapeDtypeStruct``.
        dtype: the accumulator's dtype; None for the parameter's compute dtype.
    """
    return jnp.zeros_like(p, dtype=compute_dtype(p.dtype) if dtype is None else dtype)


def real_dtype(dtype: jax.typing.DTypeLike) -> jnp.dtype:
    """The compute dtype of such an array's squared magnitudes.

    Example:
        >>> real_dtype(jnp.float16), real_dtype(jnp.complex64)
        (dtype('float32'), dtype('float32'))
    """
    return jnp.finfo(compute_dtype(dtype)).dtype


def real_moment(
    p: jax.Array, dtype: jax.typing.DTypeLike | None, value: jax.typing.ArrayLike = 0.0
) -> jax.Array:
    """An accumulator of a parameter's magnitudes, with its shape and sharding.

    Args:
        p: the parameter, or a ``jax.ShapeDtypeStruct``.
        dtype: the accumulator's dtype; None for :func:`real_dtype` of the parameter's.
        value: what it starts at.
    """
    return jnp.full_like(p, value, dtype=real_dtype(p.dtype) if dtype is None else dtype)


def abs_sq(x: jax.Array) -> jax.Array:
    """Squared magnitude, elementwise: x² for real entries, x x̄ for complex ones, in a real dtype."""
    return jnp.square(x) if jnp.isrealobj(x) else jnp.square(x.real) + jnp.square(x.imag)


def squarable(g: jax.Array) -> jax.Array:
    """``g`` with finite entries limited to those whose square is finite; NaN and infinity stay.

    One finite gradient of 1e30 would otherwise leave an accumulated square at infinity for good.

    Args:
        g: any shape, of a compute dtype; real and imaginary parts are limited apart.

    Returns:
        The same shape and dtype.

    Example:
        >>> squarable(jnp.array([1e30, -2.0, jnp.inf])).tolist()
        [4.611686018427388e+18, -2.0, inf]
    """
    if not jnp.isrealobj(g):
        return jax.lax.complex(squarable(g.real), squarable(g.imag))
    # A quarter of the root of the largest power of two: sums of two squares are finite as well.
    limit = 2.0 ** (jnp.finfo(g.dtype).maxexp // 2 - 2)
    return jnp.where(jnp.isinf(g), g, jnp.clip(g, -limit, limit))


def bias_correction(decay: jax.typing.ArrayLike, count: jax.Array) -> jax.Array:
    r"""The weight that an exponential moving average from zero has gathered: 1 - decayᵗ.

    Written as -expm1(t log decay): in float32 0.999 is off by 3e-8, and so 1 - 0.999 by 3e-5.

    Args:
        decay: in [0, 1).
        count: t ≥ 1, a float scalar.

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
    return -jnp.expm1(count * log_decay)


def norm_and_deviation(
    g: jax.Array, *, ddof: int, axes: tuple[int, ...] | None = None
) -> tuple[jax.Array, jax.Array]:
    r"""Euclidean norm and standard deviation of a block of gradient: the pair behind its g-SNR.

    The gradient signal-to-noise ratio is :math:`G = \|g\|_2 / (s(g) + \epsilon)`. For a gradient of mean near
    zero it is about :math:`\sqrt d`, d being the number of entries.

    Args:
        g: gradient of one block, or of a stack of blocks; any shape, real.
        ddof: 1 for the unbiased variance, as the authors' code, 0 for the population's, as their paper.
        axes: the axes that make up one block; None for all of them.

    Returns:
        Both in the compute dtype: scalars for ``axes=None``, else with the axes of a block kept at length 1,
        so that they broadcast against ``g``. The deviation of a block of ``ddof`` entries is 0.

    Example:
        >>> norm, deviation = norm_and_deviation(jnp.array([3.0, -3.0, 3.0, -3.0]), ddof=0)
        >>> float(norm), float(deviation)
        (6.0, 3.0)

    Source:
        arXiv 2412.11768, section 4.1.
    """
    g = widen(g)
    keepdims = axes is not None
    entries = g.size if axes is None else math.prod(g.shape[a] for a in axes)
    norm = jnp.sqrt(jnp.sum(jnp.square(g), axis=axes, keepdims=keepdims))
    if entries <= ddof:
        return norm, jnp.zeros_like(norm)
    return norm, jnp.std(g, axis=axes, ddof=ddof, keepdims=keepdims)


def map_many(
    function: Callable[..., tuple[Any, ...]], outputs: int, tree: Any, *others: Any
) -> tuple[Any, ...]:
    """Map a function that returns several results over leaves; several trees come back.

    Args:
        function: of one leaf of each tree, returning ``outputs`` results.
        outputs: the number of results.
        tree: a pytree; the results have its structure, an empty one included.
        *others: pytrees of the same structure, or of which it is a prefix.

    Example:
        >>> map_many(lambda x, y: (x + y, x - y), 2, {"a": 3}, {"a": 1})
        ({'a': 4}, {'a': 2})
    """
    leaves, structure = jax.tree.flatten(tree)
    columns = [structure.flatten_up_to(other) for other in others]
    rows = [function(*row) for row in zip(leaves, *columns, strict=True)]
    return tuple(structure.unflatten([row[i] for row in rows]) for i in range(outputs))


def block_axes(ndim: int, scanned: int | None) -> tuple[int, ...]:
    """The axes that make up one block: all of a parameter's but the one along which layers are stacked.

    Example:
        >>> block_axes(3, None), block_axes(3, 0)
        ((0, 1, 2), (1, 2))
    """
    return tuple(axis for axis in range(ndim) if axis != scanned)


def block_norm(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """Euclidean norm over some axes, finite and not zero wherever it is so in exact arithmetic.

    Entries are divided by the largest before they are squared: in float32 neither 1e30 nor 1e-30 has a square.

    Args:
        x: any shape.
        axes: the axes that make up one block, see :func:`block_axes`.

    Returns:
        The norm in the real compute dtype, with the axes of a block kept at length 1; 0 for no entries, and NaN
        where one is NaN or infinite.

    Example:
        >>> block_norm(jnp.array([3e30, -4e30]), (0,)) == 5e30
        Array([ True], dtype=bool)
    """
    x = widen(x)
    largest = jnp.max(jnp.abs(x), axis=axes, keepdims=True, initial=0)
    # Below the smallest normal number a quotient need not be finite.
    scale = jnp.where(largest < jnp.finfo(x.dtype).tiny, 1, largest)
    return scale * jnp.sqrt(jnp.sum(abs_sq(x / scale), axis=axes, keepdims=True))


def narrow(x: jax.Array, dtype: jax.typing.DTypeLike) -> jax.Array:
    """``x`` in a dtype, with finite entries limited to those that it can hold; NaN and infinity stay.

    Example:
        >>> narrow(jnp.array([1e6, -2.0, jnp.inf]), jnp.float16).tolist()
        [65504.0, -2.0, inf]
    """
    if x.dtype == dtype:
        return x
    limit = float(jnp.finfo(dtype).max)
    return jnp.where(jnp.isinf(x), x, jnp.clip(x, -limit, limit)).astype(dtype)
