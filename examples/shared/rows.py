"""The rows of a study: one JSON object a line, so that a study that was stopped goes on where it was.

A row is on the disk before the next one is measured, and one process at a time adds to a file.
"""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import filelock

from examples.shared import strict_json
from optimiz import compare, training

Row = Mapping[str, Any]
_HEAD = {"settings": Mapping[str, Any], "environment": Mapping[str, Any]}


class Rows:
    """What a study has measured, one JSON object a line after one with the settings; a context that holds it.

    Args:
        path: the file; made if it is missing.
        settings: what all rows share, as plain JSON.
        fields: a row that is read → the types of its fields by name, as ``compare.check_fields`` takes them.

    Raises:
        OSError: the file cannot be written.
        RunError: another process is at it.
        ValueError: the file is of other settings, or is no such file; with its name, and the field.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], fields: Callable[[Row], Mapping[str, Any]]):
        self._path, self._fields = path, fields
        self._lock = filelock.FileLock(path.with_name(path.name + ".lock"), thread_local=False)
        try:
            self._lock.acquire(timeout=0)
        except filelock.Timeout:
            raise training.RunError(f"{path} is in use by another process") from None
        except NotImplementedError as error:  # filelock, of a file system without locks
            raise training.RunError(f"{path} cannot be locked: {error}") from error
        try:
            self._open(settings)
        except BaseException:
            self._lock.release()
            raise

    def __enter__(self) -> "Rows":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()

    def _open(self, settings: Mapping[str, Any]) -> None:
        path = self._path
        self.head = {"settings": json.loads(json.dumps(settings)), "environment": compare.environment()}
        self.rows: list[Row] = []
        text = path.read_bytes() if path.exists() else b""
        whole = text[: text.rfind(b"\n") + 1]  # a line that was cut short is run again
        if whole:
            self.head, *self.rows = (
                strict_json.parse_object(line, f"{path}:{number}")
                for number, line in enumerate(whole.splitlines(), start=1)
            )
            self._check(1, self.head, lambda head: _HEAD)
            for number, row in enumerate(self.rows, start=2):
                self._check(number, row, self._fields)
            if self.head["settings"] != settings:
                raise ValueError(f"{path} is of other settings: {self.head['settings']}, not {dict(settings)}")
        else:
            whole = json.dumps(self.head).encode() + b"\n"
        if whole != text:
            training.write_whole(path, whole)

    def _check(self, number: int, row: Row, fields: Callable[[Row], Mapping[str, Any]]) -> None:
        try:
            compare.check_fields(row, fields(row), finite=False)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{self._path}:{number}: {error}") from None

    def reported(self, write: Callable[["Rows"], str]) -> str:
        """Write the report of the rows.

        Args:
            write: writes it, and returns what is to be shown.

        Raises:
            OSError: a file cannot be written.
            ValueError: the rows do not go together, such as where someone has changed them; naming the file.
        """
        try:
            return write(self)
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            said = f"{type(error).__name__}: {error}"
            raise ValueError(f"{self._path} has rows that cannot be reported: {said}") from error

    def has(self, **wanted: Any) -> bool:
        """Whether there is a row with these fields."""
        return any(all(name in row and row[name] == x for name, x in wanted.items()) for row in self.rows)

    def add(self, row: Row) -> None:
        """Write a row down.

        Raises:
            OSError: it cannot be written, as on a full disk; the file is then as it was.
        """
        with self._path.open("ab") as file:
            size = file.tell()
            try:
                file.write(json.dumps(row).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
            except OSError as error:
                file.truncate(size)
                raise OSError(error.errno, error.strerror, str(self._path)) from error
        self.rows.append(row)
