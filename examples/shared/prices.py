"""The prices by which the work of a comparison is charged."""

from collections.abc import Callable
from pathlib import Path

from optimiz import training


def given_or_measured(
    given: training.Reference | None, measure: Callable[[], training.Reference], kept: Path
) -> training.Reference:
    """Prices that are given; where there are none, those of this machine, measured once and kept in a file."""
    if given is not None:
        return given
    if not kept.exists():
        measure().write(kept)
    return training.Reference.read(kept)
