"""The Markdown of reports: tables, what was run, and what is rendered between two comments of a document."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, words: int = 1) -> str:
    """A table, without a line break at its end.

    Args:
        header: titles of the columns.
        rows: their cells.
        words: columns on the left that hold words; the others hold numbers.

    Example:
        >>> print(table(["method", "loss"], [["lion", "0.5"]]))
        | method | loss |
        | --- | ---: |
        | lion | 0.5 |
    """
    lines = [header, ["---"] * words + ["---:"] * (len(header) - words), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def what_was_run(asked: str, about: Mapping[str, Any]) -> str:
    """The section of a report that says how its numbers came about.

    Args:
        asked: the command, as typed.
        about: what else is to be told, such as settings and environment.

    Example:
        >>> print(what_was_run("python -m examples.low_bit_study", {"batch_size": 8}))
        ## What was run
        <BLANKLINE>
        - command: `python -m examples.low_bit_study`
        - batch size: 8
    """
    entries = {"command": f"`{asked}`", **about}
    return "## What was run\n\n" + "\n".join(f"- {name.replace('_', ' ')}: {x}" for name, x in entries.items())


def put_between(begin: str, end: str, text: str, document: Path) -> None:
    """Put a text in the place of the one between two comments of a document."""
    before, rest = document.read_text(encoding="utf-8").split(begin)
    _, after = rest.split(end)
    document.write_text(f"{before}{begin}\n\n{text}\n{end}{after}", encoding="utf-8")
