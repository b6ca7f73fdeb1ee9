"""Numbers, names and rows as Markdown.

What comes from outside, such as the name of a class or a file, a message, or a text that a model wrote, is
shown as it is and obeyed in nothing: not as markup, HTML or a picture, and not to hide what stands beside it.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

# Half of a character, which UTF-8 has no bytes for; controls; and what turns the direction of writing, or takes
# no space. Tabs and line breaks are white space.
_UNSHOWN = re.compile(
    r"[\ud800-\udfff\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"
    r"\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]"
)
_BREAK = re.compile(r"\r\n|\r|\n")

# What Markdown, and GitHub's mathematics, would obey. An underscore within a word is a letter.
_OBEYED = re.compile(r"[\\`*\[\]<>|~$&#]|(?<![^\W_])_|_(?![^\W_])")
_BEGINS_A_LIST = re.compile(r"^([+=-]|\d+[.)])")


def shown(text: str) -> str:
    r"""A text in which every character can be seen, with U+FFFD in place of those that cannot.

    Example:
        >>> shown("a\u202eb\udcff")
        'a�b�'
    """
    return _UNSHOWN.sub("\ufffd", text)


def escaped(text: object) -> str:
    r"""A text from outside as Markdown of one line.

    Example:
        >>> print(escaped("![x](/etc/hostname) <b> a_b _c"))
        !\[x\](/etc/hostname) \<b\> a_b \_c
    """
    return _OBEYED.sub(lambda found: "\\" + found[0], " ".join(shown(str(text)).split()))


def code(text: str) -> str:
    """A text from outside as a code span of one line.

    Example:
        >>> print(code("a `b`"))
        `` a `b` ``
    """
    line = " ".join(shown(text).split())
    fence = "`" * (max(map(len, re.findall("`+", line)), default=0) + 1)
    space = " " if line.startswith("`") or line.endswith("`") or not line else ""
    return f"{fence}{space}{line}{space}{fence}"


def fenced(lines: Sequence[str]) -> str:
    """Lines from outside as a block of text.

    Example:
        >>> print(fenced(["a", "```"]))
        ````text
        a
        ```
        ````
    """
    lines = [line for text in lines for line in _BREAK.split(shown(text))]
    longest = max(map(len, re.findall("`+", "\n".join(lines))), default=0)
    fence = "`" * max(3, longest + 1)
    return "\n".join([f"{fence}text", *lines, fence])


def decimal(value: float) -> str:
    """A number of three decimals; of three digits where these would be zeros alone, or very many.

    Example:
        >>> decimal(0.5), decimal(2.4e-6)
        ('0.500', '2.4e-06')
    """
    if not math.isfinite(value):
        return "not finite"
    return f"{value:.3f}" if value == 0 or 5e-4 <= abs(value) < 1e9 else f"{value:.3g}"


def with_error(mean: float, error: float) -> str:
    """A mean and its standard error, both as :func:`decimal` shows the mean.

    Example:
        >>> with_error(0.5, 0.01), with_error(2.4e-6, 1e-7)
        ('0.500 ± 0.010', '2.4e-06 ± 1e-07')
    """
    shown = decimal(mean)
    return f"{shown} ± {error:.3f}" if shown == f"{mean:.3f}" else f"{shown} ± {error:.3g}"


def measured(value: float | None, form: str, scale: float = 1.0) -> str:
    """A number in a given format; of one that is None, that it was not measured.

    Example:
        >>> measured(0.0125, ".1f", 1000), measured(None, ".1f")
        ('12.5', 'not measured')
    """
    return "not measured" if value is None else f"{scale * value:{form}}"


def joined(names: Sequence[str]) -> str:
    """Names as a sentence has them."""
    return " and ".join(names) if len(names) < 3 else f"{', '.join(names[:-1])} and {names[-1]}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, words: int = 1) -> str:
    """A table, without a line break at its end. A bar or a line break within a cell does not end it.

    Args:
        header: titles of the columns.
        rows: their cells.
        words: columns on the left that hold words; the others hold numbers.

    Raises:
        ValueError: a row has not as many cells as there are columns.

    Example:
        >>> print(table(["method", "loss"], [["lion", "0.5"]]))
        | method | loss |
        | --- | ---: |
        | lion | 0.5 |
    """
    for row in rows:
        if len(row) != len(header):
            raise ValueError(f"a row must have {len(header)} cells, as {list(header)} has, got {list(row)}")
    lines = [header, ["---"] * words + ["---:"] * (len(header) - words), *rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def listed(entries: Mapping[str, Any]) -> str:
    r"""A list of names and values, which may come from outside.

    Example:
        >>> print(listed({"batch_size": 8, "data": "<b>"}))
        - batch size: 8
        - data: \<b\>
    """
    names = [escaped(name.replace("_", " ")) for name in entries]
    names = [_BEGINS_A_LIST.sub(lambda found: found[0][:-1] + "\\" + found[0][-1], name) for name in names]
    return "\n".join(f"- {name}: {escaped(x)}" for name, x in zip(names, entries.values(), strict=True))


def _cell(text: str) -> str:
    return re.sub(r"(?<!\\)((?:\\\\)*)\|", r"\1\\|", " ".join(text.splitlines()))
