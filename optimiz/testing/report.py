"""The outcome of checking an optimizer against the promises."""

import dataclasses

from optimiz.testing.promise import BrokenPromise, Promise

KEPT, BROKEN, NOT_APPLICABLE = "kept", "broken", "not applicable"
_SIGNS = {KEPT: "✓", BROKEN: "✗", NOT_APPLICABLE: "–"}


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The outcome of one promise.

    Attributes:
        promise: the promise.
        status: ``"kept"``, ``"broken"`` or ``"not applicable"``.
        message: how the promise is broken, or why it does not apply.
        seconds: duration of the check.
    """

    promise: Promise
    status: str
    message: str = ""
    seconds: float = 0.0


@dataclasses.dataclass(frozen=True)
class Report:
    """The outcomes of all promises.

    Attributes:
        name: name of the optimizer.
        outcomes: one outcome for each promise.
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
            BrokenPromise: a promise is broken; the message has a line for each.
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
