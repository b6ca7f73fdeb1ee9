"""The Markdown of reports: what was run, and what is rendered between two comments of a document."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optimiz import compare, training


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
    return f"## What was run\n\n- command: {compare.code(asked)}\n" + compare.listed(about)


def put_between(begin: str, end: str, text: str, document: Path) -> None:
    """Put a text in the place of the one between two comments of a document."""
    before, rest = document.read_text(encoding="utf-8").split(begin)
    _, after = rest.split(end)
    training.write_whole(document, f"{before}{begin}\n\n{text}\n{end}{after}")
