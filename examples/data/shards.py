"""Shards, files of many documents each, which are read as they are needed and so need not fit into memory.

They are Parquet, Arrow (as the Hugging Face library `datasets` saves data), JSON lines or ArrayRecord.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from examples.data import columnar, shown
from optimiz import checks

_ROWS_AT_ONCE = 1000
Rows = Iterator[tuple[str, Any]]
"""Place (file and row, from 0) and value, for each row."""


class Documents:
    """The texts of shards, in the order of their paths; every iteration reads them again.

    Args:
        paths: the shards.
        column: the field of the text; a record of an ArrayRecord is the text itself.

    Raises:
        ImportError: a package that reads such files is not installed.
        ValueError: in an iteration, a file cannot be read or lacks the column, or a text is not a string; the
            message names the file and the row.
    """

    def __init__(self, paths: list[Path], column: str):
        self.paths, self._column = paths, column
        for suffix in {path.suffix for path in paths}:
            package = _PACKAGES.get(suffix)
            if package is not None:
                checks.installed(f"reading {suffix}", "shards", package)

    def __iter__(self) -> Iterator[str]:
        for path in self.paths:
            for where, text in _READERS[path.suffix](path, self._column):
                if not isinstance(text, str):
                    raise ValueError(f"{where}: {self._column!r} must be a string, got {type(text).__name__}")
                if text.strip():
                    yield text


class Share:
    """Those documents whose place is in a range; every iteration reads them again.

    Args:
        documents: the documents.
        place: document → its place, in [0, 1).
        start: start of the range.
        end: end of the range.
    """

    def __init__(self, documents: Documents, place: Callable[[str], float], start: float, end: float):
        self._documents, self._place, self._range = documents, place, (start, end)

    def __iter__(self) -> Iterator[str]:
        start, end = self._range
        return (document for document in self._documents if start <= self._place(document) < end)


def _columnar(path: Path, column: str) -> Rows:
    file = columnar.opened(path)
    _check_column(path, column, file.columns)
    for where, row in file.rows([column], _ROWS_AT_ONCE):
        yield where, row[column]


def _json_lines(path: Path, column: str) -> Rows:
    with path.open("rb") as lines:
        for number, line in enumerate(lines):
            if not line.strip():
                continue
            where = f"{shown.path(path)}, row {number}"
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{where}: not JSON: {error}") from None
            if not isinstance(record, dict):
                raise ValueError(f"{where}: must be an object, got {type(record).__name__}")
            _check_column(path, column, list(record))
            yield where, record[column]


def _array_record(path: Path, column: str) -> Rows:
    from grain.sources import ArrayRecordDataSource

    number = 0
    try:
        records = ArrayRecordDataSource(str(path))
        for number in range(len(records)):
            yield f"{shown.path(path)}, row {number}", records[number].decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{shown.path(path)}, row {number}: not UTF-8 at byte {error.start}") from None
    except Exception as error:  # of the library's C++
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{shown.path(path)} cannot be read: {reason}") from None


_READERS: Mapping[str, Callable[[Path, str], Rows]] = {
    columnar.PARQUET: _columnar,
    columnar.ARROW: _columnar,
    ".jsonl": _json_lines,
    ".array_record": _array_record,
    ".arrayrecord": _array_record,
}
_PACKAGES = {
    columnar.PARQUET: "pyarrow",
    columnar.ARROW: "pyarrow",
    ".array_record": "grain",
    ".arrayrecord": "grain",
}
SUFFIXES = frozenset(_READERS)


def _check_column(path: Path, column: str, names: list[str]) -> None:
    if names.count(column) != 1:
        said = f"no column {column!r}" if column not in names else f"column {column!r} twice"
        raise ValueError(f"{shown.path(path)}: {said}; it has {shown.values(names)}")
