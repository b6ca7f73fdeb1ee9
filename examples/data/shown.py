"""Text from outside, as part of a one-line message: escaped, and cut if it is long."""

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
    """Values, in quotes; at most twenty of them."""
    names = list(names)
    return ", ".join(map(value, names[:20])) + (", ..." if len(names) > 20 else "")


def name(text: str) -> str:
    r"""A value, in quotes only if it needs them.

    Example:
        >>> print(name("spam"), name("spam\n"))
        spam 'spam\n'
    """
    return text if text.isprintable() and text == text.strip() and 0 < len(text) <= 60 else value(text)


def path(path: Path) -> str:
    """A path, with U+FFFD in place of what is not UTF-8 or not printable."""
    decoded = os.fsencode(path).decode("utf-8", "replace")
    return "".join(mark if mark.isprintable() else "\ufffd" for mark in decoded)
