"""Check that a run continues with the settings that it was started with, the same in all its processes."""

import json
from collections.abc import Mapping
from typing import Any

import jax

from optimiz.training.distributed import processes
from optimiz.training.errors import OtherSettings, RunError

STEPS = "settings.steps"  # the name of the setting


def refuse_differing(settings: Mapping[str, Any]) -> None:
    """Refuse a run whose processes were started with different settings.

    Args:
        settings: the settings of this process, as plain JSON.

    Raises:
        RunError: on every process, if the settings of one differ from those of the first; on a process whose
            settings differ, the message names them.
    """
    indices, of_first = processes.differing(settings)
    if jax.process_index() in indices:
        refuse_other_settings("process 0", of_first, settings)
    if indices:
        raise RunError(f"process {indices[0]} was started with other settings than process 0")


def refuse_other_settings(
    place: str, saved: Mapping[str, Any], present: Mapping[str, Any], longer: bool = False
) -> None:
    """Refuse to continue a run with settings other than those it was started with.

    Args:
        place: what holds the saved settings, for the message.
        saved: the saved settings, as plain JSON.
        present: the current settings.
        longer: whether a larger number of steps is accepted.

    Raises:
        OtherSettings: a setting differs; the message names each that does, with both values.
    """
    old, new = _flat(saved), _flat(present)
    names = [name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]
    if longer and names == [STEPS] and _is_more(old.get(STEPS), new.get(STEPS)):
        return
    if names:
        differences = [f"{name} was {old.get(name, 'absent')}, is {new.get(name, 'absent')}" for name in names]
        raise OtherSettings(f"{place} holds a run with other settings: {'; '.join(differences)}", names)


def _is_more(old: str | None, new: str | None) -> bool:
    """Whether both are whole numbers, as JSON texts, and the second is the greater."""
    return all(text is not None and text.isdecimal() for text in (old, new)) and int(new or 0) > int(old or 0)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    # Values are compared as JSON text, so that 1, 1.0 and True differ.
    flat: dict[str, str] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = json.dumps(value)
    return flat
