"""The health of a run in progress: each problem is reported once, when it is first found."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from optimiz import checks
from optimiz.diagnostics.finding import Finding
from optimiz.diagnostics.health import health, not_finite

# A run is examined again when it has grown by this factor, so that the total cost is that of a few examinations
# of the whole run.
GROWTH = 1.1


class Watch:
    """Report the problems of one run as its rows come in, see :func:`health`.

    Problems that only a long enough run can show are reported later.

    Example:
        >>> watch = Watch()
        >>> watch([{"step": 0, "loss": 1.0}], 0.3)
        []
        >>> [finding.name for finding in watch([{"step": 1, "loss": float("nan")}], 0.6)]
        ['not_finite']
        >>> watch([{"step": 2, "loss": float("nan")}], 1.0)  # reported before
        []
    """

    def __init__(self) -> None:
        self._rows: list[Mapping[str, Any]] = []
        self._named: set[str] = set()
        self._due = 0

    def __call__(self, rows: Sequence[Mapping[str, Any]], share: float) -> list[Finding]:
        """Add the next rows.

        Args:
            rows: rows that were written since the last call, in order.
            share: fraction of the run that is done, in [0, 1].

        Returns:
            Findings that have not been reported before, the most serious first.

        Raises:
            TypeError: a row is not a mapping, or the share not a number.
            ValueError: a row has neither ``step`` nor ``steps``, or the share is outside its domain.
        """
        checks.number("share", share, ge=0, le=1)
        self._rows += rows
        if len(self._rows) < self._due and share < 1 and not any(map(not_finite, rows)):
            return []
        self._due = math.ceil(GROWTH * len(self._rows))
        found = [finding for finding in health(self._rows, share=share) if finding.name not in self._named]
        self._named |= {finding.name for finding in found}
        return found
