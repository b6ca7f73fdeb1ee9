"""Markdown for reports: how their numbers were obtained."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from examples.shared import strict_json
from optimiz import compare, training


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


def study_page(
    record: compare.Record, *parts: str, numbers: str = "", about: Mapping[str, Any] | None = None
) -> str:
    """The page of a study: its title, its parts, what was run, and where its numbers are.

    Args:
        record: record of the study.
        *parts: paragraphs, headings, tables and pictures.
        numbers: what to add to the sentence that every number is in the record.
        about: entries about the runs beyond the settings, shown first.
    """
    page = [f"# {compare.escaped(record.title)}", *parts, what_was_run(record, about)]
    return "\n\n".join([*page, f"Every number is in `record.json`{numbers}."]) + "\n"


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


def write_record(record: dict[str, Any], path: Path, render: Callable[[dict[str, Any]], str]) -> None:
    """Write the record of a benchmark, and its report in the same directory once there is a row.

    Args:
        record: the record.
        path: file of the record; its directory is created.
        render: function that renders the record.

    Raises:
        OSError: a file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    training.write_whole(path, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    if record["rows"]:
        training.write_whole(path.parent / "report.md", render(record))


def difference(found: compare.Difference, digits: str = ".3f") -> str:
    """A difference and its interval.

    Example:
        >>> difference(compare.paired_difference([0.8, 0.9], [0.7, 0.6]))
        '+0.200 (-1.071 to +1.471)'
    """
    return f"{found.mean:+{digits}} ({found.low:+{digits}} to {found.high:+{digits}})"
