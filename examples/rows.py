"""The rows of a study: one JSON object a line, so that a study that was stopped goes on where it was."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from examples import strict_json
from optimiz import compare

Row = Mapping[str, Any]


class Rows:
    """What a study has measured, one JSON object a line after one with the settings.

    Args:
        path: the file; made if it is missing.
        settings: what all rows share, as plain JSON.

    Raises:
        ValueError: the file is of other settings, or is no such file.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]):
        self._path = path
        self.head = {"settings": json.loads(json.dumps(settings)), "environment": compare.environment()}
        self.rows: list[Row] = []
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
        whole = [line for line in lines if line.endswith("\n")]  # a line that was cut short is run again
        if whole:
            self.head, *self.rows = (
                strict_json.parse_object(line, f"{path}:{number}") for number, line in enumerate(whole, start=1)
            )
            if "settings" not in self.head:
                raise ValueError(f"{path}:1 must have settings, got {', '.join(self.head)}")
            if self.head["settings"] != settings:
                raise ValueError(f"{path} is of other settings: {self.head['settings']}, not {dict(settings)}")
        path.write_text("".join(whole) or json.dumps(self.head) + "\n", encoding="utf-8")

    def has(self, **wanted: Any) -> bool:
        """Whether there is a row with these fields."""
        return any(all(name in row and row[name] == x for name, x in wanted.items()) for row in self.rows)

    def add(self, row: Row) -> None:
        """Write a row down."""
        self.rows.append(row)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
