"""Recipes: the shapes of whole runs, in one call."""

import itertools
from collections.abc import Callable

import jax

from optimiz import checks
from optimiz.schedules.shapes import Shape, as_chain, constant, cosine, linear, warm_up


def warmup_constant(peak: float, warmup: float = 0.02, *, start: float = 0.0) -> Shape:
    """Shape: linear warm-up, then the peak.

    Args:
        peak: the value from x = w on, at least 0.
        warmup: w in [0, 1), the fraction of the run that warms up.
        start: the value at x = 0 as a *fraction of the peak*, in [0, 1].

    Raises:
        TypeError: an argument is not a number.
        ValueError: one is outside its domain.

    Example:
        >>> shape = warmup_constant(1.0, warmup=0.5)
        >>> [float(shape(x)) for x in (0.25, 0.75)]
        [0.5, 1.0]
    """
    checks.number("warmup", warmup, ge=0, lt=1)
    return warm_up(constant(peak), warmup, start=start)


def warmup_linear(peak: float, warmup: float = 0.02, floor: float = 0.0, *, start: float = 0.0) -> Shape:
    """Shape: linear warm-up, then straight to a fraction of the peak.

    Args:
        peak: the value at x = w, at least 0.
        warmup: w in [0, 1), the fraction of the run that warms up.
        floor: the value at x = 1 as a *fraction of the peak*, in [0, 1].
        start: the value at x = 0 as a *fraction of the peak*, in [0, 1].

    Raises:
        TypeError: an argument is not a number.
        ValueError: one is outside its domain.

    Example:
        >>> shape = warmup_linear(1.0, warmup=0.5)
        >>> [float(shape(x)) for x in (0.25, 0.75)]
        [0.5, 0.5]
    """
    checks.number("peak", peak, ge=0)
    checks.number("warmup", warmup, ge=0, lt=1)
    checks.number("floor", floor, ge=0, le=1)
    return warm_up(linear(peak, floor=floor), warmup, start=start)


def warmup_cosine(peak: float, warmup: float = 0.02, floor: float = 0.1, *, start: float = 0.0) -> Shape:
    """Shape: linear warm-up, then half a cosine to a fraction of the peak.

    Args:
        peak: the value at x = w, at least 0.
        warmup: w in [0, 1), the fraction of the run that warms up.
        floor: the value at x = 1 as a *fraction of the peak*, in [0, 1].
        start: the value at x = 0 as a *fraction of the peak*, in [0, 1].

    Raises:
        TypeError: an argument is not a number.
        ValueError: one is outside its domain.

    Example:
        >>> shape = warmup_cosine(1.0, warmup=0.5, floor=0.5)
        >>> [float(shape(x)) for x in (0.25, 0.75)]  # half way from 0 to 1, and from 1 to 0.5
        [0.5, 0.75]
    """
    checks.number("warmup", warmup, ge=0, lt=1)
    return warm_up(cosine(peak, floor), warmup, start=start)


def wsd(
    peak: float,
    warmup: float = 0.02,
    decay: float = 0.2,
    floor: float = 0.1,
    *,
    cooldown: Callable[[jax.Array], jax.typing.ArrayLike] = linear(1.0),
    start: float = 0.0,
) -> Shape:
    r"""Shape: linear warm-up, a constant peak, then a decay (warm-up, stable, decay).

    .. math:: \eta = \eta_\text{max} (f + (1 - f)\, k(u)) \quad\text{over the decay},\; u \in [0, 1]

    Args:
        peak: the value while stable, at least 0.
        warmup: the fraction of the run that warms up, in [0, 1).
        decay: the fraction of the run that decays, in (0, 1].
        floor: f in [0, 1], the value where k is 0, as a *fraction of the peak*.
        cooldown: k, a shape that starts at 1: ``linear(1.0)``, ``cosine(1.0)``, ``one_minus_sqrt(1.0)``,
            ``exponential(1.0, floor)`` or any other.
        start: the value at x = 0 as a *fraction of the peak*, in [0, 1]; that of Hugging Face's
            ``get_wsd_schedule`` is its floor, ``min_lr_ratio``.

    Raises:
        TypeError: ``cooldown`` is not callable, or another argument is not a number.
        ValueError: one is outside its domain, or warm-up and decay together are longer than the run.

    Example:
        >>> shape = wsd(1.0, warmup=0.25, decay=0.5, floor=0.5)
        >>> [float(shape(x)) for x in (0.125, 0.25, 0.5, 0.75, 1.0)]
        [0.5, 1.0, 1.0, 0.75, 0.5]

    Source:
        arXiv 2404.06395 (MiniCPM).
    """
    checks.number("peak", peak, ge=0)
    checks.number("warmup", warmup, ge=0, lt=1)
    checks.number("decay", decay, gt=0, le=1)
    checks.number("floor", floor, ge=0, le=1)
    checks.number("start", start, ge=0, le=1)
    if warmup + decay > 1:
        raise ValueError(f"warmup and decay must be at most 1 together, got {warmup} and {decay}")
    stable_end = max(warmup, 1 - decay)  # equal, up to rounding, if nothing is stable
    ramp, stable = linear(start * peak, end=peak), constant(peak)
    return Shape((0.0, warmup, stable_end), (ramp, stable, _along("cooldown", cooldown, peak, floor * peak)))


def one_cycle(
    peak: float,
    warmup: float = 0.3,
    back: float | None = None,
    *,
    start: float = 1 / 25,
    floor: float = 1 / 250_000,
    anneal: Callable[[jax.Array], jax.typing.ArrayLike] = cosine(1.0),
) -> Shape:
    """Shape: from a fraction of the peak up to the peak, and down to a much smaller fraction.

    The default is ``optax.cosine_onecycle_schedule``'s; ``back=0.85, anneal=linear(1.0)`` is
    ``optax.linear_onecycle_schedule``'s. Optax rounds the breaks between phases down to whole steps,
    :func:`over_steps` to the nearest.

    Args:
        peak: the largest value, at least 0.
        warmup: progress at which the peak is reached, in (0, 1).
        back: progress at which the value is back at its start, in (warmup, 1), before it goes on to the floor;
            None to go straight from the peak to the floor.
        start: the value at x = 0 as a *fraction of the peak*, in [0, 1].
        floor: the value at x = 1 as a *fraction of the peak*, in [0, 1].
        anneal: shape from 1 to 0 of the way from one value to the next: ``cosine(1.0)``,
            ``linear(1.0)`` or any other.

    Raises:
        TypeError: ``anneal`` is not callable, or another argument is not a number.
        ValueError: one is outside its domain.

    Example:
        >>> shape = one_cycle(1.0, 0.25, 0.5, start=0.5, floor=0.0, anneal=linear(1.0))
        >>> [float(shape(x)) for x in (0.0, 0.25, 0.5, 0.75, 1.0)]
        [0.5, 1.0, 0.5, 0.25, 0.0]

    Source:
        arXiv 1708.07120 (Super-Convergence).
    """
    checks.number("peak", peak, ge=0)
    checks.number("warmup", warmup, gt=0, lt=1)
    checks.number("start", start, ge=0, le=1)
    checks.number("floor", floor, ge=0, le=1)
    turns = {0.0: start * peak, warmup: peak}
    if back is not None:
        checks.number("back", back, gt=warmup, lt=1)
        turns[back] = start * peak
    values = [*turns.values(), floor * peak]
    return Shape(tuple(turns), tuple(_along("anneal", anneal, a, b) for a, b in itertools.pairwise(values)))


def _along(
    name: str, k: Callable[[jax.Array], jax.typing.ArrayLike], start: float, end: float
) -> Callable[[jax.Array], jax.Array]:
    """The piece with the value ``start`` where k is 1 and ``end`` where k is 0."""
    k = as_chain(name, k)
    return lambda u: start * k(u) + end * (1 - k(u))
