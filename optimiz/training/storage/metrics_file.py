"""Figures as JSON lines: one row a line, appended, and cut back to what a checkpoint vouches for.

A row is a dict of numbers, or of lists or dicts of numbers. JSON has no NaN and no infinity, so they are
written as the strings "NaN", "Infinity" and "-Infinity", which ``float`` reads; null would lose
which of them it was.
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
    """Append rows to a file, which is created where it does not exist.

    Returns:
        What was appended.

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
    """Read the rows of a file; a last line without its newline, torn by a crash, is not a row.

    Raises:
        RunError: the file cannot be read, or a line is no JSON object, with its number.
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
    """The content of a file; none where it does not exist.

    Raises:
        RunError: it cannot be read.
    """
    with as_run_error(path):
        return path.read_bytes() if path.exists() else b""


def sync(path: Path) -> int:
    """Force a file onto the disk and return its length in bytes.

    Raises:
        RunError: it cannot be done.
    """
    with as_run_error(path):
        flush(path)
        return path.stat().st_size


def truncate(path: Path, size: int) -> None:
    """Cut a file back to its first ``size`` bytes.

    Raises:
        RunError: the file is shorter than that, or cannot be cut.
    """
    with as_run_error(path):
        present = path.stat().st_size if path.exists() else 0
        if present < size:
            raise RunError(f"{path} has {present} bytes, but the checkpoint was made when it had {size}")
        if present > size:
            with path.open("r+b") as file:
                file.truncate(size)


def drop_torn_line(path: Path) -> None:
    """Cut off a last line that a crash left without its newline."""
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
