"""Grids of learning rates and other axes: what is best, whether it is at an edge, and how a grid goes on.

A point of a grid has a learning rate and a value on each other axis, such as weight decay. Its level is the
mean validation score over seeds, so that more is better; it is -∞ if a run diverged, which is worse than any
other. A grid of several axes goes on along one of them at a time, through its best point.
"""

import math
from collections.abc import Collection, Mapping
from typing import Any, TypeVar

Point = tuple[float | None, ...]
"""A learning rate, None if the optimizer finds it, and the values on the other axes."""

_Rate = TypeVar("_Rate")


def best_rate(levels: Mapping[_Rate, float]) -> _Rate:
    """The rate with the highest level; among equals, the middle one, or the lower of two.

    Args:
        levels: learning rate → level, in ascending order of the rate; at least one.

    Example:
        >>> best_rate({0.01: 0.5, 0.1: 0.7, 1.0: 0.6}), best_rate({0.01: 1.0, 0.1: 1.0, 1.0: 1.0})
        (0.1, 0.1)
    """
    highest = max(levels.values())
    equal = [rate for rate, level in levels.items() if level == highest]
    return equal[(len(equal) - 1) // 2]


def at_edge(best: float, grid: Collection[float]) -> bool:
    """Whether the best of several values is the lowest or the highest, so that one beyond may be better.

    Args:
        best: best value of the grid.
        grid: all values that were tried; a single one is not at an edge, nor is 0, below which there is none.

    Example:
        >>> at_edge(0.1, [0.01, 0.1]), at_edge(0.1, [0.01, 0.1, 1.0]), at_edge(0.1, [0.1])
        (True, False, False)
    """
    return len(set(grid)) > 1 and best != 0 and best in (min(grid), max(grid))


def line(levels: Mapping[Point, float], through: Point, axis: int) -> dict[Any, float]:
    """The levels along one axis through a point, by the value on it, in ascending order.

    Args:
        levels: point → level.
        through: the point.
        axis: index of the axis.

    Example:
        >>> line({(0.1, 0.0): 1.0, (0.3, 0.0): 2.0, (0.3, 0.5): 3.0}, (0.3, 0.0), axis=1)
        {0.0: 2.0, 0.5: 3.0}
    """
    found = {
        point[axis]: level for point, level in levels.items() if moved(point, axis, through[axis]) == through
    }
    return {value: found[value] for value in sorted(found, key=lambda value: value or 0.0)}


def moved(point: Point, axis: int, value: float | None) -> Point:
    """The point with another value on one axis."""
    return (*point[:axis], value, *point[axis + 1 :])


def best_point(levels: Mapping[Point, float]) -> Point:
    """The point with the highest level; among equals, the middle one in the order of their values."""
    return best_rate({point: levels[point] for point in sorted(levels, key=_order)})


def _order(point: Point) -> tuple[float, ...]:
    return tuple(value or 0.0 for value in point)


def next_point(levels: Mapping[Point, float], axes: Collection[int]) -> tuple[Point, int] | None:
    """The point by which a grid goes on, and its axis.

    That is, on the first axis where there is one: a point next to the best one, at a value that was tried with
    other points only; or one beyond the best one, if that is at the edge. An axis with a single value is fixed.

    Args:
        levels: point → level; at least one.
        axes: indices of the axes along which it may go on.

    Returns:
        The point and the axis; None if the best point is inside on every axis.

    Example:
        >>> next_point({(0.1, 0.0): 0.5, (0.3, 0.0): 0.7, (0.9, 0.0): 0.6, (0.1, 0.1): 0.4}, [0, 1])
        ((0.3, 0.1), 1)
    """
    best = best_point(levels)
    for axis in axes:
        values: list[Any] = sorted({value for point in levels if (value := point[axis]) is not None})
        if len(values) < 2:
            continue
        own, at = line(levels, best, axis), values.index(best[axis])
        beside = [*values[max(at - 1, 0) : at], *values[at + 1 : at + 2]] if math.isfinite(levels[best]) else []
        value = next((value for value in beside if value not in own), None)
        value = next_rate(own) if value is None else value
        if value is not None:
            return moved(best, axis, value), axis
    return None


def next_rate(levels: Mapping[float, float]) -> float | None:
    """The rate, or value on another axis, by which a grid goes on beyond its best one, if that is at an edge.

    The grid goes on by the factor between the two rates at this edge, or by 2 if one of them is 0. The rate is
    rounded to three digits, unless the factor is too small for that. Where every rate diverged, the grid goes
    on downwards.

    Args:
        levels: learning rate ≥ 0 → level.

    Returns:
        The rate; None if the best rate is inside the grid or 0, there is a single rate, or no number is left
        beyond.

    Example:
        >>> next_rate({0.01: 0.5, 0.1: 0.7}), next_rate({0.01: 0.7, 0.1: 0.5})
        (1.0, 0.001)
        >>> next_rate({0.01: 0.5, 0.1: 0.7, 1.0: float("-inf")})  # the best one is inside
    """
    rates = sorted(levels)
    if len(rates) < 2:
        return None
    best = best_rate({rate: levels[rate] for rate in rates})
    if best == rates[0] or levels[best] == -math.inf:
        edge, inner = rates[0], rates[1]
    elif best == rates[-1]:
        edge, inner = rates[-1], rates[-2]
    else:
        return None
    factor = edge / inner if inner else 2.0
    beyond = edge * factor
    if not 0 < beyond < math.inf:
        return None
    rounded = float(f"{beyond:.3g}")
    close = 0 < rounded < math.inf and abs(math.log(rounded / beyond)) < abs(math.log(factor)) / 10
    return rounded if close else beyond
