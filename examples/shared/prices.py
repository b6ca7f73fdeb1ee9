"""The prices that a comparison charges for its work, and the energy that it takes."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

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


def energy_meter(asked: str | None) -> training.Meter | None:
    """What a flag asks to read energy from.

    Args:
        asked: ``"rapl"``, ``"nvml"``, a number of watts, or None for nothing.

    Raises:
        OSError: this machine has no such counter, or does not let it be read.
        ValueError: it is none of these.
    """
    if asked is None:
        return None
    counters = {"rapl": training.Rapl, "nvml": training.Nvml}
    if asked in counters:
        return counters[asked]()
    try:
        return training.StatedPower(float(asked), "as given by --energy")
    except ValueError:
        raise ValueError(f"--energy={asked}: must be rapl, nvml or a power in watts above 0") from None


def energy_of(reference: training.Reference, asked: str | None) -> dict[str, Mapping[str, Any]]:
    """The energy of a reference, for a record; empty if it has none.

    Args:
        reference: prices that were given, or measured and kept.
        asked: what `--energy` says.

    Raises:
        ValueError: it is asked for, and the prices that were kept are without it.
    """
    if asked is not None and not reference.energy:
        raise ValueError(f"--energy={asked}: the prices in --output are without it; use another --output")
    return {"per_unit": reference.energy_by_kind(), "meter": reference.meter} if reference.energy else {}
