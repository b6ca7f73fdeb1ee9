"""The manifest of a checkpoint, ``manifest.json``.

It lists the arrays with their shapes and dtypes, the settings and conditions under which they were computed,
the size and SHA-256 of every file, and its own SHA-256.
"""

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

MANIFEST = "manifest.json"


class Damaged(Exception):
    """The files of a checkpoint do not match its manifest, or the manifest is malformed."""


def write(checkpoint: Path, manifest: dict[str, Any]) -> None:
    """Write a manifest next to the files that it lists.

    Args:
        checkpoint: the directory of the files.
        manifest: the rest of its content, as plain JSON.
    """
    manifest["files"] = _files(checkpoint)
    manifest["manifest_sha256"] = sha256(manifest)
    (checkpoint / MANIFEST).write_text(json.dumps(manifest, indent=1))


def read(checkpoint: Path) -> dict[str, Any]:
    """Read a manifest, and check the files that it lists.

    Other files do not belong to the checkpoint and are not read.

    Raises:
        Damaged: a file is missing or has changed (the message names the first), or a field has the wrong type.
        OSError: a file cannot be read.
    """
    try:
        manifest = json.loads((checkpoint / MANIFEST).read_bytes())
        digest = manifest.pop("manifest_sha256")
        same = sha256(manifest) == digest
    except FileNotFoundError:
        raise Damaged(f"{MANIFEST} is missing") from None
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError) as error:
        raise Damaged(f"{MANIFEST} cannot be read: {error}") from None
    if not same:
        raise Damaged(f"{MANIFEST} does not match its SHA-256")
    _refuse_other_kinds(manifest, _FIELDS, "")
    _refuse_other_kinds(manifest["record"], _RECORD, "record.")
    present = _files(checkpoint)
    for name, expected in manifest["files"].items():
        if name not in present:
            raise Damaged(f"{name} is missing")
        if present[name] != expected:
            raise Damaged(f"{name} does not match its size and SHA-256")
    return manifest


def sha256(value: Any) -> str:
    """The digest of plain JSON, independent of whitespace and of the order of keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _files(checkpoint: Path) -> dict[str, dict[str, Any]]:
    files = {}
    for path in sorted(checkpoint.rglob("*")):
        if path.is_file() and path != checkpoint / MANIFEST:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            name = path.relative_to(checkpoint).as_posix()
            files[name] = {"bytes": path.stat().st_size, "sha256": digest}
    return files


class _Kind(NamedTuple):
    """What a field may contain."""

    words: str
    holds: Callable[[Any], bool]
    required: bool = True


def _of(kind: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, dict) and all(isinstance(item, kind) for item in value.values())


def _is_best(value: Any) -> bool:
    # "figure" names the metric, in manifests of all versions.
    kinds = {"figure": str, "lower_is_better": bool, "value": float, "steps": int, "checkpoint": int}
    return isinstance(value, dict) and {name: type(item) for name, item in value.items()} == kinds


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


_COUNT = _Kind("a whole number", lambda value: type(value) is int and 0 <= value < 2**63)
_OBJECT = _Kind("an object", lambda value: isinstance(value, dict))
_FIELDS = {
    "format": _COUNT,
    "step": _COUNT,
    "arrays": _Kind("an object of texts", _of(str)),
    "settings": _OBJECT,
    "record": _OBJECT,
    "files": _Kind("an object of objects, at least one", lambda value: bool(value) and _of(dict)(value)),
    "versions": _Kind("an object of texts", _of(str), required=False),
}
# What the loop saves with the state.
_RECORD = {
    "seconds": _Kind(
        "a number of at least 0",
        lambda value: type(value) in (int, float) and 0 <= value < math.inf,
    ),
    "metrics_bytes": _COUNT,
    "metrics_sha256": _Kind("a text", lambda value: isinstance(value, str), required=False),
    "stage": _COUNT._replace(required=False),
    "best": _Kind(
        "an object of figure, lower_is_better, value, steps and checkpoint", _is_best, required=False
    ),
    "unimproved": _COUNT._replace(required=False),
    "conditions": _Kind("an object of objects", _of(dict), required=False),
    "data": _Kind("a list of texts", _are_texts, required=False),
    "traced": _Kind("an object of texts", _of(str), required=False),
}


def _refuse_other_kinds(holder: dict[str, Any], kinds: dict[str, _Kind], prefix: str) -> None:
    for name, kind in kinds.items():
        if name not in holder:
            if kind.required:
                raise Damaged(f"{MANIFEST} has no {prefix}{name}")
        elif not kind.holds(holder[name]):
            found = json.dumps(holder[name])
            found = found if len(found) <= 80 else found[:77] + "…"
            raise Damaged(f"{MANIFEST}: {prefix}{name} must be {kind.words}, got {found}")
