"""Names of classes: a label is a string, as it is written, and two labels are never one class.

If all labels of a file are whole numbers, `3.0` is read as `3`, because pandas writes it for a column that once
had a gap. White space around labels is stripped. Neither is done if two labels would become one. Names that the
user gives are not changed.
"""

import json
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from examples.data import shown

# What GLUE, SNLI, R, SQL, pandas and an empty cell have in place of a label that is withheld or missing.
UNLABELLED = ("-1", "-", "", "NA", "N/A", "n/a", "#N/A", "<NA>", "None", "NULL", "Null", "null")
_NOT_A_NUMBER = re.compile(r"[+-]?(nan|inf|infinity)", re.IGNORECASE)
_WHOLE = re.compile(r"0|-?[1-9][0-9]{0,17}")  # as int() writes it
_WHOLE_OR_REAL = re.compile(rf"({_WHOLE.pattern})(\.0)?")
_EXACT = 2**53  # below this, a float stands for only one whole number
MAX_CLASSES = 10_000


def written(value: Any, where: str, column: str) -> str:
    """Convert a label from JSON or a table to a string.

    Raises:
        ValueError: it is not a string, true or false, or a whole number.
    """
    if isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, float):
        if not value.is_integer() or abs(value) >= _EXACT:
            raise ValueError(f"{where}: {column} must be a class, got the number {value!r}")
        value = int(value)
    if isinstance(value, int):
        return str(value)
    if not isinstance(value, str):
        raise ValueError(f"{where}: {column} must be a string or a whole number, got {type(value).__name__}")
    return encodable(where, column, value)


def encodable(where: str, column: str, value: str) -> str:
    """The string of a column, if it can be written.

    Raises:
        ValueError: it has half a surrogate pair.
    """
    try:
        value.encode()
    except UnicodeEncodeError:  # only JSON's \u escapes can write it
        raise ValueError(f"{where}: {column} has half a surrogate pair") from None
    return value


def means_none(label: str) -> bool:
    """Whether a label, as it is written, usually means that there is none.

    Example:
        >>> means_none(" -1.0"), means_none("NA"), means_none("none of these")
        (True, True, False)
    """
    bare = label.strip()
    return bare.removesuffix(".0") in UNLABELLED or _NOT_A_NUMBER.fullmatch(bare) is not None


def names(
    found: Mapping[str, str], known: tuple[str, ...] | None, column: str, argument: str
) -> dict[str, str]:
    """Find the class that each label of a file names.

    Args:
        found: label, as it is written → where it was first seen, for a message.
        known: the classes, if they are given.
        column: name of the labels' column.
        argument: the argument that gives the classes, as the caller writes it.

    Returns:
        Label → name of its class.

    Raises:
        ValueError: a label does not name a class.

    Example:
        >>> names({"1.0": "x:1", "0.0": "x:2"}, None, "label", "label_names=")
        {'1.0': '1', '0.0': '0'}
        >>> names({"3.10": "x:1", "3.1": "x:2", "3.0": "x:3"}, None, "label", "label_names=")
        {'3.10': '3.10', '3.1': '3.1', '3.0': '3.0'}
    """
    stripped = _unless_two_become_one({label: label.strip() for label in found})
    plain = stripped
    if all(_WHOLE_OR_REAL.fullmatch(name) for name in [*stripped.values(), *(known or ())]):
        plain = _unless_two_become_one({label: name.removesuffix(".0") for label, name in stripped.items()})
    if known is None:
        for label, where in found.items():
            if means_none(label):
                raise ValueError(
                    f"{where}: {column} {shown.value(label.strip())} means no label; "
                    f"if it is a class, name all classes in {argument}"
                )
        return plain
    taken, free = {}, set(known)
    for spelling in ({label: label for label in found}, stripped, plain):
        for label, name in spelling.items():
            if label not in taken and name in free:
                taken[label] = name
                free.remove(name)
    for label, where in found.items():
        if label not in taken:
            hint = "; are the labels withheld?" if label.strip() in UNLABELLED else ""
            raise ValueError(
                f"{where}: {column} {shown.value(label)} is not one of {shown.values(known)}{hint}"
            )
    return taken


def in_order(names: Iterable[str]) -> tuple[str, ...]:
    """Sort names: by value if all are whole numbers, else by code points.

    Example:
        >>> in_order({"10", "9"}), in_order({"10", "9", "b"})
        (('9', '10'), ('10', '9', 'b'))
    """
    names = set(names)
    return tuple(sorted(names, key=int if all(map(_WHOLE.fullmatch, names)) else None))


def alike(names: Iterable[str]) -> list[tuple[str, ...]]:
    """Names that a reader could confuse: they differ in case, Unicode form, spacing or invisible characters.

    Example:
        >>> alike(["spam", "Spam", "ham"])
        [('spam', 'Spam')]
    """
    groups = defaultdict(list)
    for name in names:
        seen = "".join(mark for mark in name if unicodedata.category(mark) not in ("Cf", "Cc"))
        key = " ".join(unicodedata.normalize("NFKC", seen or name).casefold().split())
        groups[key.removesuffix(".0") if _WHOLE_OR_REAL.fullmatch(key) else key].append(name)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def _unless_two_become_one(spelled: dict[str, str]) -> dict[str, str]:
    one_each = len(set(spelled.values())) == len(spelled)
    return spelled if one_each else {label: label for label in spelled}
