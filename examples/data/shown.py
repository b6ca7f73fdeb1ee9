"""What others wrote, in one line of a message: escaped, and cut where it is long."""

import os
from collections.abc import Iterable
from pathlib import Path


def value(text: str) -> str:
    r"""A value, in quotes.

    Example:
        >>> print(value("so\nit goes"))
        'so\nit goes'
    """
    quoted = repr(text)
    return quoted if len(quoted) <= 60 else f"{quoted[:57]}..."


def values(names: Iterable[str]) -> str:
    """Values, without an end where there are very many."""
    names = list(names)
    return ", ".join(map(value, names[:20])) + (", ..." if len(names) > 20 else "")


def path(path: Path) -> str:
    """A path, with a sign in place of what is not UTF-8, which no file or screen would take."""
    return os.fsencode(path).decode("utf-8", "replace")
