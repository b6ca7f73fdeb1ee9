"""Grids of learning rates: which rate is best, whether it is at an edge, and by which rate a grid goes on.

The level of a rate is the mean validation score over seeds, so that more is better; it is -∞ if a run diverged,
which is worse than any other.
"""

import math
from collections.abc import Collection, Mapping
from typing import TypeVar

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
    """Whether the best of several rates is the lowest or the highest, so that a rate beyond may be better.

    Args:
        best: best rate of the grid.
        grid: all rates that were tried; a single rate is not at an edge.

    Example:
        >>> at_edge(0.1, [0.01, 0.1]), at_edge(0.1, [0.01, 0.1, 1.0]), at_edge(0.1, [0.1])
        (True, False, False)
    """
    return len(grid) > 1 and best in (min(grid), max(grid))


def next_rate(levels: Mapping[float, float]) -> float | None:
    """The rate by which a grid goes on beyond its best rate, if that is at an edge.

    The grid goes on by the factor between the two rates at this edge. The rate is rounded to three digits,
    unless the factor is too small for that. Where every rate diverged, the grid goes on downwards.

    Args:
        levels: learning rate > 0 → level.

    Returns:
        The rate; None if the best rate is inside the grid, there is a single rate, or no number is left beyond.

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
    beyond = edge * (edge / inner)
    if not 0 < beyond < math.inf:
        return None
    rounded = float(f"{beyond:.3g}")
    close = 0 < rounded < math.inf and abs(math.log(rounded / beyond)) < abs(math.log(edge / inner)) / 10
    return rounded if close else beyond
