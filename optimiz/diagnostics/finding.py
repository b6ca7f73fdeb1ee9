"""A problem of a run, with evidence and a remedy."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Finding:
    """A problem of a run.

    Attributes:
        name: name of the problem, in snake case.
        evidence: numbers from the rows that show it.
        remedy: what to try.
        step: step at which it began, or was first seen.
    """

    name: str
    evidence: str
    remedy: str
    step: int

    def __str__(self) -> str:
        return f"{self.name.replace('_', ' ')} (step {self.step}): {self.evidence}. {self.remedy}"
