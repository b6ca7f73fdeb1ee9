"""Statistics of a block: one parameter tensor, or one layer of a stack of them."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from optimiz.numerics.fusion import rematerialise
from optimiz.numerics.precision import widen


def norm_and_deviation(
    g: jax.Array, *, ddof: int, axes: tuple[int, ...] | None = None
) -> tuple[jax.Array, jax.Array]:
    r"""Euclidean norm and standard deviation of a block of a gradient, of which its g-SNR is the ratio.

    The gradient signal-to-noise ratio is :math:`G = \|g\|_2 / (s(g) + \epsilon)`. For a gradient of mean near
    zero it is about :math:`\sqrt d`, with d the number of entries.

    Args:
        g: gradient of one block, or of a stack of blocks; any shape, real.
        ddof: 1 for the unbiased variance, as in the authors' code; 0 for the population's, as in their paper.
        axes: the axes that make up one block; None for all.

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
    keepdims = axes is not None
    entries = g.size if axes is None else math.prod(g.shape[a] for a in axes)
    norm = jnp.sqrt(jnp.sum(jnp.square(widen(g)), axis=axes, keepdims=keepdims))
    if entries <= ddof:
        return norm, jnp.zeros_like(norm)
    again = rematerialise(g)  # three loops over g, see numerics.fusion, rule 1
    mean = jnp.mean(widen(again), axis=axes, keepdims=True)
    squares = jnp.square(widen(rematerialise(again)) - mean)
    divisor = float(entries - ddof)  # as an integer it may exceed an int32
    return norm, jnp.sqrt(jnp.sum(squares, axis=axes, keepdims=keepdims) / divisor)


def block_axes(ndim: int, scanned: int | None) -> tuple[int, ...]:
    """The axes of one block: all of a parameter's except the one along which layers are stacked.

    Example:
        >>> block_axes(3, None), block_axes(3, 0)
        ((0, 1, 2), (1, 2))
    """
    return tuple(axis for axis in range(ndim) if axis != scanned)


def axes_of_blocks(arrays: Sequence[jax.Array], scanned: Sequence[int | None]) -> list[tuple[int, ...]]:
    """The axes of one block of each of several arrays, see :func:`block_axes`.

    Args:
        arrays: any shapes.
        scanned: the axis of each along which layers are stacked, or None; see ``groups.scanned_axes``.
    """
    return [block_axes(x.ndim, axis) for x, axis in zip(arrays, scanned, strict=True)]
