"""Sums over each matrix of an array, without moving its entries as a stack would."""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from optimiz.numerics.dispatch import dispatched_once
from optimiz.numerics.matrix_stacks import Axes
from optimiz.numerics.moments import abs_sq
from optimiz.numerics.norms import norms_by_sums
from optimiz.numerics.precision import widen


def matrix_sum(x: jax.Array, axes: Axes) -> jax.Array:
    """The sum over each matrix, so that it broadcasts against the array.

    Args:
        x: any shape.
        axes: along which axes the array is a stack of matrices, with all axes named and counted from the front.

    Returns:
        Axes of the reduction have length 1, and so have those of the output, unless several matrices are fused
        along them.
    """
    if axes.sizes is None:
        return jnp.sum(x, axes.reduction + axes.output, keepdims=True)
    outputs = jnp.sum(x, axes.reduction, keepdims=True)
    total = jnp.zeros_like(outputs)
    for block in _blocks(x.shape, axes):  # selected, as a product would spread a NaN over other blocks
        part = jnp.sum(jnp.where(block, outputs, 0), axes.output, keepdims=True)
        total = jnp.where(block, part, total)
    return total


def _blocks(shape: tuple[int, ...], axes: Axes) -> list[np.ndarray]:
    """Where the outputs of each fused matrix are."""
    sizes = axes.sizes or ()
    block = np.repeat(np.arange(len(sizes)), sizes)
    order = sorted(axes.output)
    block = block.reshape([shape[i] for i in axes.output]).transpose([axes.output.index(i) for i in order])
    block = block.reshape([shape[i] if i in order else 1 for i in range(len(shape))])
    return [block == i for i in range(len(sizes))]


def matrix_norms(arrays: Callable[[], Sequence[jax.Array]], axes: Sequence[Axes]) -> list[jax.Array]:
    """Frobenius norms of the matrices of arrays, without overflow or underflow.

    Args:
        arrays: function that computes the arrays, of any shapes; it may be called twice.
        axes: along which axes each is a stack of matrices, with all axes named and counted from the front.

    Returns:
        The norms in the real compute dtypes, each in the shape of :func:`matrix_sum`; 0 for no entries, and NaN
        where one is NaN or infinite.
    """
    return norms_by_sums(arrays, [functools.partial(_sum_of_squares, axes=a) for a in axes])


@functools.partial(dispatched_once, static=("axes",))
def _sum_of_squares(x: jax.Array, scale: jax.Array | None, axes: Axes) -> jax.Array:
    return matrix_sum(abs_sq(widen(x) * (1 if scale is None else scale)), axes)
