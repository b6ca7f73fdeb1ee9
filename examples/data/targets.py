"""What a text is labelled with: one class, several labels, or a number.

The names are those of `problem_type` in `transformers`.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from examples.data import labels, shown, tables
from examples.shared.predictions import CLASS as CLASS
from examples.shared.predictions import LABELS as LABELS
from examples.shared.predictions import NUMBER as NUMBER

PROBLEMS = (CLASS, LABELS, NUMBER)
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_LARGEST = 1e30  # which a float32 holds

Values = Sequence[tuple[str, Any]]
"""Place (file and line) and value, for each row."""


def classes(
    values: Values, known: tuple[str, ...] | None, column: str, name: str, how: tables.Format
) -> tuple[np.ndarray, tuple[str, ...]]:
    """One class of every row.

    Args:
        values: the values of the column of the label.
        known: the classes in order, if they are given.
        column: name of the column.
        name: name of the file.
        how: how arguments are written, for messages.

    Returns:
        int32 [N], and the classes.

    Raises:
        ValueError: a label is malformed, or there are too few or too many classes.
    """
    written, found = [], {}
    for where, value in values:
        written.append(labels.written(value, where, column))
        _note(found, written[-1], value, where, column)
    class_of, known = _names(found, known, column, name, len(written), how)
    if len(known) == 1:
        raise ValueError(
            f"{name}: all {len(written)} labels are {shown.value(known[0])}; "
            "classification needs two classes or more"
        )
    index = {one: i for i, one in enumerate(known)}
    return np.array([index[class_of[one]] for one in written], np.int32), known


def several(
    values: Values,
    known: tuple[str, ...] | None,
    column: str,
    name: str,
    how: tables.Format,
    separator: str,
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Any number of labels of every row: texts with a separator between labels, or lists of JSON.

    Args:
        values: the values of the column of labels; an empty one is that of a row without a label.
        known: the labels in order, if they are given.
        column: name of the column.
        name: name of the file.
        how: how arguments are written, for messages.
        separator: what separates the labels of a text.

    Returns:
        float32 [N, C] of zeros and ones, and the labels.

    Raises:
        ValueError: a label is malformed or twice in a row, or there is none in the file.
    """
    rows, found = [], {}
    for where, value in values:
        parts = value if isinstance(value, list) else _separated(value, separator, where, column)
        row = [labels.written(part, where, column) for part in parts]
        for label, part in zip(row, parts, strict=True):
            if not label.strip():
                raise ValueError(f"{where}: {column} {shown.value(str(value))} has an empty label")
            _note(found, label, part, where, column)
        if twice := next((one for one in row if row.count(one) > 1), None):
            raise ValueError(f"{where}: {column} has the label {shown.value(twice)} twice")
        rows.append(row)
    if not found and known is None:
        raise ValueError(f"{name}: none of {len(rows)} rows has a label")
    class_of, known = _names(found, known, column, name, len(rows), how)
    index = {one: i for i, one in enumerate(known)}
    chosen = np.zeros((len(rows), len(known)), np.float32)
    for i, row in enumerate(rows):
        chosen[i, [index[class_of[one]] for one in row]] = 1
    return chosen, known


def numbers(values: Values, column: str) -> np.ndarray:
    """The number of every row, float32 [N].

    Args:
        values: the values of the column, numbers or texts.
        column: name of the column.

    Raises:
        ValueError: a value is not a finite number.

    Example:
        >>> numbers([("x.tsv:2", "3.5"), ("x.tsv:3", " -1e2 "), ("x.jsonl:1", 4)], "score").tolist()
        [3.5, -100.0, 4.0]
    """
    return np.array([_number(value, where, column) for where, value in values], np.float32)


def _number(value: Any, where: str, column: str) -> float:
    is_text = isinstance(value, str) and _NUMBER.fullmatch(value.strip()) is not None
    number = float(value) if is_text else value
    if isinstance(number, bool) or not isinstance(number, int | float) or not abs(number) <= _LARGEST:
        comma = "; write a point for the decimal comma" if isinstance(value, str) and "," in value else ""
        got = shown.value(value if isinstance(value, str) else repr(value)[:100])
        raise ValueError(f"{where}: {column} must be a number, at most {_LARGEST:g}, got {got}{comma}")
    return float(number)


def _separated(value: Any, separator: str, where: str, column: str) -> list[str]:
    text = labels.written(value, where, column)
    return [part.strip() for part in text.split(separator)] if text.strip() else []


def _note(found: dict[str, tuple[str, type]], label: str, value: Any, where: str, column: str) -> None:
    """Remember where a label was first seen, and refuse another type of it."""
    kind = str if isinstance(value, str) else bool if isinstance(value, bool) else int
    place, its_kind = found.setdefault(label, (where, kind))
    if kind is not its_kind:
        raise ValueError(
            f"{where}: {column} {shown.value(label)} is of type {kind.__name__} here and of type "
            f"{its_kind.__name__} at {place}; a class has one name"
        )


def _refuse_bool_and_number(found: Mapping[str, tuple[str, type]], column: str) -> None:
    first: dict[type, tuple[str, str]] = {}
    for label, (where, kind) in found.items():
        first.setdefault(kind, (label, where))
    both = [(kind, *first[kind]) for kind in first if kind is not str]
    if len(both) > 1:
        (its_kind, other, place), (kind, label, where) = both
        raise ValueError(
            f"{where}: {column} {shown.value(label)} is of type {kind.__name__}, and {shown.value(other)} at "
            f"{place} of type {its_kind.__name__}; write both as numbers, or as true and false"
        )


def _names(
    found: Mapping[str, tuple[str, type]],
    known: tuple[str, ...] | None,
    column: str,
    name: str,
    count: int,
    how: tables.Format,
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Label → its class, and the classes in order."""
    places = {one: where for one, (where, _) in found.items()}
    class_of = labels.names(places, known, column, how.ask("label_names"))
    if known is not None:
        return class_of, known
    _refuse_bool_and_number(found, column)
    known = labels.in_order(class_of.values())
    if len(known) > labels.MAX_CLASSES:
        raise ValueError(
            f"{name}: {len(known):,} classes among {count:,} labels, at most {labels.MAX_CLASSES:,}; "
            f"is {shown.value(column)} the column of the label? Name it in {how.ask('label')}"
        )
    return class_of, known
