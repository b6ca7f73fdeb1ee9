"""Type checks of named fields that come from a file or a caller."""

import dataclasses
import json
import math
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

_LARGEST = sys.float_info.max
_WORDS = {int: "an integer", float: "a number", str: "a string", bool: "true or false"}


def check_types(value: Any) -> None:
    """Check the fields of a dataclass against their annotations, as :func:`check_fields` does."""
    check_fields(vars(value), typing.get_type_hints(type(value)))


def check_fields(given: Mapping[str, Any], expected: Mapping[str, Any], *, finite: bool = True) -> None:
    """Check fields against types, at any depth.

    Args:
        given: name → value; fields that are not in ``expected`` are ignored.
        expected: name → type: None, bool, int, float (which accepts an int), str, a dataclass, a union, a
            mapping with string keys, a sequence other than a string, or Any, which stands for plain JSON.
        finite: whether every number must be finite, as in JSON.

    Raises:
        TypeError: a field has the wrong type; the message names the field, the type and the value.
        ValueError: a field is missing, or a number is not finite.

    Example:
        >>> check_fields({"seed": 0, "loss": ["a"]}, {"seed": int, "loss": Sequence[float]})
        Traceback (most recent call last):
        TypeError: loss[0] must be a number, got "a" of type str
    """
    for name, kind in expected.items():
        if name not in given:
            raise ValueError(f"{name} is missing; the fields are {', '.join(given) or 'none'}")
        _check(name, given[name], kind, finite)


def _check(name: str, value: Any, expected: Any, finite: bool) -> None:
    origin, arguments = typing.get_origin(expected), typing.get_args(expected)
    if expected is Any:
        _check_json(name, value, finite)
    elif origin is types.UnionType:
        if value is not None or type(None) not in arguments:
            (other,) = (kind for kind in arguments if kind is not type(None))
            _check(name, value, other, finite)
    elif origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            _refuse(name, value, "a mapping")
        if arguments[1] is Any:
            _check_json(name, value, finite)
            return
        for key, item in value.items():
            _check(f"a key of {name}", key, str, finite)
            _check(f"{name}[{key!r}]", item, arguments[1], finite)
    elif origin is not None and issubclass(origin, Sequence):
        if not isinstance(value, Sequence) or isinstance(value, str | bytes):
            _refuse(name, value, "a list")
        for i, item in enumerate(value):
            _check(f"{name}[{i}]", item, arguments[0], finite)
    elif isinstance(expected, type) and dataclasses.is_dataclass(expected):
        if not isinstance(value, expected):
            _refuse(name, value, f"a {expected.__name__}")
    else:
        fits = isinstance(value, float | int if expected is float else expected)
        if not fits or (isinstance(value, bool) and expected is not bool):
            _refuse(name, value, _WORDS[expected])
        _check_size(name, value, finite)


def _check_json(name: str, value: Any, finite: bool) -> None:
    if _is_json(value, finite):
        return  # most values are valid, and there are many: the place is found only for an invalid one
    if isinstance(value, Mapping):
        for key, item in value.items():
            _check(f"a key of {name}", key, str, finite)
            _check_json(f"{name}[{key!r}]", item, finite)
    elif isinstance(value, list | tuple):
        for i, item in enumerate(value):
            _check_json(f"{name}[{i}]", item, finite)
    elif not isinstance(value, str | int | float | None):
        _refuse(name, value, "plain JSON")
    else:
        _check_size(name, value, finite)


def _is_json(value: Any, finite: bool) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _is_json(item, finite) for key, item in value.items())
    if isinstance(value, list | tuple):
        return all(_is_json(item, finite) for item in value)
    if isinstance(value, float):
        return not finite or math.isfinite(value)
    return value is None or isinstance(value, str) or (isinstance(value, int) and abs(value) <= _LARGEST)


def _check_size(name: str, value: Any, finite: bool) -> None:
    """Refuse integers that are too large for a float and, if asked, numbers that are not finite."""
    of_kind = isinstance(value, float | int if finite else int)
    if of_kind and not abs(value) <= _LARGEST:
        raise ValueError(f"{name} must be finite, as JSON's numbers are, got {_short(value)}")


def _refuse(name: str, value: Any, what: str) -> None:
    raise TypeError(f"{name} must be {what}, got {_short(value)} of type {type(value).__name__}")


def _short(value: Any) -> str:
    try:
        text = json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        text = repr(value) if not isinstance(value, int) else "an integer of too many digits"
    return text if len(text) <= 40 else text[:37] + "…"
