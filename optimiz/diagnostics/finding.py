"""What is wrong with a run, in words."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Finding:
    """A trouble of a run.

    Attributes:
        name: of the trouble, in snake case.
        evidence: what the rows show, in numbers.
        remedy: what to try.
        step: where it began, or was first seen.
    """

    name: str
    evidence: str
    remedy: str
    step: int

    def __str__(self) -> str:
        return f"{self.name.replace('_', ' ')} (step {self.step}): {self.evidence}. {self.remedy}"
