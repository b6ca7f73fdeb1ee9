"""Reference time: how much of its budget a run has spent.

A unit of work is charged at its price on the reference system, in seconds, however long this machine takes. A
budget therefore ends a run at the same step on every machine, and the sum must not depend on how a machine
rounds or on the order of the charges. It is kept in integers, as whole seconds and nanoseconds, and is exact
for any number of steps; in float32, adding 0.1 a million times gives 100,958.

Source: arXiv 2307.06440, section 2 (reference system time).
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from optimiz import checks

LONGEST = 1e9
"""The longest budget, and the highest price, in seconds: 31 years, half of what an int32 can hold."""

_SHORTEST, _PER_SECOND = 1e-9, 10**9


def check_seconds(name: str, value: object) -> None:
    """Check that a budget or a price is a number of seconds that a clock can count.

    Raises:
        TypeError: it is not a number.
        ValueError: it is NaN, zero or negative, less than a nanosecond or more than 1e9 seconds.
    """
    checks.number(name, value, ge=_SHORTEST, le=LONGEST)


def nanoseconds(seconds: float) -> int:
    """A price or a budget in seconds, rounded to whole nanoseconds as a clock counts it."""
    return round(seconds * _PER_SECOND)


def as_moment(nanoseconds: int) -> np.ndarray:
    """A time in nanoseconds as int32 [2]: whole seconds, and nanoseconds beyond them."""
    return np.array(divmod(nanoseconds, _PER_SECOND), np.int32)


def as_nanoseconds(moment: jax.typing.ArrayLike) -> int:
    """The inverse of :func:`as_moment`; waits for the device."""
    seconds, beyond = np.asarray(moment).tolist()
    return seconds * _PER_SECOND + beyond


@functools.partial(jax.tree_util.register_dataclass, data_fields=["spent"], meta_fields=["budget"])
@dataclasses.dataclass(frozen=True)
class Clock:
    """Reference time spent, and the budget; a pytree that passes through ``jit``.

    Args:
        spent: int32 [2]: whole seconds, and nanoseconds beyond them.
        budget: seconds, static.

    Example:
        >>> clock = Clock.start(budget=0.5).charge(0.125).charge(0.0625, times=2)
        >>> float(clock.fraction)
        0.5
    """

    spent: jax.Array
    budget: float

    @classmethod
    def start(cls, budget: float) -> "Clock":
        """A clock at 0.

        Args:
            budget: seconds of reference time, in [1e-9, 1e9].

        Raises:
            TypeError: the budget is not a number.
            ValueError: it is outside its range.
        """
        check_seconds("budget", budget)
        return cls(jnp.zeros(2, jnp.int32), float(budget))

    def charge(self, seconds: float, times: jax.typing.ArrayLike = 1) -> "Clock":
        """The clock after more work; traceable.

        Args:
            seconds: price of one unit of work, in [1e-9, 1e9]; static, and rounded to the nanosecond.
            times: number of units, an integer in [0, 2,000,000], may be traced; True and False are 1 and 0.

        Raises:
            TypeError: the price is not a number.
            ValueError: it is outside its range.
        """
        check_seconds("seconds", seconds)
        whole, beyond = divmod(nanoseconds(seconds), _PER_SECOND)
        times = jnp.asarray(times, jnp.int32)
        # Digit by digit, in base 1000: the product in one piece would not fit an int32.
        added = carried = jnp.zeros([], jnp.int32)
        for place in (1, 1_000, 1_000_000):
            digit = beyond // place % 1000 * times + carried
            added, carried = added + digit % 1000 * place, digit // 1000
        added += self.spent[1]
        seconds_spent = self.spent[0] + whole * times + carried + added // _PER_SECOND
        return Clock(jnp.stack([seconds_spent, added % _PER_SECOND]), self.budget)

    def before(self, moment: jax.typing.ArrayLike) -> jax.Array:
        """Whether less has been spent than at a moment (int32 [2], as ``spent``); bool, shape ()."""
        (seconds, beyond), (its_seconds, its_beyond) = self.spent, jnp.asarray(moment)
        return (seconds < its_seconds) | ((seconds == its_seconds) & (beyond < its_beyond))

    @property
    def fraction(self) -> jax.Array:
        """The share of the budget spent, in [0, 1], as float32 (float64 under ``jax_enable_x64``), shape ().

        It is 1 once the budget is spent.
        """
        seconds, beyond = self.spent.astype(jnp.result_type(float))
        within = jnp.minimum((seconds + beyond / _PER_SECOND) / self.budget, 1)
        return jnp.where(self.before(as_moment(nanoseconds(self.budget))), within, 1)
