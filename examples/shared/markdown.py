"""The Markdown of reports: what was run, and what is rendered between two comments of a document."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from examples.shared import strict_json
from optimiz import compare, training


def what_was_run(asked: str, about: Mapping[str, Any]) -> str:
    """The section of a report that says how its numbers came about.

    Args:
        asked: the command, as typed.
        about: what else is to be told, such as settings and environment.

    Example:
        >>> print(what_was_run("python -m examples.studies.low_bit.study", {"batch_size": 8}))
        ## What was run
        <BLANKLINE>
        - command: `python -m examples.studies.low_bit.study`
        - batch size: 8
    """
    return f"## What was run\n\n- command: {compare.code(asked)}\n" + compare.listed(about)


def read_record(path: Path, render: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """Read the record of a benchmark that is to go on.

    Args:
        path: of the file.
        render: makes a page of it; what it cannot render is refused before more is measured.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no such record; naming it.
    """
    record = strict_json.read_object(path)
    try:
        compare.check_fields(record, {"environment": Mapping[str, Any], "rows": Sequence[Mapping[str, Any]]})
        if record["rows"]:
            render(record)
    except (ArithmeticError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{path} is no record that can be reported: {type(error).__name__}: {error}"
        ) from error
    return record


def with_names(rows: Iterable[Mapping[str, Any]], *names: str) -> list[Mapping[str, Any]]:
    r"""Rows whose names may stand in Markdown as they are.

    Args:
        rows: of a study.
        *names: of the fields that hold names.

    Example:
        >>> with_names([{"arm": "<b>", "seed": 0}], "arm")[0]["arm"]
        '\\<b\\>'
    """
    return [{**row, **{name: compare.escaped(row[name]) for name in names if name in row}} for row in rows]


def put_between(begin: str, end: str, text: str, document: Path) -> None:
    """Put a text in the place of the one between two comments of a document."""
    before, rest = document.read_text(encoding="utf-8").split(begin)
    _, after = rest.split(end)
    training.write_whole(document, f"{before}{begin}\n\n{text}\n{end}{after}")
