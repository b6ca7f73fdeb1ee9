"""How many seeds a comparison needs, and whether it may be stopped as soon as it is decided.

The paired differences d of two methods, one per seed, are taken as normal, with mean μ and standard deviation
σ. Student's t test of n of them has the power

    P(|T| > t),   T = (Z + √n μ/σ) / S,   Z ~ N(0, 1),   S² ~ χ²(n - 1) / (n - 1),

where t is the test's bound. σ is known from the same few seeds only, and so is every number of seeds here.

Whoever looks after each seed, and stops at the first interval without zero, is wrong far more often than a
single interval says. :func:`sequential_difference` has an interval that contains μ at all n at once.
"""

import math
from collections.abc import Sequence

import numpy as np

from optimiz import checks
from optimiz.compare.statistics import Difference, check_pairs, estimate, t_quantile

POWER = 0.8
MOST = 1_000
"""The largest number of seeds that is searched for."""

_POINTS = 1001  # of the integral over the standard deviation: an error below 1e-5
_EFFECT = 3.0  # standard deviation of μ/σ, in sequential_difference
_erf = np.vectorize(math.erf, otypes=[float])


def power(effect: float, n: int, *, confidence: float = 0.95) -> float:
    """The probability that n seeds tell a difference, so that its interval does not contain zero.

    Args:
        effect: the mean difference over its standard deviation from seed to seed, μ/σ, of any sign.
        n: number of seeds, ≥ 2.
        confidence: confidence of the interval, in (0, 1).

    Example:
        >>> round(power(0.0, 5), 3), round(power(2.0, 5), 2)
        (0.05, 0.91)

    Source:
        Student's t with noncentrality √n μ/σ; Cohen, Statistical Power Analysis, section 2.
    """
    checks.number("effect", effect)
    checks.integer("n", n, ge=2)
    deviation, weight = _deviation(n - 1)
    bound, shift = t_quantile(confidence, n - 1) * deviation, math.sqrt(n) * effect
    beyond = 1 - (_erf((bound - shift) / math.sqrt(2)) + _erf((bound + shift) / math.sqrt(2))) / 2
    return float(np.sum(weight * beyond))


def detectable(deviation: float, n: int, *, confidence: float = 0.95) -> float:
    """The smallest mean difference that n seeds tell with a power of 0.8.

    Args:
        deviation: standard deviation of the difference from seed to seed, σ ≥ 0.
        n: number of seeds, ≥ 2.
        confidence: confidence of the interval, in (0, 1).

    Example:
        >>> round(detectable(0.01, 5), 4), round(detectable(0.01, 20), 4)
        (0.0168, 0.0066)
    """
    checks.number("deviation", deviation, ge=0)
    low, high = 0.0, 1.0
    while power(high, n, confidence=confidence) < POWER:
        low, high = high, 2 * high
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if power(middle, n, confidence=confidence) < POWER else (low, middle)
    return high * deviation


def seeds_needed(difference: float, deviation: float, *, confidence: float = 0.95) -> int | None:
    """The number of seeds that tell a mean difference with a power of 0.8.

    Args:
        difference: mean difference to tell, of any sign.
        deviation: standard deviation of the difference from seed to seed, σ > 0.
        confidence: confidence of the interval, in (0, 1).

    Returns:
        The number, at least 2; None if a thousand are not enough.

    Example:
        >>> seeds_needed(0.01, 0.01), seeds_needed(0.005, 0.01), seeds_needed(0.0, 0.01)
        (10, 34, None)
    """
    checks.number("difference", difference)
    checks.number("deviation", deviation, gt=0)
    effect, low, high = difference / deviation, 1, 2
    while power(effect, high, confidence=confidence) < POWER:
        if high == MOST:
            return None
        low, high = high, min(2 * high, MOST)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if power(effect, middle, confidence=confidence) < POWER else (low, middle)
    return high


def deviation_factor(n: int, *, confidence: float = 0.9) -> float:
    """By how much a standard deviation may exceed the one that n values show.

    Args:
        n: number of values, ≥ 2.
        confidence: probability, in (0, 1), that it does not exceed it by more.

    Example:
        >>> round(deviation_factor(3), 2), round(deviation_factor(20), 2)
        (3.08, 1.28)
    """
    checks.integer("n", n, ge=2)
    checks.number("confidence", confidence, gt=0, lt=1)
    deviation, weight = _deviation(n - 1)
    below = np.cumsum(weight) - weight / 2
    return 1 / float(np.interp(1 - confidence, below, deviation))


def sequential_difference(
    first: Sequence[float], second: Sequence[float], *, confidence: float = 0.95
) -> Difference:
    """The mean of first - second over pairs, with an interval that holds after every pair at once.

    One may look after every seed, and stop when the interval excludes zero: with probability ``confidence`` the
    intervals of *all* n contain the mean difference. They are wider than Student's for that.

    With t = √n (d̄ - μ)/s, ν = n - 1, and the mixture μ/σ ~ N(0, g), g = 9, the Bayes factor

        e_n = (1 + n g)^-½ · [(1 + t²/ν) / (1 + t²/(ν (1 + n g)))]^(n/2)

    is a martingale of mean 1 under the true μ, whatever σ is, so that it ever reaches 1/α with a probability of
    at most α (Ville). The interval has the μ for which it is less.

    Args:
        first: n ≥ 1 scores, which may be infinite.
        second: n scores, for the same seeds in the same order.
        confidence: probability, in (0, 1), that no interval ever misses the mean difference.

    Returns:
        The mean and its interval; infinite if there are too few pairs for a finite one, or a score is infinite.

    Raises:
        ValueError: there is no pair, or the numbers of scores differ.

    Example:
        >>> first, second = [0.80, 0.82, 0.81, 0.83, 0.79], [0.70, 0.73, 0.70, 0.74, 0.69]
        >>> found = sequential_difference(first, second)
        >>> round(found.low, 3), round(found.high, 3)
        (0.078, 0.118)

    Source:
        Lai, Annals of Statistics 4 (1976); arXiv 2310.03722 (Wang and Ramdas), on t-tests with a Gaussian
        mixture; arXiv 2208.07610 (Pérez-Ortiz et al.), on stopping rules that depend on such t alone.
    """
    check_pairs(first, second, confidence)
    mean, n = estimate(first).mean - estimate(second).mean, len(first)
    if n == 1 or not math.isfinite(mean):
        return Difference(mean, -math.inf, math.inf, n)
    spread, nu = 1 + n * _EFFECT**2, n - 1
    ratio = math.exp((math.log(spread) - 2 * math.log1p(-confidence)) / n)  # of the bracket, at e_n = 1/α
    if ratio >= spread:  # no t is large enough
        return Difference(mean, -math.inf, math.inf, n)
    t = math.sqrt(nu * (ratio - 1) / (1 - ratio / spread))
    half = t * estimate([a - b for a, b in zip(first, second, strict=True)]).standard_error
    return Difference(mean, mean - half, mean + half, n)


def _deviation(degrees: int) -> tuple[np.ndarray, np.ndarray]:
    """The standard deviation that is found, over the true one: values [P], and their probabilities [P]."""
    reach = 9 / math.sqrt(degrees)
    root = np.linspace(math.sqrt(max(1 - reach, 0)), math.sqrt(1 + reach), _POINTS)  # dense near zero
    x = root**2
    # √ν S has the density of χ(ν), here up to a constant; its mode is at most 1.
    with np.errstate(divide="ignore"):
        logarithm = (degrees - 1) * np.log(x) if degrees > 1 else np.zeros_like(x)
    density = np.exp(logarithm - degrees * (x**2 - 1) / 2) * root
    density *= np.r_[1, np.tile([4, 2], _POINTS // 2)[:-1], 1]  # Simpson's rule
    return x, density / density.sum()
