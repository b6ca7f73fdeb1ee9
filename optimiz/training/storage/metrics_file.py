"""Metrics as JSON lines: one row per line, appended, and truncated to what a checkpoint has recorded.

A row is a dict of numbers, or of lists or dicts of numbers. JSON has neither NaN nor infinity, so they are
written as the strings "NaN", "Infinity" and "-Infinity", which ``float`` reads; null would not tell them apart.
"""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from optimiz.training.errors import RunError, as_run_error
from optimiz.training.storage.whole_file import flush

_NON_FINITE = ("NaN", "Infinity", "-Infinity")


def append(path: Path, rows: Iterable[Mapping[str, Any]]) -> bytes:
    """Append rows to a file, which is created if it does not exist.

    Returns:
        The bytes appended.

    Raises:
        RunError: the rows cannot be written.
    """
    text = "".join(json.dumps(_writable(row), allow_nan=False) + "\n" for row in rows).encode()
    try:
        with path.open("ab") as file:
            file.write(text)
    except OSError as error:
        raise RunError(f"cannot write {len(text)} bytes to {path}: {error.strerror}") from error
    return text


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read the rows of a file; an incomplete last line, left by a crash, is ignored.

    Raises:
        RunError: the file cannot be read, or a line is not a JSON object; the message gives its number.
    """
    rows = []
    lines = read(path).split(b"\n")[:-1]
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise RunError(f"{path}:{number} is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise RunError(f"{path}:{number} must be a JSON object, got {type(row).__name__}")
        rows.append(_readable(row))
    return rows


def read(path: Path) -> bytes:
    """The content of a file; empty if it does not exist.

    Raises:
        RunError: it cannot be read.
    """
    with as_run_error(path):
        return path.read_bytes() if path.exists() else b""


def sync(path: Path) -> int:
    """Force a file onto the disk and return its length in bytes.

    Raises:
        RunError: the file cannot be flushed.
    """
    with as_run_error(path):
        flush(path)
        return path.stat().st_size


def truncate(path: Path, size: int) -> None:
    """Truncate a file to its first ``size`` bytes.

    Raises:
        RunError: the file is shorter than that, or cannot be truncated.
    """
    with as_run_error(path):
        present = path.stat().st_size if path.exists() else 0
        if present < size:
            raise RunError(f"{path} has {present} bytes, but the checkpoint was made when it had {size}")
        if present > size:
            with path.open("r+b") as file:
                file.truncate(size)


def drop_torn_line(path: Path) -> None:
    """Remove an incomplete last line that a crash has left."""
    truncate(path, read(path).rfind(b"\n") + 1)


def _writable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _writable(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_writable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def _readable(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _readable(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_readable(item) for item in value]
    return float(value) if value in _NON_FINITE else value
