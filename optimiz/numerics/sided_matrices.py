"""Leaves whose matrices are treated along some of their sides, such as those that are rotated.

A side is an axis of a matrix of inputs × outputs: -2 for the inputs, or -1 for the outputs. To a side belongs a
square matrix, such as a factor or a basis, or a vector. They are laid out along the batch axes as the parameter
is.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from optimiz.numerics.matrix_stacks import Axes, map_matrices
from optimiz.numerics.precision import real_dtype


class Column(NamedTuple):
    """Arrays by the index of their leaf, and the axes of one, from those of the parameter."""

    arrays: list[Any]
    axes: Callable[[Axes], Axes]


@dataclasses.dataclass(frozen=True)
class SidedLeaves:
    """Leaves whose matrices are treated along the same sides.

    Attributes:
        sides: -2 for the inputs, -1 for the outputs.
        leaves: indices of the leaves.
        axes: axes of each as a matrix.
    """

    sides: tuple[int, ...]
    leaves: list[int]
    axes: list[Axes]

    def map(self, function: Callable[..., Any], *columns: Column, **given: Any) -> None:
        """Map a function of stacks; its results take the place of the first columns."""
        found = map_matrices(
            function,
            [tuple(column.axes(a) for column in columns) for a in self.axes],
            *([column.arrays[i] for i in self.leaves] for column in columns),
            **given,
        )
        for results, column in zip(zip(*found, strict=True), columns, strict=False):
            for i, x in zip(self.leaves, results, strict=True):
                column.arrays[i] = x

    def like_parameter(self, *trees: list[Any]) -> list[Column]:
        """The columns of lists of arrays that are laid out as the parameters."""
        return [Column(arrays, lambda a: a) for arrays in trees]

    def of_sides(self, pair: Sequence[list[Any]], square: bool = True) -> list[Column]:
        """The columns of a pair of lists, of the inputs and of the outputs; none if there are no lists."""
        return [Column(pair[side + 2], _square_axes if square else lambda a: a) for side in self.sides if pair]


def by_sides(shapes: Sequence[tuple[int, ...]], axes: Sequence[Axes | None], longest: int) -> list[SidedLeaves]:
    """The leaves that have a side which is not too long, by these sides.

    Args:
        shapes: shape of each leaf.
        axes: axes of each as a matrix, all of them named and counted from the front; None for no matrix.
        longest: length of the longest side.

    Raises:
        ValueError: a matrix has ``sizes``.
    """
    found: dict[tuple[int, ...], SidedLeaves] = {}
    for i, (shape, a) in enumerate(zip(shapes, axes, strict=True)):
        sides = () if a is None else _sides(shape, a, longest)
        if a is not None and sides:
            members = found.setdefault(sides, SidedLeaves(sides, [], []))
            members.leaves.append(i)
            members.axes.append(a)
    return list(found.values())


def zero_square(p: jax.Array, axes: Axes, side: int) -> jax.Array:
    """Zeros for a square matrix [n, n] of a side of each matrix, behind the batch axes.

    Args:
        p: the parameter, or a ``jax.ShapeDtypeStruct``.
        axes: its axes as a matrix.
        side: -2 or -1.
    """
    n = math.prod(p.shape[i] for i in (axes.reduction if side == -2 else axes.output))

    def square(x: jax.Array) -> jax.Array:
        batch = jnp.sum(x, axis=axes.reduction + axes.output)[..., None, None]
        return jnp.broadcast_to(batch, (*batch.shape[:-2], n, n))

    return jnp.zeros_like(jax.eval_shape(square, p), dtype=real_dtype(p.dtype))


def full_vector(value: jax.typing.ArrayLike, p: jax.Array, axes: Axes, side: int) -> jax.Array:
    """A number for each entry of a side, like the parameter with the other side's axes of length 1."""
    others = axes.output if side == -2 else axes.reduction
    like = jax.eval_shape(lambda x: jnp.sum(x, axis=others, keepdims=True), p)
    dtype = real_dtype(p.dtype)
    return jnp.full_like(like, jnp.asarray(value, dtype), dtype=dtype)


class _SquareAxes(NamedTuple):
    batch: tuple[int, ...]
    reduction: tuple[int, ...]
    output: tuple[int, ...]
    sizes: None = None


def _square_axes(axes: Axes) -> Axes:
    """The axes of what :func:`zero_square` makes: the parameter's batch axes in their order, and two more."""
    order, n = sorted(axes.batch), len(axes.batch)
    return _SquareAxes(tuple(order.index(i) for i in axes.batch), (n,), (n + 1,))


def _sides(shape: tuple[int, ...], axes: Axes, longest: int) -> tuple[int, ...]:
    if axes.sizes is not None:
        raise ValueError(
            f"sizes must be None, as what is fused is rotated as one matrix, got {axes.sizes}: leave them out, "
            "or take groups.matrices(whole=True)"
        )
    lengths = (math.prod(shape[i] for i in side) for side in (axes.reduction, axes.output))
    return tuple(side for side, n in zip((-2, -1), lengths, strict=True) if 0 < n <= longest)
