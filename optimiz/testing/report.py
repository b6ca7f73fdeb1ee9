"""What came of the promises of one optimizer."""

import dataclasses

from optimiz.testing.promise import BrokenPromise, Promise

KEPT, BROKEN, NOT_APPLICABLE = "kept", "broken", "not applicable"
_SIGNS = {KEPT: "✓", BROKEN: "✗", NOT_APPLICABLE: "–"}


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of one promise.

    Attributes:
        promise: which.
        status: ``"kept"``, ``"broken"`` or ``"not applicable"``.
        message: how it is broken, or why it does not apply.
        seconds: that the check took.
    """

    promise: Promise
    status: str
    message: str = ""
    seconds: float = 0.0


@dataclasses.dataclass(frozen=True)
class Report:
    """What came of all promises.

    Attributes:
        name: of the optimizer.
        outcomes: one for each promise.
    """

    name: str
    outcomes: tuple[Outcome, ...]

    def _with(self, status: str) -> tuple[Outcome, ...]:
        return tuple(outcome for outcome in self.outcomes if outcome.status == status)

    @property
    def kept(self) -> tuple[Outcome, ...]:
        """Promises that are kept."""
        return self._with(KEPT)

    @property
    def broken(self) -> tuple[Outcome, ...]:
        """Promises that are broken."""
        return self._with(BROKEN)

    @property
    def not_applicable(self) -> tuple[Outcome, ...]:
        """Promises that do not apply."""
        return self._with(NOT_APPLICABLE)

    def raise_for_failures(self) -> None:
        """Raise if a promise is broken.

        Raises:
            BrokenPromise: with a line for each.
        """
        if self.broken:
            raise BrokenPromise("\n".join(outcome.message for outcome in self.broken))

    def __str__(self) -> str:
        counts = f"{len(self.kept)} kept, {len(self.broken)} broken, {len(self.not_applicable)} not applicable"
        lines = [f"{self.name}: {counts}"]
        for outcome in self.outcomes:
            convention = " (convention)" if outcome.promise.convention else ""
            lines.append(f"  {_SIGNS[outcome.status]} {outcome.promise.name}{convention}")
            lines += [f"      {outcome.message}"] if outcome.message else []
        return "\n".join(lines)
