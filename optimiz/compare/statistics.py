"""What a few seeds can tell: means, paired differences and their intervals, sensitivity, time to a target.

A run that diverged has the score -∞ and is never dropped: the mean of an arm with such a run is -∞, and so its
differences from other arms have infinite intervals.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from optimiz import checks


class Estimate(NamedTuple):
    """A mean over n values, and its standard error, which is NaN for one value or if a value is infinite."""

    mean: float
    standard_error: float
    n: int


class Difference(NamedTuple):
    """A mean difference over n pairs, and its confidence interval, which is infinite for one pair."""

    mean: float
    low: float
    high: float
    n: int

    @property
    def significant(self) -> bool:
        """Whether the interval excludes zero.

        An interval of width zero does not count: a few differences are equal to the last digit only by chance.
        """
        return self.low < self.high and (self.low > 0 or self.high < 0)


class Sensitivity(NamedTuple):
    """How much a method's level depends on its learning rate.

    Attributes:
        mean: mean of the levels over the grid.
        spread: standard deviation of the levels (n - 1); NaN for a single rate, or if one diverged.
        low: lowest rate of the range around the best one in which all levels are near the best; NaN if every
            rate diverged.
        high: highest rate of that range.
    """

    mean: float
    spread: float
    low: float
    high: float

    @property
    def factor(self) -> float:
        """The width of the range: its highest rate over its lowest; 1 if only the best rate is near."""
        return self.high / self.low


def estimate(values: Sequence[float]) -> Estimate:
    """The mean of values, and its standard error.

    Args:
        values: n ≥ 1 values, which may be infinite.

    Returns:
        Σ x / n, and the standard deviation (n - 1) over √n.

    Raises:
        ValueError: there are no values.

    Example:
        >>> estimate([1.0, 3.0])
        Estimate(mean=2.0, standard_error=1.0, n=2)
    """
    if not values:
        raise ValueError("values must have at least one number, got none")
    known = len(values) > 1 and all(map(math.isfinite, values))
    error = float(np.std(values, ddof=1)) / math.sqrt(len(values)) if known else math.nan
    return Estimate(float(np.mean(values)), error, len(values))


def paired_difference(
    first: Sequence[float], second: Sequence[float], *, confidence: float = 0.95
) -> Difference:
    """The mean of first - second over pairs, with Student's t interval.

    A pair consists of two runs from one seed, with the same initial parameters, batches and dropout. Effects
    that both runs share cancel in the difference.

    Args:
        first: n ≥ 1 scores, which may be infinite.
        second: n scores, for the same seeds in the same order.
        confidence: probability, in (0, 1), that the interval contains the mean difference over many seeds.

    Returns:
        The mean ± t(n - 1) times its standard error; infinite if n = 1 or a score is infinite.

    Raises:
        ValueError: there is no pair, or the numbers of scores differ.

    Example:
        >>> difference = paired_difference([0.8, 0.9], [0.7, 0.6])  # 0.2 ± 12.706 · 0.1
        >>> round(difference.low, 3), round(difference.high, 3), difference.significant
        (-1.071, 1.471, False)
    """
    check_pairs(first, second, confidence)
    mean, n = estimate(first).mean - estimate(second).mean, len(first)
    if n == 1 or not math.isfinite(mean):
        return Difference(mean, -math.inf, math.inf, n)
    error = estimate([a - b for a, b in zip(first, second, strict=True)]).standard_error
    half = t_quantile(confidence, n - 1) * error
    return Difference(mean, mean - half, mean + half, n)


def check_pairs(first: Sequence[float], second: Sequence[float], confidence: float) -> None:
    """Check the arguments of a paired difference.

    Raises:
        TypeError: the confidence is not a number.
        ValueError: the numbers of scores differ, or the confidence is outside (0, 1).
    """
    if len(first) != len(second):
        raise ValueError(f"first and second must have the same length, got {len(first)} and {len(second)}")
    checks.number("confidence", confidence, gt=0, lt=1)


def t_quantile(confidence: float, degrees: int) -> float:
    """The bound that the absolute value of Student's t does not exceed, with a given probability.

    Args:
        confidence: the probability, in (0, 1).
        degrees: degrees of freedom, ν ≥ 1.

    Returns:
        t > 0 with P(-t ≤ T ≤ t) = confidence.

    Raises:
        TypeError: an argument is not a number, or ``degrees`` is not an integer.
        ValueError: an argument is outside its domain.

    Example:
        >>> round(t_quantile(0.95, 1), 3), round(t_quantile(0.5, 1), 3)  # Cauchy's distribution: tan(π c / 2)
        (12.706, 1.0)

    Source:
        Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4.
    """
    checks.number("confidence", confidence, gt=0, lt=1)
    checks.integer("degrees", degrees, ge=1)
    low, high = 0.0, math.pi / 2  # of the angle, arctan(t / √ν), by bisection
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, degrees) < confidence else (low, middle)
    return math.sqrt(degrees) * math.tan(low)


def _within(angle: float, degrees: int) -> float:
    """P(|T| ≤ √ν tan(angle))."""
    term, total = (math.cos(angle) if degrees % 2 else 1.0), 0.0
    for k in range(degrees % 2, degrees - 1, 2):  # powers of the cosine, up to ν - 2
        total += term
        term *= (k + 1) / (k + 2) * math.cos(angle) ** 2
    total *= math.sin(angle)
    return 2 / math.pi * (angle + total) if degrees % 2 else total


def sensitivity(levels: Mapping[float, float], *, within: float) -> Sensitivity:
    """How a method's level depends on its learning rate, over a grid.

    Args:
        levels: learning rate > 0 → mean score; -∞ if a run diverged.
        within: distance from the best level that still counts as near, ≥ 0; 0.01 is a point of accuracy.

    Raises:
        ValueError: there is no rate, or one is not positive.

    Example:
        >>> measured = sensitivity({1e-3: 0.700, 1e-4: 0.795, 1e-5: 0.800}, within=0.01)
        >>> round(measured.mean, 3), round(measured.spread, 3), round(measured.factor)
        (0.765, 0.056, 10)
    """
    if not levels:
        raise ValueError("levels must have at least one rate, got none")
    checks.number("within", within, ge=0)
    for rate in levels:
        checks.number("each learning rate", rate, gt=0)
    rates = sorted(levels)
    scores = [levels[rate] for rate in rates]
    low = high = max(range(len(rates)), key=lambda i: scores[i])
    if scores[low] == -math.inf:
        return Sensitivity(-math.inf, math.nan, math.nan, math.nan)
    least = scores[low] - within
    while low > 0 and scores[low - 1] >= least:
        low -= 1
    while high < len(rates) - 1 and scores[high + 1] >= least:
        high += 1
    mean, error, n = estimate(scores)
    return Sensitivity(mean, error * math.sqrt(n), rates[low], rates[high])


def time_to_target(spent: Sequence[float], scores: Sequence[float], target: float) -> float:
    """The cost at which a score first reached a target; infinite if it never did.

    Args:
        spent: cost so far at each evaluation, ascending.
        scores: score of each evaluation; NaN does not reach the target.
        target: score to reach.

    Example:
        >>> time_to_target([1.0, 2.0, 3.0], [0.5, 0.7, 0.6], 0.6), time_to_target([1.0], [0.5], 0.6)
        (2.0, inf)
    """
    reached = (at for at, score in zip(spent, scores, strict=True) if score >= target)
    return next(reached, math.inf)
