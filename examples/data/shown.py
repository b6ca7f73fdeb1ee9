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


def name(text: str) -> str:
    r"""A value without quotes, where it needs none.

    Example:
        >>> print(name("spam"), name("spam\n"))
        spam 'spam\n'
    """
    return text if text.isprintable() and text == text.strip() and 0 < len(text) <= 60 else value(text)


def path(path: Path) -> str:
    """A path, with a sign in place of what is not UTF-8, which no file takes, and of what no line does."""
    decoded = os.fsencode(path).decode("utf-8", "replace")
    return "".join(mark if mark.isprintable() else "\ufffd" for mark in decoded)
