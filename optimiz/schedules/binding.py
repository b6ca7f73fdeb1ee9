"""Binding a shape to steps, which makes it a schedule."""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from optimiz import checks
from optimiz.schedules.shapes import Shape, as_chain, evaluate


def over_steps(
    shape: Callable[[jax.Array], jax.typing.ArrayLike], steps: int, *, shifted: bool = False
) -> optax.Schedule:
    """Bind a shape to a number of steps: an Optax schedule.

    Args:
        shape: a shape, or any function of x in [0, 1] made of ``jax.numpy`` operations.
        steps: T >= 1, the updates of the whole run, warm-up included.
        shifted: read the shape one step ahead: T steps apply η(1) … η(T), so that no update is lost to a
            warm-up from 0, and the last one gets the end value.

    Returns:
        A function from the 0-based update count to the value: float32 (float64 under
        ``jax_enable_x64``), shape ().

    Raises:
        TypeError: ``shape`` is not callable, or ``steps`` is not an integer.
        ValueError: ``steps`` is outside [1, 2^31 - 1], or the shape's value is not a scalar.

    Example:
        >>> from optimiz.schedules import linear, warm_up
        >>> learning_rate = over_steps(warm_up(linear(1.0), 0.5), 8)
        >>> [float(learning_rate(count)) for count in (0, 3, 4, 7, 8, 100)]
        [0.0, 0.75, 1.0, 0.25, 0.0, 0.0]
    """
    chain = as_chain("shape", shape)
    checks.integer("steps", steps, ge=1)
    value = jax.eval_shape(chain, 0.0)
    if value.shape != ():
        raise ValueError(f"shape must return a scalar, got an array of shape {value.shape}")
    breaks = (*(math.floor(start * steps + 0.5) for start in chain.starts), int(steps))
    return _OverSteps(chain, breaks, shifted)


@dataclasses.dataclass(frozen=True)
class _OverSteps:
    """A chain of pieces whose breaks are counts; the last one is the end of the run."""

    chain: Shape
    breaks: tuple[int, ...]
    shifted: bool

    def __call__(self, count: jax.typing.ArrayLike) -> jax.Array:
        position = jnp.asarray(count)
        if self.shifted:
            position = jnp.minimum(position, self.breaks[-1] - 1) + 1  # in this order, for the largest int32
        return evaluate(self.chain.pieces, position, self.breaks)


def peak(schedule: optax.ScalarOrSchedule) -> jax.typing.ArrayLike:
    """The largest value of a schedule, over all of its steps.

    Args:
        schedule: made by :func:`over_steps`; or a number, which is its own peak.

    Raises:
        ValueError: it is another function, which does not say where it ends.

    Example:
        >>> from optimiz.schedules import linear, warm_up
        >>> float(peak(over_steps(warm_up(linear(0.5), 0.1), 100)))
        0.5
    """
    if not callable(schedule):
        return schedule
    if not isinstance(schedule, _OverSteps):
        raise ValueError("the peak of a schedule is known where optimiz.schedules.over_steps made it")
    return jnp.max(jax.vmap(schedule)(jnp.arange(schedule.breaks[-1] + 1)))
