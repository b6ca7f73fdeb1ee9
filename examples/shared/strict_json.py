"""JSON from untrusted files: a key may occur only once in an object, and errors name the file."""

import json
import stat
from pathlib import Path
from typing import Any

MAX_BYTES = 2**24  # of a file; descriptions of models and runs are a hundred times smaller


def read_object(path: Path) -> dict[str, Any]:
    """Read a file of at most MAX_BYTES that holds one JSON object.

    Raises:
        OSError: the file cannot be read.
        ValueError: it holds something else; the message names the file and, if there is one, the line.
    """
    about = path.stat()
    if not stat.S_ISREG(about.st_mode):  # reading a pipe would block
        raise ValueError(f"{path} is not a regular file")
    if about.st_size > MAX_BYTES:
        raise ValueError(f"{path} has {about.st_size:,} bytes; at most {MAX_BYTES:,} are read")
    return parse_object(path.read_bytes(), str(path))


def parse_object(text: bytes | str, where: str) -> dict[str, Any]:
    """Read a JSON object.

    Args:
        text: the JSON; bytes are UTF-8.
        where: place of the text, such as the name of a file, for the message.

    Raises:
        ValueError: it is not a JSON object, or has a key twice.

    Example:
        >>> parse_object('{"a": 1, "a": 2}', "x.json")
        Traceback (most recent call last):
        ValueError: x.json has 'a' twice
    """
    content = parse(text, where)
    if not isinstance(content, dict):
        raise ValueError(f"{where} must hold a JSON object, got {type(content).__name__}")
    return content


def parse(text: bytes | str, where: str) -> Any:
    """Read JSON of any kind; arguments and errors as for `parse_object`."""
    try:
        text = text.decode() if isinstance(text, bytes) else text  # json would also accept UTF-16
        return json.loads(text, object_pairs_hook=_once)
    except _Duplicate as error:
        raise ValueError(f"{where} has {error} twice") from None
    except RecursionError:
        raise ValueError(f"{where} is not JSON: nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"{where} is not JSON: {error}") from None


class _Duplicate(Exception):
    """A key that occurs twice in an object."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for key, value in pairs:
        if key in content:
            raise _Duplicate(repr(key))
        content[key] = value
    return content
