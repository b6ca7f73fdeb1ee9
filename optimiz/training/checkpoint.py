"""Checkpoints that are complete or absent, and whose every byte is vouched for.

Orbax writes the arrays, one per tree path; ``manifest.json`` beside them lists what was written:
shapes, dtypes, settings, versions, and the size and SHA-256 of every file, itself included. A
checkpoint is written under another name, flushed to the disk and then renamed, so a process may die
at any moment.
"""

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from optimiz.training import hosts
from optimiz.training.run_directory import (
    DAMAGED,
    PARTIAL,
    RunError,
    UnusableDirectory,
    delete,
    flush,
    is_checkpoint,
    refuse_other_settings,
)

try:
    import orbax.checkpoint as ocp
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        'optimiz.training writes its checkpoints with Orbax: pip install "optimiz[train]"',
        name=error.name,
    ) from error

FORMAT = 1
_ARRAYS, _MANIFEST = "arrays", "manifest.json"
_LIBRARIES = ("jax", "numpy", "optax", "orbax-checkpoint")

_log = logging.getLogger(__name__)


class Restored(NamedTuple):
    """A checkpoint: the state, and the record that was saved beside it."""

    state: Any
    record: dict[str, Any]


class _Damaged(Exception):
    """The files of a checkpoint are not what its manifest says."""


def save(
    folder: Path,
    step: int,
    state: Any,
    *,
    settings: Mapping[str, Any],
    record: Mapping[str, Any],
    keep: int,
) -> None:
    """Write a checkpoint, then delete all but the newest ``keep``.

    Args:
        folder: where the checkpoints of one run lie.
        step: the checkpoint's number, greater than those before.
        state: a pytree of arrays, none of them empty.
        settings: what decides the run's trajectory, as plain JSON.
        record: what else to save, as plain JSON.
        keep: how many checkpoints to keep, ≥ 1.

    Raises:
        RunError: it cannot be written; nothing of it is left, and the older ones are.
    """
    arrays = _by_path(state)
    needed = sum(array.nbytes for array in arrays.values())
    partial = folder / f"{PARTIAL}{step}"
    manifest = {
        "format": FORMAT,
        "step": step,
        "arrays": {path: _signature(array) for path, array in arrays.items()},
        "settings": settings,
        "settings_sha256": _sha256(settings),
        "record": record,
        "versions": {name: version(name) for name in _LIBRARIES},
    }
    try:
        hosts.from_first(lambda: _make_room(partial, needed))
        _write(partial / _ARRAYS, arrays)
        hosts.from_first(lambda: _vouch_for(partial, manifest))
    except Exception as error:  # Orbax and TensorStore report a full disk in errors of their own
        if hosts.is_first():
            shutil.rmtree(partial, ignore_errors=True)
        reason = str(error).partition("\n")[0]
        raise RunError(f"cannot save {needed} bytes in {folder}: {reason}") from error
    if hosts.is_first():
        for old in _checkpoints(folder)[:-keep]:
            # Under another name first: a deletion cut short must not look like a damaged checkpoint.
            shutil.rmtree(old.rename(folder / f"{PARTIAL}{old.name}"))


def probe(folder: Path) -> None:
    """Find out, before there is anything to lose, whether what is saved in a folder can be read.

    Args:
        folder: where the checkpoints of one run will lie.

    Raises:
        UnusableDirectory: it cannot; nothing is left of the attempt.
    """
    partial = folder / f"{PARTIAL}trial-of-reading-back"
    numbers = np.arange(3, dtype=np.int32)
    everywhere = jax.sharding.NamedSharding(
        jax.sharding.Mesh(jax.devices(), "all"), jax.sharding.PartitionSpec()
    )
    like = {"x": jax.ShapeDtypeStruct(numbers.shape, numbers.dtype, sharding=everywhere)}
    written = {"x": jax.make_array_from_callback(numbers.shape, everywhere, numbers.__getitem__)}
    try:
        hosts.from_first(lambda: _make_room(partial, needed=0))
        _write(partial / _ARRAYS, _by_path(written))
        read = _load(partial / _ARRAYS, like)["x"].addressable_data(0).tolist()
    except Exception as error:  # of Orbax and TensorStore, or of the disk
        reason = str(error).partition("\n")[0]
        raise UnusableDirectory(f"checkpoints cannot be saved in {folder}: {reason}") from error
    finally:
        if hosts.is_first():
            shutil.rmtree(partial, ignore_errors=True)
            with contextlib.suppress(OSError):  # there are checkpoints in it
                folder.rmdir()
    if read != [0, 1, 2]:
        raise UnusableDirectory(
            f"checkpoints cannot be saved in {folder}: what was written there is read as {read}"
        )


def _make_room(partial: Path, needed: int) -> None:
    with _told_as_run_error():
        partial.mkdir(parents=True)
        free = shutil.disk_usage(partial).free
        if free < needed:
            raise RunError(f"{free} bytes are free")


def _vouch_for(partial: Path, manifest: dict[str, Any]) -> None:
    """Write the manifest, make the checkpoint last, and give it its name."""
    with _told_as_run_error():
        manifest["files"] = _files(partial)
        manifest["manifest_sha256"] = _sha256(manifest)
        (partial / _MANIFEST).write_text(json.dumps(manifest, indent=1))
        for path in [*partial.rglob("*"), partial]:
            flush(path)
        partial.rename(partial.with_name(f"{manifest['step']:09d}"))
        flush(partial.parent)


@contextlib.contextmanager
def _told_as_run_error() -> Iterator[None]:
    """Let the first process's trouble with its disk reach the others."""
    try:
        yield
    except OSError as error:
        raise RunError(str(error)) from error


def restore(
    folder: Path, like_of: Callable[[Mapping[str, Any]], Any], settings: Mapping[str, Any]
) -> Restored | None:
    """Read the newest checkpoint that is undamaged, and clear away what a killed save left.

    A damaged one that is newer is set aside under the name ``damaged-…``, with a warning.

    Args:
        folder: where the checkpoints of one run lie.
        like_of: record → the state that was saved beside it, as ``jax.ShapeDtypeStruct``; the result has its
            tree, and lies as its shardings say.
        settings: what decides the run's trajectory, as plain JSON.

    Returns:
        The state, without shardings on the first device, and the record saved with it; None where there is no
        checkpoint.

    Raises:
        RunError: every checkpoint is damaged, with the files; or the newest good one has another
            format, other settings, or another tree, shape or dtype, with the first that differs.
    """
    found = hosts.from_first(lambda: _newest_undamaged(folder, like_of, settings))
    if found is None:
        return None
    return Restored(_load(folder / found["name"] / _ARRAYS, like_of(found["record"])), found["record"])


def _newest_undamaged(
    folder: Path, like_of: Callable[[Mapping[str, Any]], Any], settings: Mapping[str, Any]
) -> dict[str, Any] | None:
    """The name and the record of the checkpoint to go on with, as plain JSON."""
    for leftover in _entries(folder):
        if leftover.name.startswith(PARTIAL) and (leftover.is_symlink() or leftover.is_dir()):
            delete(leftover)
    damaged: dict[Path, str] = {}
    for path in reversed(_checkpoints(folder)):
        try:
            manifest = _verified(path)
        except _Damaged as damage:
            damaged[path] = str(damage)
            continue
        if manifest["format"] != FORMAT:
            raise RunError(f"{path} has format {manifest['format']}, this version reads {FORMAT}")
        refuse_other_settings(str(path), manifest["settings"], settings)
        _refuse_other_arrays(path, manifest["arrays"], like_of(manifest["record"]))
        for bad, why in damaged.items():
            _log.warning("checkpoint %s is damaged (%s): going back to %s", bad, why, path.name)
            aside = folder / f"{DAMAGED}{bad.name}"
            shutil.rmtree(aside, ignore_errors=True)
            bad.rename(aside)
        return {"name": path.name, "record": manifest["record"]}
    if damaged:
        reasons = "; ".join(f"{path}: {why}" for path, why in damaged.items())
        raise RunError(f"no checkpoint is undamaged: {reasons}")
    return None


def newest(folder: Path) -> str:
    """Name the newest checkpoint, for a message."""
    checkpoints = _checkpoints(folder)
    return f"the newest checkpoint is {checkpoints[-1]}" if checkpoints else "there is no checkpoint"


def _load(path: Path, like: Any) -> Any:
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    targets = {
        name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding or device)
        for name, leaf in _by_path(like).items()
    }
    with _plain(path) as plain, ocp.StandardCheckpointer() as checkpointer:
        arrays = checkpointer.restore(plain, targets)
    return jax.tree.unflatten(jax.tree.structure(like), [arrays[name] for name in targets])


def _write(path: Path, arrays: Mapping[str, Any]) -> None:
    with _plain(path) as plain, ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(plain, arrays)


@contextlib.contextmanager
def _plain(path: Path) -> Iterator[Path]:
    """A path to the same place that Orbax and TensorStore take as it is.

    They read globs, escapes and schemes in a path, and take no bytes but UTF-8. A process that is alone goes
    through a link of a plain name; several would need one that all of them see.

    Raises:
        RunError: there are several processes, and the path is not plain.
    """
    if os.name == "nt" or re.fullmatch(r"[\w./ ,=+@~%#()-]+", str(path)):  # Windows has no such names
        yield path
    elif jax.process_count() > 1:
        raise RunError(f"a run of several processes needs a path of letters, digits and ./ ,=+@~%#()-_: {path}")
    else:
        with tempfile.TemporaryDirectory(prefix="optimiz-") as folder:
            link = Path(folder) / "checkpoint"
            link.symlink_to(path.parent, target_is_directory=True)
            yield link / path.name


def _verified(checkpoint: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((checkpoint / _MANIFEST).read_bytes())
        digest = manifest.pop("manifest_sha256")
    except FileNotFoundError:
        raise _Damaged(f"{_MANIFEST} is missing") from None
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError) as error:
        raise _Damaged(f"{_MANIFEST} cannot be read: {error}") from None
    if _sha256(manifest) != digest:
        raise _Damaged(f"{_MANIFEST} does not match its SHA-256")
    present = _files(checkpoint)
    for name, expected in manifest["files"].items():
        if name not in present:
            raise _Damaged(f"{name} is missing")
        if present[name] != expected:
            raise _Damaged(f"{name} does not match its size and SHA-256")
    return manifest  # other files are none of the checkpoint's, and are not read


def _refuse_other_arrays(checkpoint: Path, saved: Mapping[str, Any], like: Any) -> None:
    wanted = {path: _signature(leaf) for path, leaf in _by_path(like).items()}
    for path in [*wanted, *saved]:
        there, here = saved.get(path, "absent"), wanted.get(path, "absent")
        if there != here:
            raise RunError(f"{checkpoint} does not fit: {path} is {there} there, {here} here")


def _by_path(tree: Any) -> dict[str, Any]:
    # A flat dict of paths: Orbax returns NamedTuples as dicts and empty nodes as None, and confuses
    # {"a": {"b": …}} with {"a.b": …}; the tree itself comes from the code that asks for it.
    return {jax.tree_util.keystr(path): x for path, x in jax.tree_util.tree_leaves_with_path(tree)}


def _signature(leaf: Any) -> str:
    return f"{leaf.dtype}{list(leaf.shape)}"


def _entries(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(filter(is_checkpoint, _entries(folder)), key=lambda path: int(path.name))


def _files(checkpoint: Path) -> dict[str, dict[str, Any]]:
    files = {}
    for path in sorted(checkpoint.rglob("*")):
        if path.is_file() and path != checkpoint / _MANIFEST:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            name = path.relative_to(checkpoint).as_posix()
            files[name] = {"bytes": path.stat().st_size, "sha256": digest}
    return files


def _sha256(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
