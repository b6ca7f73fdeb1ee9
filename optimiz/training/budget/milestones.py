"""Milestones: the moments of a run at which the host has to look, and how many updates remain until the next.

Under a budget these are the shares of it at which the run evaluates or grows, and its end. A run without a
budget has only those at which it grows.
"""

import math
from collections.abc import Sequence

import jax

from optimiz.training.budget.clock import Clock, as_moment, as_nanoseconds, nanoseconds


class Milestones:
    """What a run has spent of its budget, and what lies ahead.

    Args:
        steps: number of steps of the run; ignored under a budget.
        budget: reference time in seconds; None for a run limited by its steps.
        evaluate_at: shares of the budget at which to evaluate.
        grow_at: shares of the budget, or of the steps, at which the model grows.

    Attributes:
        spent: nanoseconds of reference time at the last look.
        horizon: the number of updates at the next milestone, as estimated by the host; None if there is no
            milestone ahead.
        moment: the next milestone, on the device, as an argument of the step; empty without a budget.
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
            # 0.07 of 100 steps is 7, which 0.07 × 100 exceeds by a rounding error.
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
        """Whether there is a budget, and it is spent."""
        return self._end > 0 and self.spent >= self._end

    def spend(self, fraction: float) -> None:
        """Go back to the moment at which a share of the budget was spent."""
        self.spent = round(fraction * self._end)

    def stage(self, steps: int) -> int:
        """The number of growths that are due, after a number of updates."""
        return sum((self.spent if self._end else steps) >= milestone for milestone in self._growths)

    def crossed(self, before: int) -> bool:
        """Whether a milestone for an evaluation, or the end, lies between ``before`` and the time spent now."""
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
            # Estimated from the mean price of a step since the model has had this depth, in integers: it is
            # exact if all steps have the same price.
            since_steps, since_spent = self._priced_since
            made, spent = steps - since_steps, self.spent - since_spent
            made, spent = (made, spent) if made else (1, self._price)
            self.horizon = steps + -((self.spent - ahead[0]) * made // spent)

    def _ahead(self) -> list[int]:
        return sorted(milestone for milestone in (*self._evaluations, *self._growths) if milestone > self.spent)
