"""Checkpoints that are either complete or absent, with a checksum of every byte.

Orbax writes the arrays, one per tree path; next to them, ``manifest.json`` holds the checksums, see
``manifest.py``. A checkpoint is written under another name, flushed to the disk and then renamed, so a process
may die at any moment.
"""

import contextlib
import gc
import logging
import os
import re
import shutil
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from optimiz.training.distributed import processes
from optimiz.training.errors import RunError, UnusableDirectory, as_run_error, one_line
from optimiz.training.storage import manifest
from optimiz.training.storage.run_directory import DAMAGED, PARTIAL, delete, is_checkpoint
from optimiz.training.storage.same_settings import refuse_other_settings
from optimiz.training.storage.whole_file import flush

try:
    import orbax.checkpoint as ocp
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        'optimiz.training writes its checkpoints with Orbax: pip install "optimiz-jax[train]"',
        name=error.name,
    ) from error

FORMAT = 1
ARRAYS = "arrays"
_LIBRARIES = ("jax", "numpy", "optax", "orbax-checkpoint")

_STRAGGLERS = 2.0  # seconds to wait for the threads of a save that has failed

_log = logging.getLogger(__name__)


class Restored(NamedTuple):
    """A checkpoint: the state, and the record and the settings that were saved with it."""

    state: Any
    record: dict[str, Any]
    settings: dict[str, Any]


def save(
    folder: Path,
    step: int,
    state: Any,
    *,
    settings: Mapping[str, Any],
    record: Mapping[str, Any],
    keep: int,
    best: int | None = None,
) -> None:
    """Write a checkpoint, then delete all but the newest ``keep`` and the best.

    Args:
        folder: the folder of the run's checkpoints.
        step: the checkpoint's number, greater than those before.
        state: a pytree of nonempty arrays.
        settings: what decides the run's trajectory, as plain JSON.
        record: what else to save, as plain JSON.
        keep: number of checkpoints to keep, ≥ 1.
        best: number of the best checkpoint, which is kept too.

    Raises:
        RunError: the checkpoint cannot be written; nothing of it remains, and older checkpoints are intact.
    """
    arrays = by_path(state)
    needed = sum(array.nbytes for array in arrays.values())
    partial = folder / f"{PARTIAL}{step}"
    content = {
        "format": FORMAT,
        "step": step,
        "arrays": {path: _signature(array) for path, array in arrays.items()},
        "settings": settings,
        "settings_sha256": manifest.sha256(settings),
        "record": record,
        "versions": {name: version(name) for name in _LIBRARIES},
    }
    try:
        processes.from_first(lambda: _make_room(partial, needed))
        _write(partial / ARRAYS, arrays)
        processes.from_first(lambda: _vouch_for(partial, content))
    except Exception as error:  # Orbax and TensorStore report a full disk in errors of their own
        if processes.is_first():
            shutil.rmtree(partial, ignore_errors=True)
        raise RunError(f"cannot save {needed} bytes in {folder}: {_reason(error)}") from error
    processes.from_first(lambda: _delete_all_but(keep, best, folder))


def _delete_all_but(keep: int, best: int | None, folder: Path) -> None:
    with as_run_error(folder):
        for old in saved(folder)[:-keep]:
            if int(old.name) == best:
                continue
            # Renamed first: an interrupted deletion must not look like a damaged checkpoint.
            shutil.rmtree(old.rename(folder / f"{PARTIAL}{old.name}"))


def probe(folder: Path) -> None:
    """Check, before there is anything to lose, that what is saved in a folder can be read back.

    Args:
        folder: the folder of the run's checkpoints.

    Raises:
        UnusableDirectory: nothing can be read back; nothing remains of the attempt.
    """
    partial = folder / f"{PARTIAL}trial-of-reading-back"
    numbers = np.arange(3, dtype=np.int32)
    everywhere = jax.sharding.NamedSharding(
        jax.sharding.Mesh(jax.devices(), "all"), jax.sharding.PartitionSpec()
    )
    like = {"x": jax.ShapeDtypeStruct(numbers.shape, numbers.dtype, sharding=everywhere)}
    written = {"x": jax.make_array_from_callback(numbers.shape, everywhere, numbers.__getitem__)}
    try:
        processes.from_first(lambda: _make_room(partial, needed=0))
        _write(partial / ARRAYS, by_path(written))
        read = _load(partial / ARRAYS, like)["x"].addressable_data(0).tolist()
    except Exception as error:  # of Orbax and TensorStore, or of the disk
        raise UnusableDirectory(f"checkpoints cannot be saved in {folder}: {_reason(error)}") from error
    finally:
        if processes.is_first():
            shutil.rmtree(partial, ignore_errors=True)
            with contextlib.suppress(OSError):  # there are checkpoints in it
                folder.rmdir()
    if read != [0, 1, 2]:
        raise UnusableDirectory(
            f"checkpoints cannot be saved in {folder}: wrote [0, 1, 2] there and read {read}"
        )


def _make_room(partial: Path, needed: int) -> None:
    with as_run_error(partial):
        partial.mkdir(parents=True)
        free = shutil.disk_usage(partial).free
        if free < needed:
            raise RunError(f"only {free} bytes are free")


def _vouch_for(partial: Path, content: dict[str, Any]) -> None:
    """Write the manifest, flush the checkpoint to the disk, and give it its final name."""
    with as_run_error(partial):
        manifest.write(partial, content)
        for path in [*partial.rglob("*"), partial]:
            flush(path)
        partial.rename(partial.with_name(f"{content['step']:09d}"))
        flush(partial.parent)


def restore(
    folder: Path,
    like_of: Callable[[Mapping[str, Any]], Any],
    settings: Mapping[str, Any],
    longer: bool = False,
) -> Restored | None:
    """Read the newest undamaged checkpoint, and delete what a killed save has left behind.

    A newer one that is damaged is renamed to ``damaged-…``, with a warning.

    Args:
        folder: the folder of the run's checkpoints.
        like_of: record → the state that was saved with it, as ``jax.ShapeDtypeStruct``. The result has its tree
            and its shardings.
        settings: what decides the run's trajectory, as plain JSON.
        longer: whether a larger number of steps is accepted.

    Returns:
        The state, on the first device if it has no shardings, and what was saved with it; None if there is no
        checkpoint.

    Raises:
        RunError: every checkpoint is damaged (the message names the files), or the newest good one has another
            format, other settings, or another tree, shape or dtype (it names the first difference).
    """
    find = as_run_error(folder)(_newest_undamaged)
    found = processes.from_first(lambda: find(folder, like_of, settings, longer))
    if found is None:
        return None
    path = folder / found["name"]
    try:
        state = _load(path / ARRAYS, like_of(found["record"]))
    except Exception as error:  # of Orbax and TensorStore, or of the disk
        raise RunError(f"{path} cannot be read: {_reason(error)}") from error
    return Restored(state, found["record"], found["settings"])


def _newest_undamaged(
    folder: Path, like_of: Callable[[Mapping[str, Any]], Any], settings: Mapping[str, Any], longer: bool
) -> dict[str, Any] | None:
    """The name of the checkpoint to resume, and what was saved with it, as plain JSON."""
    for leftover in _entries(folder):
        if leftover.name.startswith(PARTIAL) and (leftover.is_symlink() or leftover.is_dir()):
            delete(leftover)
    damaged: dict[Path, str] = {}
    for path in reversed(saved(folder)):
        try:
            content = manifest.read(path)
        except manifest.Damaged as damage:
            damaged[path] = str(damage)
            continue
        if content["format"] != FORMAT:
            raise RunError(f"{path} has format {content['format']}, this version reads {FORMAT}")
        refuse_other_settings(str(path), content["settings"], settings, longer)
        _refuse_other_arrays(path, content["arrays"], like_of(content["record"]))
        for bad, why in damaged.items():
            _log.warning("checkpoint %s is damaged (%s): going back to %s", bad, why, path.name)
            aside = folder / f"{DAMAGED}{bad.name}"
            shutil.rmtree(aside, ignore_errors=True)
            bad.rename(aside)
        return {"name": path.name, "record": content["record"], "settings": content["settings"]}
    if damaged:
        reasons = "; ".join(f"{path}: {why}" for path, why in damaged.items())
        raise RunError(f"every checkpoint is damaged: {reasons}")
    return None


def newest(folder: Path) -> str:
    """Describe the newest checkpoint, for a message."""
    checkpoints = saved(folder)
    return f"the newest checkpoint is {checkpoints[-1]}" if checkpoints else "there is no checkpoint"


def _load(path: Path, like: Any) -> Any:
    arrays = read_arrays(path, by_path(like))
    return jax.tree.unflatten(jax.tree.structure(like), list(arrays.values()))


def read_arrays(path: Path, like: Mapping[str, Any], left_out: Iterable[str] = ()) -> dict[str, Any]:
    """Read arrays of a checkpoint, by their names in the manifest.

    Args:
        path: the folder that Orbax has written.
        like: name → array or ``jax.ShapeDtypeStruct``; without a sharding, an array is put on the first device.
        left_out: names of the other arrays in it.
    """
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    targets: dict[str, Any] = {
        name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None) or device)
        for name, leaf in like.items()
    }
    item = targets | dict.fromkeys(left_out, ocp.PLACEHOLDER)
    arguments = ocp.checkpoint_utils.construct_restore_args(item)
    with _plain(path) as plain, ocp.PyTreeCheckpointer() as checkpointer:
        arrays = checkpointer.restore(plain, item=item, restore_args=arguments)
    return {name: arrays[name] for name in targets}


def _write(path: Path, arrays: Mapping[str, Any]) -> None:
    with _quiet(), _plain(path) as plain, ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(plain, arrays)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Report a disk error by its exception alone.

    Orbax also logs the error, with a traceback from each of its threads, which continue for a while; asyncio
    and TensorStore report abandoned event loops.
    """
    loggers, hook = [logging.getLogger("absl"), logging.getLogger("asyncio")], sys.unraisablehook
    running = set(threading.enumerate())

    def is_relevant(record: logging.LogRecord) -> bool:
        return record.levelno < logging.ERROR or not re.search("orbax|asyncio", record.pathname)

    def unraisable(of: Any) -> None:
        if not re.search("[Ee]vent ?[Ll]oop", str(of.exc_value)):
            hook(of)

    for logger in loggers:
        logger.addFilter(is_relevant)
    sys.unraisablehook = unraisable
    try:
        yield
    except Exception:
        deadline = time.monotonic() + _STRAGGLERS
        for thread in set(threading.enumerate()) - running:
            with contextlib.suppress(Exception):  # Orbax's threads raise here what failed in them
                thread.join(max(0, deadline - time.monotonic()))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
            gc.collect()
        raise
    finally:
        sys.unraisablehook = hook
        for logger in loggers:
            logger.removeFilter(is_relevant)


def _reason(error: Exception) -> str:
    """The message of an error, in one line; for TensorStore's errors, the message of the operating system."""
    found = re.search(r": ([^:\[]+) \[os_error_code=", str(error))
    return found[1] if found else one_line(error)


@contextlib.contextmanager
def _plain(path: Path) -> Iterator[Path]:
    """A path to the same place that Orbax and TensorStore take literally.

    They interpret globs, escapes and schemes in a path, and accept only UTF-8. A single process uses a link
    with a plain name; several processes would need a link that all of them see.

    Raises:
        RunError: there are several processes, and the path is not plain.
    """
    if os.name == "nt" or re.fullmatch(r"[\w./ ,=+@~%#()-]+", str(path)):  # Windows allows no other names
        yield path
    elif jax.process_count() > 1:
        raise RunError(f"a run of several processes needs a path of letters, digits and ./ ,=+@~%#()-_: {path}")
    else:
        with tempfile.TemporaryDirectory(prefix="optimiz-") as folder:
            link = Path(folder) / "checkpoint"
            link.symlink_to(path.parent, target_is_directory=True)
            yield link / path.name


def _refuse_other_arrays(checkpoint: Path, saved: Mapping[str, Any], like: Any) -> None:
    wanted = {path: _signature(leaf) for path, leaf in by_path(like).items()}
    for path in [*wanted, *saved]:
        there, here = saved.get(path, "absent"), wanted.get(path, "absent")
        if there != here:
            raise RunError(f"{checkpoint} does not fit the run: {path} was {there}, is {here}")


def by_path(tree: Any) -> dict[str, Any]:
    """The leaves of a tree, by their names in a manifest."""
    # A flat dict of paths: Orbax returns NamedTuples as dicts and empty nodes as None, and confuses
    # {"a": {"b": …}} with {"a.b": …}; the tree itself comes from the caller.
    return {jax.tree_util.keystr(path): x for path, x in jax.tree_util.tree_leaves_with_path(tree)}


def _signature(leaf: Any) -> str:
    return f"{leaf.dtype}{list(leaf.shape)}"


def _entries(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def saved(folder: Path) -> list[Path]:
    """The checkpoints of a run, oldest first, damaged or not."""
    return sorted(filter(is_checkpoint, _entries(folder)), key=lambda path: int(path.name))
