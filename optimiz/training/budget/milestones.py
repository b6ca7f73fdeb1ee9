"""Milestones: the moments of a run at which the host has to look, and how many updates are left to the next.

Under a budget these are shares of it at which to evaluate or to grow, and its end; a run of a number of steps
has those at which it grows.
"""

import math
from collections.abc import Sequence

import jax

from optimiz.training.budget.clock import Clock, as_moment, as_nanoseconds, nanoseconds


class Milestones:
    """What a run has spent of its budget, and what lies ahead.

    Args:
        steps: of the run; under a budget they are not looked at.
        budget: reference time in seconds; None for a run of a number of steps.
        evaluate_at: shares of the budget at which to evaluate.
        grow_at: shares of the budget, or of the steps, at which the model grows.

    Attributes:
        spent: nanoseconds of reference time at the last look.
        horizon: the number of updates, as far as the host can tell, when the next milestone is reached; None if
            there is no milestone ahead.
        moment: the next milestone, on the device, as an argument of the step; none without a budget.
    """

    def __init__(
        self,
        steps: int | None,
        budget: float | None = None,
        evaluate_at: Sequence[float] = (),
        grow_at: Sequence[float] = (),
    ):
        self.spent = 0
        self.horizon: int | None = None
        self.moment: tuple[jax.Array, ...] = ()
        self._end = 0 if budget is None else nanoseconds(budget)
        if budget is None:
            assert steps is not None
            self._evaluations = []
            # 0.07 of 100 steps are 7, which 0.07 × 100 exceeds by rounding.
            self._growths = [math.ceil(round(share * steps, 6)) for share in grow_at]
        else:
            self._evaluations = [nanoseconds(share * budget) for share in (*evaluate_at, 1)]
            self._growths = [nanoseconds(share * budget) for share in grow_at]
        self._price, self._priced_since = 1, (0, 0)

    @property
    def fraction(self) -> float | None:
        """The share of the budget spent at the last look; None without a budget."""
        return min(1.0, self.spent / self._end) if self._end else None

    @property
    def all_spent(self) -> bool:
        """Whether there was a budget, and it is spent."""
        return self._end > 0 and self.spent >= self._end

    def spend(self, fraction: float) -> None:
        """Go back to the moment at which a share of the budget was spent."""
        self.spent = round(fraction * self._end)

    def stage(self, steps: int) -> int:
        """How often the model is to have grown."""
        return sum((self.spent if self._end else steps) >= milestone for milestone in self._growths)

    def crossed(self, before: int) -> bool:
        """Whether a milestone to evaluate at, or the end, lies between what was spent before and now."""
        return any(before < milestone <= self.spent for milestone in self._evaluations)

    def reached(self, clock: Clock | None) -> bool:
        """Whether a clock has reached the next milestone; waits for the device."""
        ahead = self._ahead()
        return clock is not None and (not ahead or as_nanoseconds(clock.spent) >= ahead[0])

    def set_price(self, least: float, steps: int) -> None:
        """Set the least price of an update, in seconds, from this number of updates on."""
        self._price, self._priced_since = nanoseconds(least), (steps, self.spent)

    def look_ahead(self, steps: int) -> None:
        """Find the next milestone after a number of updates."""
        if not self._end:
            self.horizon = min((milestone for milestone in self._growths if milestone > steps), default=None)
            return
        ahead = self._ahead()
        if ahead:
            self.moment = (jax.device_put(as_moment(ahead[0])),)
            # At the mean price of a step since the model had this depth, and in integers: where all have one
            # price it is exact.
            since_steps, since_spent = self._priced_since
            made, spent = steps - since_steps, self.spent - since_spent
            made, spent = (made, spent) if made else (1, self._price)
            self.horizon = steps + -((self.spent - ahead[0]) * made // spent)

    def _ahead(self) -> list[int]:
        return sorted(milestone for milestone in (*self._evaluations, *self._growths) if milestone > self.spent)
