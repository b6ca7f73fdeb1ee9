"""Numbers, names and rows as Markdown."""

import math
from collections.abc import Mapping, Sequence
from typing import Any


def decimal(value: float) -> str:
    """A figure of three decimals."""
    return f"{value:.3f}" if math.isfinite(value) else "not finite"


def joined(names: Sequence[str]) -> str:
    """Names as a sentence has them."""
    return " and ".join(names) if len(names) < 3 else f"{', '.join(names[:-1])} and {names[-1]}"


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
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def listed(entries: Mapping[str, Any]) -> str:
    """A list of names and values.

    Example:
        >>> print(listed({"batch_size": 8}))
        - batch size: 8
    """
    return "\n".join(f"- {name.replace('_', ' ')}: {value}" for name, value in entries.items())
