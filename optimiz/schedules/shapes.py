r"""Shapes: functions from the progress of a run, x in [0, 1], to a value.

A shape is a chain of pieces, each a function of its own progress u. Over T steps the breaks x_i between pieces
are rounded to whole steps b_i, the nearest to x_i T, and u is computed from integer differences,

.. math:: \eta(c) = f_i(u), \qquad u = (c - b_i) / (b_{i+1} - b_i), \qquad b_i \le c < b_{i+1},

so that a boundary is met exactly for every T, where c / T in float32 would miss it by a step.
"""

import dataclasses
import itertools
import operator
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp

from optimiz import checks


@dataclasses.dataclass(frozen=True)
class Shape(checks.OfProgress):
    """A chain of pieces over [0, 1]; call it with a progress for its value there.

    It is not a schedule, and refuses to be called with a count; ``over_steps`` makes it one.

    Attributes:
        starts: where each piece starts, ascending from 0; the last one ends at 1.
        pieces: functions from a piece's own progress u in [0, 1] to the value.
    """

    starts: tuple[float, ...]
    pieces: tuple[Callable[[jax.Array], jax.typing.ArrayLike], ...]

    def __call__(self, progress: jax.typing.ArrayLike) -> jax.Array:
        """Return the value at a progress; outside [0, 1], the value at the nearer end.

        Raises:
            TypeError: ``progress`` is an integer array, or an integer other than 0 and 1: a count.
        """
        is_end = isinstance(progress, int) and progress in (0, 1)
        if jnp.issubdtype(jnp.asarray(progress).dtype, jnp.integer) and not is_end:
            raise TypeError(
                "a shape is a function of the progress of a run, a float in [0, 1], and was called with an "
                f"integer, as a schedule is with a count; bind it: {checks.BINDING}"
            )
        x = jnp.clip(jnp.asarray(progress, jnp.result_type(float)), 0, 1)
        return evaluate(self.pieces, x, (*self.starts, 1.0))


def evaluate(
    pieces: Sequence[Callable[[jax.Array], jax.typing.ArrayLike]],
    position: jax.Array,
    breaks: Sequence[float],
) -> jax.Array:
    """Value at a position, in whatever unit the breaks (each piece's start, and the end) are."""
    dtype = jnp.result_type(float)

    def inside(piece, start, end):
        done, length = (position - start).astype(dtype), end - start
        # Compared explicitly: XLA may multiply by the reciprocal, and 41 * (1 / 41) < 1 in float32; nor is 1
        # minus the float32 nearest to x always the one nearest to 1 - x.
        over = (position >= end) | (done >= length)
        u = jnp.where(over, 1, jnp.maximum(done, 0) / (length or 1))
        return jnp.asarray(piece(u), dtype)

    first, *later = zip(pieces, breaks[:-1], breaks[1:], strict=True)
    value = inside(*first)
    for piece, start, end in later:
        value = jnp.where(position >= start, inside(piece, start, end), value)
    return value


def as_chain(name: str, shape: Callable[[jax.Array], jax.typing.ArrayLike]) -> Shape:
    """The argument of that name as a chain: a plain function is a chain of one piece."""
    checks.uncalled(name, shape)
    if isinstance(shape, checks.OfCount) or str(getattr(shape, "__module__", "")).startswith("optax."):
        raise TypeError(
            f"{name} must be a function of the progress x, got a schedule, a function of the update count"
        )
    if not callable(shape):
        raise TypeError(f"{name} must be a function of the progress x, got {shape!r}")
    return shape if isinstance(shape, Shape) else Shape((0.0,), (shape,))


def constant(peak: float) -> Shape:
    """Shape: constant at the peak.

    Args:
        peak: the value, at least 0.

    Raises:
        TypeError: ``peak`` is not a number.
        ValueError: it is NaN, infinite or negative.

    Example:
        >>> float(constant(0.5)(0.25))
        0.5
    """
    checks.number("peak", peak, ge=0)
    return Shape((0.0,), (lambda u: jnp.full_like(u, peak),))


def linear(peak: float, end: float | None = None, *, floor: float | None = None) -> Shape:
    """Shape: linear from the peak to the end value.

    Args:
        peak: the value at x = 0, at least 0.
        end: the value at x = 1, at least 0, in the unit of ``peak``, which it may exceed; None for 0.
        floor: the value at x = 1 as a *fraction of the peak*, in [0, 1], instead of ``end``.

    Raises:
        TypeError: an argument is not a number.
        ValueError: one is outside its domain, or ``end`` and ``floor`` are both given.

    Example:
        >>> float(linear(2.0, end=1.0)(0.5)), float(linear(2.0, floor=0.5)(0.5))
        (1.5, 1.5)
    """
    checks.number("peak", peak, ge=0)
    if floor is not None:
        checks.number("floor", floor, ge=0, le=1)
    value = checks.either("end", end, "floor", None if floor is None else floor * peak)
    last = 0.0 if value is None else value
    checks.number("end", last, ge=0)
    return Shape((0.0,), (lambda u: peak * (1 - u) + last * u,))


def cosine(peak: float, floor: float = 0.0) -> Shape:
    """Shape: half a cosine from the peak to a fraction of it.

    Args:
        peak: the value at x = 0, at least 0.
        floor: the value at x = 1 as a *fraction of the peak*, in [0, 1].

    Raises:
        TypeError: an argument is not a number.
        ValueError: one is outside its domain.

    Example:
        >>> float(cosine(2.0, floor=0.5)(0.5))  # half way between 2 and 1
        1.5

    Source:
        arXiv 1608.03983 (SGDR), without restarts.
    """
    checks.number("peak", peak, ge=0)
    checks.number("floor", floor, ge=0, le=1)
    return Shape((0.0,), (lambda u: peak * (floor + (1 - floor) * (1 + jnp.cos(jnp.pi * u)) / 2),))


def exponential(peak: float, floor: float) -> Shape:
    """Shape: from the peak to a fraction of it, by the same factor at every step.

    A factor r per k of T steps is ``floor=r ** (T / k)``, and a half-life of h steps ``floor=0.5 ** (T / h)``.

    Args:
        peak: the value at x = 0, at least 0.
        floor: the value at x = 1 as a *fraction of the peak*, in (0, 1].

    Raises:
        TypeError: an argument is not a number.
        ValueError: one is outside its domain.

    Example:
        >>> float(exponential(1.0, floor=0.25)(0.5))
        0.5
    """
    checks.number("peak", peak, ge=0)
    checks.number("floor", floor, gt=0, le=1)
    return Shape((0.0,), (lambda u: peak * floor**u,))


def one_minus_sqrt(peak: float) -> Shape:
    """Shape: peak (1 - √x), steep at first; the cooldown of runs with a constant rate.

    Args:
        peak: the value at x = 0, at least 0.

    Raises:
        TypeError: ``peak`` is not a number.
        ValueError: it is NaN, infinite or negative.

    Example:
        >>> float(one_minus_sqrt(1.0)(0.25))
        0.5

    Source:
        arXiv 2405.18392.
    """
    checks.number("peak", peak, ge=0)
    return Shape((0.0,), (lambda u: peak * (1 - jnp.sqrt(u)),))


def inverse_sqrt(peak: float, warmup: float, *, start: float = 0.0) -> Shape:
    """Shape: linear warm-up to the peak at x = w, then peak √(w / x).

    The Transformer's own schedule, for width d and W of T steps of warm-up, is
    ``over_steps(inverse_sqrt((d * W) ** -0.5, W / T), T, shifted=True)``.

    Args:
        peak: the value at x = w, at least 0.
        warmup: w in (0, 1), the fraction of the run that warms up.
        start: the value at x = 0 as a *fraction of the peak*, in [0, 1].

    Raises:
        TypeError: an argument is not a number.
        ValueError: one is outside its domain.

    Example:
        >>> float(inverse_sqrt(1.0, warmup=0.25)(1.0))  # √(1 / 4)
        0.5

    Source:
        arXiv 1706.03762 (Transformer), with the peak as the argument.
    """
    checks.number("peak", peak, ge=0)
    checks.number("warmup", warmup, gt=0, lt=1)
    decay = Shape((0.0,), (lambda u: peak * jnp.sqrt(warmup / (warmup + (1 - warmup) * u)),))
    return warm_up(decay, warmup, start=start)


def step(peak: float, factors: Mapping[float, float]) -> Shape:
    """Shape: the peak times the factors whose boundaries have been reached.

    Args:
        peak: the value at x = 0, at least 0.
        factors: factor, at least 0, by boundary in (0, 1), ascending. A factor is in force at its
            boundary.

    Raises:
        TypeError: ``peak``, a boundary or a factor is not a number.
        ValueError: one is outside its domain, or the boundaries do not ascend.

    Example:
        >>> drop = step(1.0, {0.5: 0.5, 0.75: 0.5})
        >>> [float(drop(x)) for x in (0.25, 0.5, 0.75)]
        [1.0, 0.5, 0.25]
    """
    checks.number("peak", peak, ge=0)
    for boundary, factor in factors.items():
        checks.number("each boundary of factors", boundary, gt=0, lt=1)
        checks.number(f"the factor at {boundary}", factor, ge=0)
    if list(factors) != sorted(factors):
        raise ValueError(f"the boundaries of factors must ascend, got {list(factors)}")
    values = itertools.accumulate(factors.values(), operator.mul, initial=peak)
    return Shape((0.0, *factors), tuple(constant(value).pieces[0] for value in values))


def warm_up(
    shape: Callable[[jax.Array], jax.typing.ArrayLike], fraction: float, *, start: float = 0.0
) -> Shape:
    """Shape: linear warm-up to a shape's first value, then the shape over the rest of the run.

    Args:
        shape: any shape.
        fraction: fraction of the run that warms up, in [0, 1).
        start: the value at x = 0 as a *fraction of the shape's first*, in [0, 1]; the ``start_factor`` of
            PyTorch's ``LinearLR``, which is 1/3 there.

    Raises:
        TypeError: ``shape`` is not callable, or another argument is not a number.
        ValueError: one is outside its domain.

    Example:
        >>> shape = warm_up(linear(1.0), 0.5)
        >>> [float(shape(x)) for x in (0.0, 0.25, 0.5, 0.75)]
        [0.0, 0.5, 1.0, 0.5]
        >>> [float(warm_up(linear(1.0), 0.5, start=0.5)(x)) for x in (0.0, 0.25, 0.5)]
        [0.5, 0.75, 1.0]
    """
    shape = as_chain("shape", shape)
    checks.number("fraction", fraction, ge=0, lt=1)
    checks.number("start", start, ge=0, le=1)
    starts = (fraction + (1 - fraction) * piece for piece in shape.starts)
    return Shape(
        (0.0, *starts), (lambda u: (start + (1 - start) * u) * shape(jnp.zeros_like(u)), *shape.pieces)
    )
