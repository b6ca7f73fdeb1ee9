"""Markdown for reports: how their numbers were obtained."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from examples.shared import strict_json
from optimiz import compare


def what_was_run(record: compare.Record, about: Mapping[str, Any] | None = None) -> str:
    """The section of a report that says how its numbers were obtained.

    Args:
        record: record of the report.
        about: further entries, shown first.
    """
    entries = {**(about or {}), **record.settings, "date": record.date, **record.environment}
    flat = {
        name: ", ".join(f"{inner} {x}" for inner, x in value.items()) if isinstance(value, Mapping) else value
        for name, value in entries.items()
    }
    return f"## What was run\n\n- command: {compare.code(record.command)}\n{compare.listed(flat)}"


def read_record(path: Path, render: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """Read the record of a benchmark, in order to continue it.

    Args:
        path: file of the record.
        render: function that renders the record; if it fails, the record is refused before more is measured.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is not such a record; the message names it.
    """
    record = strict_json.read_object(path)
    try:
        compare.check_fields(record, {"environment": Mapping[str, Any], "rows": Sequence[Mapping[str, Any]]})
        if record["rows"]:
            render(record)
    except (ArithmeticError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{path} is not a record that can be reported: {type(error).__name__}: {error}"
        ) from error
    return record
