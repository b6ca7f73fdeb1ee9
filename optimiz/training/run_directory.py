"""A directory belongs to one run, and one process at a time works in it.

``run.json`` says which run it is: the settings that decide its trajectory. ``lock`` is held by the
running process through the operating system, which lets go of it however the process ends.
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

_LOCK, _RUN, _PARTIAL = "lock", "run.json", "run.json.partial"


class RunError(Exception):
    """A run cannot start, go on or be resumed; the message is one line for who started it."""


@contextlib.contextmanager
def claimed(directory: str | os.PathLike[str], settings: Mapping[str, Any], resume: bool) -> Iterator[Path]:
    """Claim a directory for a run while the body runs.

    Args:
        directory: empty or not there for a new run; that of the run for a resumed one. Resuming
            what never started starts it.
        settings: what decides the run's trajectory, as plain JSON.
        resume: whether to go on with the run that is there.

    Yields:
        The absolute path of the directory.

    Raises:
        RunError: the directory holds something else, another run, a run that ``resume`` does not
            ask for, or a run in use; or it cannot be written.
    """
    path = Path(directory).absolute()
    with contextlib.ExitStack() as held:
        try:
            path.mkdir(parents=True, exist_ok=True)
            names = {entry.name for entry in path.iterdir()}
            if names - {_LOCK, _PARTIAL} and _RUN not in names:
                raise RunError(f"{path} is not empty and holds no run: choose another directory")
            _acquire(held.enter_context((path / _LOCK).open("a+")), path)
            _claim(path, settings, resume)
        except OSError as error:
            raise RunError(f"{path} cannot be a run directory: {error.strerror}") from error
        yield path


def flush(path: Path) -> None:
    """Force the content of a file, or the names in a directory, onto the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _acquire(lock: TextIO, path: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        raise RunError(f"{path} is in use by process {lock.read().strip()}") from None
    lock.truncate(0)
    lock.write(f"{os.getpid()}\n")
    lock.flush()


def _claim(path: Path, settings: Mapping[str, Any], resume: bool) -> None:
    run, partial = path / _RUN, path / _PARTIAL
    if not run.exists():
        partial.write_text(json.dumps(settings, indent=1) + "\n")
        flush(partial)
        partial.replace(run)
        flush(path)
        return
    if not resume:
        raise RunError(f"{path} holds a run: resume it (--resume) or choose another directory")
    try:
        saved = json.loads(run.read_bytes())
    except (ValueError, RecursionError) as error:
        raise RunError(f"{run} is damaged: {error}") from error
    if not isinstance(saved, dict):
        raise RunError(f"{run} is damaged: it must hold a JSON object, got {type(saved).__name__}")
    refuse_other_settings(str(path), saved, settings)


def refuse_other_settings(place: str, saved: Mapping[str, Any], present: Mapping[str, Any]) -> None:
    """Refuse to go on with a run under settings it was not started with.

    Args:
        place: what holds the saved settings, for the message.
        saved: the settings there, as plain JSON.
        present: the settings asked for.

    Raises:
        RunError: naming each setting that differs, with both values.
    """
    old, new = _flat(saved), _flat(present)
    differences = [
        f"{name} was {old.get(name, 'absent')}, is {new.get(name, 'absent')}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]
    if differences:
        raise RunError(f"{place} holds a run with other settings: {'; '.join(differences)}")


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    # Values are compared as JSON text, so that 1, 1.0 and True are three settings.
    flat: dict[str, str] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = json.dumps(value)
    return flat
