"""The prices that a comparison charges for its work."""

from collections.abc import Callable
from pathlib import Path

from optimiz import training


def given_or_measured(
    given: training.Reference | None, measure: Callable[[], training.Reference], kept: Path
) -> training.Reference:
    """Return the given prices or, without any, those of this machine, measured once and kept in a file."""
    if given is not None:
        return given
    if not kept.exists():
        measure().write(kept)
    return training.Reference.read(kept)
