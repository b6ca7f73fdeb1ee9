"""Numbers, names and rows as Markdown.

Text from outside, such as the name of a class or a file, a message, or text that a model wrote, is shown
literally: it cannot act as markup, HTML or a picture, and it cannot hide the text next to it.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

# Lone surrogates, which UTF-8 cannot encode; control characters; and characters that change the direction of
# writing or have no width. Tabs and line breaks are white space.
_UNSHOWN = re.compile(
    r"[\ud800-\udfff\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"
    r"\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]"
)
_BREAK = re.compile(r"\r\n|\r|\n")

# Characters that Markdown or GitHub's mathematics would interpret. An underscore within a word is literal.
_OBEYED = re.compile(r"[\\`*\[\]<>|~$&#]|(?<![^\W_])_|_(?![^\W_])")
_BEGINS_A_LIST = re.compile(r"^([+=-]|\d+[.)])")


def shown(text: str) -> str:
    r"""Text in which every character is visible: U+FFFD replaces those that are not.

    Example:
        >>> shown("a\u202eb\udcff")
        'a�b�'
    """
    return _UNSHOWN.sub("\ufffd", text)


def escaped(text: object) -> str:
    r"""Text from outside as Markdown on one line.

    Example:
        >>> print(escaped("![x](/etc/hostname) <b> a_b _c"))
        !\[x\](/etc/hostname) \<b\> a_b \_c
    """
    return _OBEYED.sub(lambda found: "\\" + found[0], " ".join(shown(str(text)).split()))


def code(text: str) -> str:
    """Text from outside as a code span on one line.

    Example:
        >>> print(code("a `b`"))
        `` a `b` ``
    """
    line = " ".join(shown(text).split())
    fence = "`" * (max(map(len, re.findall("`+", line)), default=0) + 1)
    space = " " if line.startswith("`") or line.endswith("`") or not line else ""
    return f"{fence}{space}{line}{space}{fence}"


def fenced(lines: Sequence[str]) -> str:
    """Lines from outside as a fenced block of text.

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
    """A number with three decimals, or with three digits if it is very small or very large.

    Example:
        >>> decimal(0.5), decimal(2.4e-6)
        ('0.500', '2.4e-06')
    """
    if not math.isfinite(value):
        return "not finite"
    return f"{value:.3f}" if value == 0 or 5e-4 <= abs(value) < 1e9 else f"{value:.3g}"


def three_digits(value: float) -> str:
    """A number with three digits, and all that it has before the point.

    Example:
        >>> three_digits(52.66), three_digits(11546.2)
        ('52.7', '11546')
    """
    return f"{value:.0f}" if abs(value) >= 999.5 else f"{value:.3g}"


def with_error(mean: float, error: float) -> str:
    """A mean and its standard error, both in the format that :func:`decimal` chooses for the mean.

    Example:
        >>> with_error(0.5, 0.01), with_error(2.4e-6, 1e-7)
        ('0.500 ± 0.010', '2.4e-06 ± 1e-07')
    """
    shown = decimal(mean)
    return f"{shown} ± {error:.3f}" if shown == f"{mean:.3f}" else f"{shown} ± {error:.3g}"


def measured(value: float | None, form: str, scale: float = 1.0) -> str:
    """A number in a given format, or "not measured" for None.

    Example:
        >>> measured(0.0125, ".1f", 1000), measured(None, ".1f")
        ('12.5', 'not measured')
    """
    return "not measured" if value is None else f"{scale * value:{form}}"


def joined(names: Sequence[str]) -> str:
    """Names joined as in a sentence."""
    return " and ".join(names) if len(names) < 3 else f"{', '.join(names[:-1])} and {names[-1]}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, words: int = 1) -> str:
    """A table, without a line break at its end. A bar or a line break within a cell does not end the cell.

    Args:
        header: titles of the columns.
        rows: cells of each row.
        words: number of columns on the left that hold words; the others hold numbers.

    Raises:
        ValueError: a row does not have one cell per column.

    Example:
        >>> print(table(["method", "loss"], [["lion", "0.5"]]))
        | method | loss |
        | --- | ---: |
        | lion | 0.5 |
    """
    for row in rows:
        if len(row) != len(header):
            raise ValueError(
                f"a row must have {len(header)} cells, one each of {list(header)}, got {list(row)}"
            )
    lines = [header, ["---"] * words + ["---:"] * (len(header) - words), *rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def listed(entries: Mapping[str, Any]) -> str:
    r"""A list of names and values, both of which may come from outside.

    Example:
        >>> print(listed({"batch_size": 8, "data": "<b>", "rates": [0.1, 0.2], "clip": None}))
        - batch size: 8
        - data: \<b\>
        - rates: 0.1, 0.2
        - clip: none
    """
    names = [escaped(name.replace("_", " ")) for name in entries]
    names = [_BEGINS_A_LIST.sub(lambda found: found[0][:-1] + "\\" + found[0][-1], name) for name in names]
    return "\n".join(f"- {name}: {escaped(_plain(x))}" for name, x in zip(names, entries.values(), strict=True))


def _plain(value: Any) -> str:
    """A value without Python's brackets and quotes; "none" if there is nothing."""
    if isinstance(value, Mapping):
        value = [f"{name} {_plain(x)}" for name, x in value.items()]
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value)) or "none"
    return "none" if value is None else str(value)


def _cell(text: str) -> str:
    return re.sub(r"(?<!\\)((?:\\\\)*)\|", r"\1\\|", " ".join(text.splitlines()))
