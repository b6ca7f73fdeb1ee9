"""Binding a shape to steps or to a budget, which makes it a schedule."""

import contextlib
import contextvars
import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator

import jax
import jax.numpy as jnp
import optax

from optimiz import checks
from optimiz.schedules.shapes import Shape, as_chain, evaluate

_FRACTION: contextvars.ContextVar[jax.typing.ArrayLike] = contextvars.ContextVar("fraction of the budget spent")
_CALLED: contextvars.ContextVar["list[_OverSteps] | None"] = contextvars.ContextVar("called", default=None)
_MADE: contextvars.ContextVar["list[_OverSteps] | None"] = contextvars.ContextVar("made", default=None)

_GRID = 10_000  # grid on which the peak over a budget is searched, since a budget has no steps


def over_steps(
    shape: Callable[[jax.Array], jax.typing.ArrayLike], steps: int, *, shifted: bool = False
) -> optax.Schedule:
    """Bind a shape to a number of steps: an Optax schedule.

    Args:
        shape: a shape, or any function of x in [0, 1] that consists of ``jax.numpy`` operations.
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
    chain = _scalar_chain(shape)
    checks.integer("steps", steps, ge=1)
    breaks = (*(math.floor(start * steps + 0.5) for start in chain.starts), int(steps))
    schedule = _OverSteps(chain, breaks, shifted)
    made = _MADE.get()
    if made is not None:
        made.append(schedule)
    return schedule


@dataclasses.dataclass(frozen=True)
class _OverSteps(checks.OfCount):
    """A chain of pieces whose breaks are counts, the last of which is the end of the run."""

    chain: Shape
    breaks: tuple[int, ...]
    shifted: bool

    def __call__(self, count: jax.typing.ArrayLike) -> jax.Array:
        called = _CALLED.get()
        if called is not None and self not in called:
            called.append(self)
        position = jnp.asarray(count)
        if self.shifted:
            position = jnp.minimum(position, self.breaks[-1] - 1) + 1  # in this order, for the largest int32
        return evaluate(self.chain.pieces, position, self.breaks)

    def values(self) -> jax.Array:
        return jax.vmap(self)(jnp.arange(self.breaks[-1] + 1))


def over_budget(shape: Callable[[jax.Array], jax.typing.ArrayLike]) -> optax.Schedule:
    """Bind a shape to a budget: an Optax schedule of the fraction of it that is spent, whatever the count.

    The fraction is set by the innermost :func:`spending` around ``init`` and ``update``, which
    ``optimiz.training.fit`` does if its settings have a budget. Before the first update it is 0; once the
    budget is spent, the value is exactly the shape's end value.

    Args:
        shape: a shape, or any function of x in [0, 1] that consists of ``jax.numpy`` operations.

    Returns:
        A function from the update count, which it ignores, to the value: float32 (float64 under
        ``jax_enable_x64``), shape (). It raises a ValueError where no budget is being spent.

    Raises:
        TypeError: ``shape`` is not callable.
        ValueError: the shape's value is not a scalar.

    Example:
        >>> from optimiz.schedules import linear
        >>> learning_rate = over_budget(linear(1.0))
        >>> with spending(0.25):
        ...     float(learning_rate(7))
        0.75

    Source:
        arXiv 2307.06440, section 2.1: every method decays fully, exactly at the budget.
    """
    return _OverBudget(_scalar_chain(shape))


@dataclasses.dataclass(frozen=True)
class _OverBudget(checks.OfCount):
    """A chain of pieces whose progress is the fraction of the budget set by :func:`spending`."""

    chain: Shape

    def __call__(self, count: jax.typing.ArrayLike) -> jax.Array:
        del count
        fraction = _FRACTION.get(None)
        if fraction is None:
            raise ValueError(
                "a schedule made by over_budget reads what fraction of a budget is spent, and there is no "
                "budget here: give training.Settings a budget, or call init and update inside "
                "optimiz.schedules.spending(fraction)"
            )
        return self.chain(fraction)

    def values(self) -> jax.Array:
        fractions = jnp.concatenate([jnp.linspace(0, 1, _GRID + 1), jnp.asarray(self.chain.starts)])
        return jax.vmap(self.chain)(fractions)


@contextlib.contextmanager
def called() -> Iterator[list["_OverSteps"]]:
    """Collect the schedules made by :func:`over_steps` that are called in the body.

    Yields:
        The list of schedules, each once. A function that was traced before does not call them again.

    Example:
        >>> from optimiz.schedules import linear
        >>> tx = optax.sgd(over_steps(linear(1.0), 8))
        >>> with called() as schedules:
        ...     _ = tx.update(jnp.ones(1), tx.init(jnp.zeros(1)))
        >>> zero_from(schedules)
        8
    """
    with _collected(_CALLED) as schedules:
        yield schedules


@contextlib.contextmanager
def made() -> Iterator[list["_OverSteps"]]:
    """Collect the schedules that :func:`over_steps` makes in the body.

    Example:
        >>> from optimiz.schedules import linear
        >>> with made() as schedules:
        ...     tx = optax.sgd(over_steps(linear(1.0), 8))
        >>> len(schedules)
        1
    """
    with _collected(_MADE) as schedules:
        yield schedules


@contextlib.contextmanager
def _collected(
    variable: contextvars.ContextVar["list[_OverSteps] | None"],
) -> Iterator[list["_OverSteps"]]:
    schedules: list[_OverSteps] = []
    token = variable.set(schedules)
    try:
        yield schedules
    finally:
        variable.reset(token)


def zero_from(schedules: Iterable["_OverSteps"], known: Iterable["_OverSteps"] = ()) -> int | None:
    """The smallest count from which on one of the schedules of :func:`called` is 0; None if none ends at 0.

    Args:
        schedules: made by :func:`over_steps`.
        known: made of numbers, by the function that made some of the others of traced values; the end of these
            is read from the one of ``known`` that is bound to the same steps.

    Example:
        >>> from optimiz.schedules import constant, linear
        >>> zero_from([over_steps(linear(1.0), 8), over_steps(constant(1.0), 4)])
        8
    """
    bound = lambda schedule: (schedule.breaks, schedule.shifted)  # noqa: E731
    read = [like for one in schedules for like in ([k for k in known if bound(k) == bound(one)] or [one])]
    return min((like.breaks[-1] for like in read if float(like(like.breaks[-1])) == 0), default=None)


@contextlib.contextmanager
def spending(fraction: jax.typing.ArrayLike) -> Iterator[None]:
    """Set the fraction of the budget that is spent, for the schedules called in the body.

    Use it inside the compiled function, not around its call, because ``jit`` caches what it traced.

    Args:
        fraction: fraction of the budget, a scalar that may be traced, clipped to [0, 1].

    Example:
        >>> from optimiz.schedules import linear
        >>> tx = optax.sgd(over_budget(linear(2.0)))
        >>> @jax.jit
        ... def update(gradient, state, fraction):
        ...     with spending(fraction):
        ...         return tx.update(gradient, state)
        >>> updates, _ = update(jnp.ones(1), tx.init(jnp.zeros(1)), 0.75)
        >>> updates.tolist()
        [-0.5]
    """
    token = _FRACTION.set(fraction)
    try:
        yield
    finally:
        _FRACTION.reset(token)


def _scalar_chain(shape: Callable[[jax.Array], jax.typing.ArrayLike]) -> Shape:
    chain = as_chain("shape", shape)
    value = jax.eval_shape(chain, 0.0)
    if value.shape != ():
        raise ValueError(f"shape must return a scalar, got an array of shape {value.shape}")
    return chain


def peak(schedule: optax.ScalarOrSchedule) -> jax.typing.ArrayLike:
    """The largest value of a schedule, over all of its steps or the whole of its budget.

    Args:
        schedule: made by :func:`over_steps` or :func:`over_budget`; or a number, which is its own peak. Over a
            budget it is evaluated at every break and on a grid of 10,000 parts.

    Raises:
        TypeError: ``schedule`` is a shape that is not bound, or neither a schedule nor a number.
        ValueError: ``schedule`` is another function, whose end is unknown.

    Example:
        >>> from optimiz.schedules import linear, warm_up
        >>> float(peak(over_steps(warm_up(linear(0.5), 0.1), 100)))
        0.5
    """
    checks.bound("schedule", schedule)
    if not callable(schedule):
        checks.number("schedule", schedule)
        return schedule
    if not isinstance(schedule, _OverSteps | _OverBudget):
        raise ValueError(
            "the peak of a schedule is known where over_steps or over_budget of optimiz.schedules made it"
        )
    return jnp.max(schedule.values())
