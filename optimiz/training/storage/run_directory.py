"""A directory belongs to one run, and one process at a time works in it.

``run.json`` says which run it is: the settings that decide its trajectory. ``lock`` is held by the
running process through the operating system, which lets go of it however the process ends.
"""

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import filelock

METRICS, TIMINGS, CHECKPOINTS = "metrics.jsonl", "timings.jsonl", "checkpoints"
PARTIAL, DAMAGED = "partial-", "damaged-"  # before the name of a checkpoint that is none yet, or no longer
STEPS = "settings.steps"  # the name of the setting
_LOCK, _HOLDER, _RUN, _PARTIAL = "lock", "lock.pid", "run.json", "run.json.partial"


class RunError(Exception):
    """A run cannot start, go on or be resumed; the message is one line for who started it."""


class OtherSettings(RunError):
    """A run is there, and it was started with other settings.

    Attributes:
        names: of the settings that differ.
    """

    def __init__(self, message: str, names: Sequence[str] = ()):
        super().__init__(message)
        self.names = tuple(names)


class UnusableDirectory(RunError):
    """The directory cannot be that of a run; nothing has been trained."""


class RunExists(UnusableDirectory):
    """The directory holds a run, and it was not said what is to become of it.

    Attributes:
        directory: the absolute path.
    """

    def __init__(self, directory: Path):
        super().__init__(
            f"{directory} holds a run: go on with it (resume=True), delete it and begin anew (overwrite=True), "
            "or choose another directory"
        )
        self.directory = directory


@contextlib.contextmanager
def claimed(
    directory: str | os.PathLike[str],
    settings: Mapping[str, Any],
    resume: bool,
    overwrite: bool = False,
    longer: bool = False,
) -> Iterator[Path]:
    """Claim a directory for a run while the body runs.

    Args:
        directory: empty or not there for a new run; that of the run for a resumed one. Resuming
            what never started starts it. Hidden files, and those that an operating system leaves, are ignored;
            ``~`` is a home.
        settings: what decides the run's trajectory, as plain JSON.
        resume: whether to go on with the run that is there.
        overwrite: whether to delete it, whatever its settings, and begin anew. Only what a run writes is
            deleted.
        longer: whether the run may be told to make more steps than it was started with.

    Yields:
        The absolute path of the directory.

    Raises:
        ValueError: both ``resume`` and ``overwrite``.
        UnusableDirectory: it holds something else, or cannot be written; or it holds a run, and there is
            neither ``resume`` nor ``overwrite``: ``RunExists``.
        OtherSettings: it holds another run.
        RunError: it holds one that is in use, or is damaged.
    """
    if resume and overwrite:
        raise ValueError("resume=True goes on with a run, and overwrite=True deletes it: choose one of them")
    try:
        path = Path(directory).expanduser().absolute()
    except RuntimeError as error:  # a home of nobody
        raise UnusableDirectory(f"{directory!r} cannot be a run directory: {error}") from error
    with contextlib.ExitStack() as held:
        try:
            path.mkdir(parents=True, exist_ok=True)
            names = {entry.name for entry in path.iterdir() if not _of_the_system(entry.name)}
            if names - {_LOCK, _HOLDER, _PARTIAL} and _RUN not in names:
                raise UnusableDirectory(f"{path} is not empty and holds no run: choose another directory")
            held.enter_context(_locked(path))
            if overwrite:
                _delete_run(path)
            _claim(path, settings, resume, longer)
        except (OSError, NotImplementedError) as error:  # the latter: filelock, of a file system without locks
            reason = getattr(error, "strerror", None) or error
            raise UnusableDirectory(f"{path} cannot be a run directory: {reason}") from error
        except ValueError as error:  # a path that no operating system takes
            raise UnusableDirectory(f"{directory!r} cannot be a run directory: {error}") from error
        yield path


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Make of the body's trouble with the disk a ``RunError`` of one line that names what it is about.

    Args:
        path: what the body works on, where the error names nothing nearer.
    """
    try:
        yield
    except OSError as error:
        raise RunError(f"{error.filename or path}: {error.strerror or one_line(error)}") from error


def one_line(error: Exception) -> str:
    """What an error says first; its kind where it says nothing."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def flush(path: Path) -> None:
    """Force the content of a file, or the names in a directory, onto the disk."""
    if os.name == "nt":
        if path.is_file():  # Windows opens no directory, and flushes no file that is open for reading
            with path.open("r+b") as file:
                os.fsync(file.fileno())
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _of_the_system(name: str) -> bool:
    """Whether a name is of a hidden file, or of one that an operating system leaves in folders."""
    return name.startswith(".") or name in ("Thumbs.db", "desktop.ini", "lost+found")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    # Who holds it stands in a file of its own: Windows lets nobody read a locked one.
    holder, lock = path / _HOLDER, filelock.FileLock(path / _LOCK, timeout=0, thread_local=False)
    try:
        lock.acquire()
    except filelock.Timeout:
        with contextlib.suppress(OSError):  # not yet written
            raise RunError(f"{path} is in use by process {holder.read_text().strip()}") from None
        raise RunError(f"{path} is in use by another process") from None
    try:
        holder.write_text(f"{os.getpid()}\n")
        yield
    finally:
        lock.release()


def _delete_run(path: Path) -> None:
    """Delete what a run has written; ``run.json`` last, so that a deletion cut short can be repeated."""
    folder = path / CHECKPOINTS
    if folder.is_dir() and not folder.is_symlink():
        for entry in folder.iterdir():
            name = entry.name.removeprefix(PARTIAL).removeprefix(DAMAGED)
            if is_checkpoint(entry, name) or entry.name.startswith(PARTIAL):
                delete(entry)
        with contextlib.suppress(OSError):  # something of its user's is in it
            folder.rmdir()
    for name in (METRICS, TIMINGS, _RUN):
        (path / name).unlink(missing_ok=True)


def is_checkpoint(path: Path, name: str | None = None) -> bool:
    """Whether a path is a checkpoint's, by its name: the number of updates, in nine digits or more.

    Args:
        path: to look at; what is no directory is none, whatever its name.
        name: to take it by; None for its own.
    """
    return re.fullmatch("[0-9]{9,}", path.name if name is None else name) is not None and path.is_dir()


def delete(path: Path) -> None:
    """Delete a directory, or the link that stands for it: what a link points to is none of ours."""
    if path.is_symlink():
        path.unlink()
    else:
        shutil.rmtree(path)


def _claim(path: Path, settings: Mapping[str, Any], resume: bool, longer: bool) -> None:
    run = path / _RUN
    if not run.exists():
        write_settings(path, settings)
        return
    if not resume:
        raise RunExists(path)
    try:
        saved = json.loads(run.read_bytes())
    except (ValueError, RecursionError) as error:
        raise RunError(f"{run} is damaged: {error}") from error
    if not isinstance(saved, dict):
        raise RunError(f"{run} is damaged: it must hold a JSON object, got {type(saved).__name__}")
    refuse_other_settings(str(path), saved, settings, longer)


def write_settings(path: Path, settings: Mapping[str, Any]) -> None:
    """Write down which run a directory is of."""
    run, partial = path / _RUN, path / _PARTIAL
    partial.write_text(json.dumps(settings, indent=1) + "\n")
    flush(partial)
    partial.replace(run)
    flush(path)


def refuse_other_settings(
    place: str, saved: Mapping[str, Any], present: Mapping[str, Any], longer: bool = False
) -> None:
    """Refuse to go on with a run under settings it was not started with.

    Args:
        place: what holds the saved settings, for the message.
        saved: the settings there, as plain JSON.
        present: the settings asked for.
        longer: let pass that there are to be more steps.

    Raises:
        OtherSettings: naming each setting that differs, with both values.
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
    # Values are compared as JSON text, so that 1, 1.0 and True are three settings.
    flat: dict[str, str] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = json.dumps(value)
    return flat
