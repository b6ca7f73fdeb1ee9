"""The two directions of a line search: one to try step sizes along, and one to move the parameters along."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from optimiz.numerics.units import unit_scale, unit_vdot


class Directions(NamedTuple):
    """The directions of a line search, instead of one tree of updates; both have the sign of the gradient.

    Attributes:
        search: direction along which step sizes are tried; its slope must not be negative.
        step: direction along which the parameters move once a step size is found.
    """

    search: Any
    step: Any


def directions_of(
    updates: Any, grad: Any, labels: Any, dtype: jax.typing.DTypeLike, *, steepest: bool
) -> tuple[Directions, jax.Array, jax.Array]:
    """Both directions, the slope of each unit along the first, and whether any had to be replaced.

    Args:
        updates: a tree of arrays with the sign of the gradient, used for both; or :class:`Directions`, which
            are returned unchanged.
        grad: the gradient, a tree of the same shapes.
        labels: the unit of each parameter, see ``numerics.units``.
        dtype: real dtype of the products and sums.
        steepest: whether the gradient replaces, at the same length, a unit's updates that do not descend.

    Returns:
        The directions; slopes [U]; a bool.

    Example:
        >>> uphill, grad = jnp.array([-1.0, 0.0]), jnp.array([2.0, 0.0])
        >>> directions, slopes, ascends = directions_of(uphill, grad, 0, jnp.float32, steepest=True)
        >>> directions.step.tolist(), slopes.tolist(), bool(ascends)
        ([1.0, 0.0], [2.0], True)
    """
    if isinstance(updates, Directions):
        return updates, unit_vdot(labels, grad, updates.search, dtype), jnp.zeros([], bool)
    slopes = unit_vdot(labels, grad, updates, dtype)
    if not steepest:
        return Directions(updates, updates), slopes, jnp.zeros([], bool)
    ascends = slopes < 0
    squares = [unit_vdot(labels, tree, tree, dtype) for tree in (updates, grad)]
    # 1 / 1 where it is not needed, because a root of 0 has no derivative.
    length = jnp.sqrt(jnp.where(ascends, squares[0], 1) / jnp.where(ascends, squares[1], 1))
    length = jnp.where(ascends & jnp.isfinite(length), length, 0)  # squares may overflow
    replacement = unit_scale(labels, length, grad)
    rest = unit_scale(labels, jnp.where(ascends, 0, jnp.ones([], dtype)), updates)
    direction = jax.tree.map(jnp.add, replacement, rest)
    return (
        Directions(direction, direction),
        jnp.where(ascends, length * squares[1], slopes),
        jnp.any(ascends),
    )


def moves(labels: Any, sizes: Directions, directions: Directions, params: Any) -> Any:
    """The updates for given step sizes of each unit along both directions, in the parameters' dtype.

    Args:
        labels: the unit of each parameter, see ``numerics.units``.
        sizes: step sizes [U] along each direction.
        directions: trees with the sign of the gradient.
        params: a tree of the same shapes, which gives the dtypes.

    Example:
        >>> along = Directions(search=jnp.array([1.0]), step=jnp.array([10.0]))
        >>> moves(0, Directions(jnp.array([0.5]), jnp.array([0.25])), along, jnp.zeros(1)).tolist()
        [-3.0]
    """
    search, step = (unit_scale(labels, *pair) for pair in zip(sizes, directions, strict=True))
    return jax.tree.map(lambda p, s, d: (-(s + d)).astype(p.dtype), params, search, step)
