"""Parts of the pages of the reference, in MyST."""

import inspect
from collections.abc import Iterable
from typing import Any


def directive(kind: str, name: str, *options: str) -> str:
    """A directive of Sphinx, with options that have no value."""
    body = "\n".join([f".. {kind}:: {name}", *(f"   :{option}:" for option in options)])
    return f"```{{eval-rst}}\n{body}\n```"


def tree(folder: str, names: Iterable[str]) -> str:
    """The pages of a folder in the navigation."""
    return "\n".join(["```{toctree}", ":hidden:", "", *(f"{folder}/{name}" for name in names), "```"])


def first_line(value: Any) -> str:
    """The first line of a docstring."""
    return (inspect.getdoc(value) or "").partition("\n")[0]
