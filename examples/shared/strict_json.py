"""JSON from a file that anyone may have written: a key stands once in an object, a fault has a place."""

import json
import stat
from pathlib import Path
from typing import Any

MAX_BYTES = 2**24  # of a file: what describes a model or a run is a hundred times smaller


def read_object(path: Path) -> dict[str, Any]:
    """Read a file of at most MAX_BYTES that holds one JSON object.

    Raises:
        OSError: the file cannot be read.
        ValueError: it holds something else, naming it and, where there is one, the line.
    """
    about = path.stat()
    if not stat.S_ISREG(about.st_mode):  # a pipe would be waited for
        raise ValueError(f"{path} is no regular file")
    if about.st_size > MAX_BYTES:
        raise ValueError(f"{path} has {about.st_size:,} bytes; one of at most {MAX_BYTES:,} is read")
    return parse_object(path.read_bytes(), str(path))


def parse_object(text: bytes | str, where: str) -> dict[str, Any]:
    """Read a JSON object.

    Args:
        text: of it; bytes are UTF-8.
        where: it stands, for the message.

    Raises:
        ValueError: it is none, or says the same key twice.

    Example:
        >>> parse_object('{"a": 1, "a": 2}', "x.json")
        Traceback (most recent call last):
        ValueError: x.json says 'a' twice
    """
    content = parse(text, where)
    if not isinstance(content, dict):
        raise ValueError(f"{where} must hold a JSON object, got {type(content).__name__}")
    return content


def parse(text: bytes | str, where: str) -> Any:
    """Read JSON of any kind; arguments and errors as of `parse_object`."""
    try:
        text = text.decode() if isinstance(text, bytes) else text  # json would guess at UTF-16
        return json.loads(text, object_pairs_hook=_once)
    except _SaidTwice as error:
        raise ValueError(f"{where} says {error} twice") from None
    except RecursionError:
        raise ValueError(f"{where} is not JSON: too deep a nesting") from None
    except ValueError as error:
        raise ValueError(f"{where} is not JSON: {error}") from None


class _SaidTwice(Exception):
    """A key that an object has twice."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for key, value in pairs:
        if key in content:
            raise _SaidTwice(repr(key))
        content[key] = value
    return content
