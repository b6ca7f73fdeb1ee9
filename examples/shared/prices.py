"""The prices that a comparison charges for its work, and the energy that it takes."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from optimiz import training

_TOLD, _SAME = 3.0, 0.03  # standard errors, and the share of a price, that tell no two prices apart


def given(file: str | None) -> training.Reference | None:
    """The prices of the file that `--reference` names; None without one.

    Raises:
        ValueError: it cannot be read, or is not a reference.
    """
    if file is None:
        return None
    try:
        return training.Reference.read(file)
    except OSError as error:
        raise ValueError(f"--reference={file}: {error.strerror}") from None


def given_or_measured(
    given: training.Reference | None, measure: Callable[[], training.Reference], kept: Path
) -> training.Reference:
    """Return the given prices or, without any, those of this machine, measured once and kept in a file."""
    return _measured_once(measure, kept) if given is None else given


def _measured_once(measure: Callable[[], training.Reference], kept: Path) -> training.Reference:
    if not kept.exists():
        measure().write(kept)
    return training.Reference.read(kept)


def of_each(
    measure: Mapping[str, Callable[[], training.Reference]], kept: Path
) -> dict[str, training.Reference]:
    """The prices of each optimizer on this machine, measured once and kept in files.

    What the measurements do not tell from the price for the first optimizer is charged that price, so that
    noise gives no optimizer more updates.

    Args:
        measure: optimizer → function that measures its prices.
        kept: file of the first optimizer's; those of the others are next to it, and have their names.
    """
    first, *others = measure
    found = {first: _measured_once(measure[first], kept)}
    for name in others:
        own = _measured_once(measure[name], kept.with_stem(f"{kept.stem}_{name}"))
        found[name] = _told_apart(own, found[first])
    return found


def _told_apart(own: training.Reference, first: training.Reference) -> training.Reference:
    """An optimizer's prices: those of the first where noise may be the difference, and of a forward pass."""

    def same(work: training.Work, timing: training.Timing) -> bool:
        other = first.times.get(work)
        if other is None or work.name == "forward":  # a program that no optimizer has a part in
            return other is not None
        noise = _TOLD * math.hypot(timing.standard_error, other.standard_error)
        return abs(timing.seconds - other.seconds) <= max(noise, _SAME * other.seconds)

    times = {work: first.times[work] if same(work, timing) else timing for work, timing in own.times.items()}
    return dataclasses.replace(own, times=times)


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
