"""A directory belongs to one run, and one process at a time works in it.

``run.json`` says which run it is: the settings that decide its trajectory. ``lock`` is held by the
running process through the operating system, which lets go of it however the process ends.
"""

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import filelock

from optimiz.training.distributed import processes
from optimiz.training.errors import RunError, RunExists, UnusableDirectory
from optimiz.training.storage.same_settings import refuse_differing, refuse_other_settings
from optimiz.training.storage.whole_file import write_whole

METRICS, TIMINGS, CHECKPOINTS = "metrics.jsonl", "timings.jsonl", "checkpoints"
PARTIAL, DAMAGED = "partial-", "damaged-"  # before the name of a checkpoint that is none yet, or no longer
_LOCK, _HOLDER, _RUN, _PARTIAL = "lock", "lock.pid", "run.json", "run.json.partial"


@contextlib.contextmanager
def claimed(
    directory: str | os.PathLike[str],
    settings: Mapping[str, Any],
    resume: bool,
    overwrite: bool = False,
    longer: bool = False,
) -> Iterator[Path]:
    """Claim a directory for a run of all processes while the body runs.

    Args:
        directory: empty or absent for a new run; that of the run for a resumed one. Resuming a run that never
            started starts it. Hidden files, and those that an operating system leaves, are ignored; ``~`` is
            the home directory. All processes can read and write it.
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
        RunError: it holds one that is in use, or is damaged; or the settings of the processes differ.
    """
    if resume and overwrite:
        raise ValueError("resume=True goes on with a run, and overwrite=True deletes it: choose one of them")
    refuse_differing(settings)
    with contextlib.ExitStack() as held:

        def claim() -> str:
            path = _absolute(directory)
            try:
                _make(path)
                held.enter_context(_locked(path))
                if overwrite:
                    _delete_run(path)
                _check_or_write_settings(path, settings, resume, longer)
            except (OSError, NotImplementedError) as error:  # the latter where there are no locks of files
                reason = getattr(error, "strerror", None) or error
                raise UnusableDirectory(f"{path} cannot be a run directory: {reason}") from error
            except ValueError as error:  # a path that no operating system takes
                raise UnusableDirectory(f"{directory!r} cannot be a run directory: {error}") from error
            return str(path)

        yield Path(processes.from_first(claim))


def _absolute(directory: str | os.PathLike[str]) -> Path:
    try:
        return Path(directory).expanduser().absolute()
    except RuntimeError as error:  # a home of nobody
        raise UnusableDirectory(f"{directory!r} cannot be a run directory: {error}") from error


def _make(path: Path) -> None:
    """Make a directory, or refuse one that holds something else than a run."""
    path.mkdir(parents=True, exist_ok=True)
    names = {entry.name for entry in path.iterdir() if not _of_the_system(entry.name)}
    if names - {_LOCK, _HOLDER, _PARTIAL} and _RUN not in names:
        raise UnusableDirectory(f"{path} is not empty and holds no run: choose another directory")


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


def _check_or_write_settings(path: Path, settings: Mapping[str, Any], resume: bool, longer: bool) -> None:
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
    """Write down to which run a directory belongs."""
    write_whole(path / _RUN, json.dumps(settings, indent=1) + "\n")
