"""Marks: the moments of a run at which the host has to look, and how many updates there are until the next.

Under a budget these are shares of it, at which to evaluate or to grow, and its end; a run of so many steps has
those at which it grows.
"""

import math

import jax

from optimiz.training.budget.clock import Clock, as_moment, as_nanoseconds, nanoseconds
from optimiz.training.methods.growth import Growth
from optimiz.training.settings import Settings


class Marks:
    """What a run has spent of its budget, and what lies ahead.

    Attributes:
        spent: nanoseconds of reference time at the last look.
        end: the budget in nanoseconds; 0 without one.
        horizon: how many updates there will be, as far as the host can tell, when the next mark is reached;
            None without a mark.
        until: the next mark, on the device, as an argument of the step; none without a budget.
    """

    def __init__(self, settings: Settings, growth: Growth | None):
        self.spent = 0
        self.horizon: int | None = None
        self.until: tuple[jax.Array, ...] = ()
        shares = () if growth is None else growth.at
        budget = settings.budget
        self.end = 0 if budget is None else nanoseconds(budget)
        if budget is None:
            assert settings.steps is not None
            self._looks = []
            # 0.07 of 100 steps are 7, which 0.07 × 100 exceeds by rounding.
            self._growths = [math.ceil(round(share * settings.steps, 6)) for share in shares]
        else:
            self._looks = [nanoseconds(share * budget) for share in (*settings.evaluate_at, 1)]
            self._growths = [nanoseconds(share * budget) for share in shares]
        self._price, self._since = 1, (0, 0)

    @property
    def fraction(self) -> float | None:
        """Of the budget, spent at the last look; None without a budget."""
        return min(1.0, self.spent / self.end) if self.end else None

    @property
    def all_spent(self) -> bool:
        """Whether there was a budget, and it is spent."""
        return self.end > 0 and self.spent >= self.end

    def stage(self, steps: int) -> int:
        """How often the model is to have grown."""
        return sum((self.spent if self.end else steps) >= mark for mark in self._growths)

    def crossed(self, before: int) -> bool:
        """Whether a mark to evaluate at, or the end, lies between what was spent before and now."""
        return any(before < mark <= self.spent for mark in self._looks)

    def reached(self, clock: Clock | None) -> bool:
        """Whether a clock has come to the next mark; waits for the device."""
        ahead = self._ahead()
        return clock is not None and (not ahead or as_nanoseconds(clock.spent) >= ahead[0])

    def price(self, least: float, steps: int) -> None:
        """Take note that from now on an update costs so many seconds at the least."""
        self._price, self._since = nanoseconds(least), (steps, self.spent)

    def look_ahead(self, steps: int) -> None:
        """Set the next mark after so many updates."""
        if not self.end:
            self.horizon = min((mark for mark in self._growths if mark > steps), default=None)
            return
        ahead = self._ahead()
        if ahead:
            self.until = (jax.device_put(as_moment(ahead[0])),)
            # At the mean price of a step since the model had this depth, and in integers: where all have one
            # price it is exact.
            made, spent = (now - then for now, then in zip((steps, self.spent), self._since, strict=True))
            made, spent = (made, spent) if made else (1, self._price)
            self.horizon = steps + -((self.spent - ahead[0]) * made // spent)

    def _ahead(self) -> list[int]:
        return sorted(mark for mark in (*self._looks, *self._growths) if mark > self.spent)
