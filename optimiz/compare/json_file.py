"""The JSON file of a run or a record: one object, one field per line, refused unless it is complete."""

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from optimiz import training

SCHEMA = 2

# Lone surrogates, as in names of files that are not UTF-8. JSON can escape them; UTF-8 cannot encode them.
_SURROGATE = re.compile(r"[\ud800-\udfff]")

_T = TypeVar("_T")


class TornRecord(ValueError):
    """A file that is not a record, or not a complete one."""


def json_text(value: Any) -> str:
    """A value as JSON on one line."""
    text = json.dumps(value, allow_nan=False, ensure_ascii=False)
    return _SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def sha256(text: str) -> str:
    """The SHA-256 of a text, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def write_object(path: str | os.PathLike[str], fields: Mapping[str, str]) -> None:
    """Write an object.

    Args:
        path: file to write; an existing one is replaced only once the new one is complete.
        fields: name → value as JSON text.
    """
    lines = ",\n".join(f"{json.dumps(name)}: {text}" for name, text in fields.items())
    training.write_whole(path, f"{{\n{lines}\n}}\n")


def read_object(path: str | os.PathLike[str], make: Callable[[dict[str, Any]], _T]) -> _T:
    """Read an object back.

    Args:
        path: file to read.
        make: fields of the object → what it stands for.

    Raises:
        OSError: the file cannot be read.
        TornRecord: it holds something else, or ``make`` refuses it; the message names the file and the field.
        ValueError: it has another schema.
    """
    try:
        fields = json.loads(Path(path).read_text(encoding="utf-8"))
        schema = fields["schema"]
        if type(schema) is not int:
            raise TypeError(f"schema must be an integer, got {schema!r}")
        if schema == SCHEMA:
            return make(fields)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise TornRecord(f"{path} is not a complete record: {reason}") from None
    raise ValueError(f"{path} has record schema {schema}, this version reads {SCHEMA}")
