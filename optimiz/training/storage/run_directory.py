"""The directory of a run: it belongs to one run, and one process at a time works in it.

``run.json`` identifies the run by the settings that decide its trajectory. The running process holds ``lock``
through the operating system, which releases it however the process ends.
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
PARTIAL, DAMAGED = "partial-", "damaged-"  # prefixes of the name of a checkpoint that is incomplete or damaged
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
            the home directory. All processes must be able to read and write it.
        settings: what decides the run's trajectory, as plain JSON.
        resume: whether to continue the run in it.
        overwrite: whether to delete that run, whatever its settings, and start over. Only what a run writes is
            deleted.
        longer: whether a larger number of steps than before is accepted.

    Yields:
        The absolute path of the directory.

    Raises:
        ValueError: both ``resume`` and ``overwrite`` are given.
        UnusableDirectory: the directory holds something else, or cannot be written. It is ``RunExists`` if the
            directory holds a run and neither ``resume`` nor ``overwrite`` is given.
        OtherSettings: the directory holds a run with other settings.
        RunError: the run is in use or damaged, or the settings of the processes differ.
    """
    if resume and overwrite:
        raise ValueError("resume=True continues a run and overwrite=True deletes it: choose one of them")
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
            except (OSError, NotImplementedError) as error:  # the latter where files cannot be locked
                reason = getattr(error, "strerror", None) or error
                raise UnusableDirectory(f"{path} cannot be a run directory: {reason}") from error
            except ValueError as error:  # a path that the operating system rejects
                raise UnusableDirectory(f"{directory!r} cannot be a run directory: {error}") from error
            return str(path)

        yield Path(processes.from_first(claim))


def _absolute(directory: str | os.PathLike[str]) -> Path:
    try:
        return Path(directory).expanduser().absolute()
    except RuntimeError as error:  # the home directory of an unknown user
        raise UnusableDirectory(f"{directory!r} cannot be a run directory: {error}") from error


def _make(path: Path) -> None:
    """Create a directory, or refuse one that holds something other than a run."""
    path.mkdir(parents=True, exist_ok=True)
    names = {entry.name for entry in path.iterdir() if not _of_the_system(entry.name)}
    if names - {_LOCK, _HOLDER, _PARTIAL} and _RUN not in names:
        raise UnusableDirectory(f"{path} is not empty and holds no run: choose another directory")


def _of_the_system(name: str) -> bool:
    """Whether a name is that of a hidden file, or of a file that operating systems leave in folders."""
    return name.startswith(".") or name in ("Thumbs.db", "desktop.ini", "lost+found")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    # The holder is written to another file, because on Windows a locked file cannot be read.
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
    """Delete what a run has written, ``run.json`` last, so that an interrupted deletion can be repeated."""
    folder = path / CHECKPOINTS
    if folder.is_dir() and not folder.is_symlink():
        for entry in folder.iterdir():
            name = entry.name.removeprefix(PARTIAL).removeprefix(DAMAGED)
            if is_checkpoint(entry, name) or entry.name.startswith(PARTIAL):
                delete(entry)
        with contextlib.suppress(OSError):  # it holds files of the user
            folder.rmdir()
    for name in (METRICS, TIMINGS, _RUN):
        (path / name).unlink(missing_ok=True)


def is_checkpoint(path: Path, name: str | None = None) -> bool:
    """Whether a path is that of a checkpoint: a directory whose name is a number of at least nine digits.

    Args:
        path: the path.
        name: the name to test instead of the path's own.
    """
    return re.fullmatch("[0-9]{9,}", path.name if name is None else name) is not None and path.is_dir()


def delete(path: Path) -> None:
    """Delete a directory or a link to one; the target of a link is kept."""
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
    """Record which run a directory belongs to."""
    write_whole(path / _RUN, json.dumps(settings, indent=1) + "\n")
