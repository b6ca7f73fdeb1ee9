"""Files that are whole or as they were: written aside, forced onto the disk, and put in their place at once."""

import contextlib
import os
from pathlib import Path


def write_whole(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Write a file; one of that name is replaced only once the new one is whole and on the disk.

    Args:
        path: of the file; its directory exists.
        content: all of it; text becomes UTF-8, a lone surrogate of it "?".

    Raises:
        OSError: it cannot be written, as on a full disk; the message names the path, and what was there stays.
    """
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_bytes(content.encode(errors="replace") if isinstance(content, str) else content)
        flush(partial)
        partial.replace(path)
        flush(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error


def flush(path: Path) -> None:
    """Force the content of a file, or the names in a directory, onto the disk."""
    if os.name == "nt":
        if path.is_file():  # Windows opens no directory, and flushes no file that is open for reading
            with path.open("r+b") as file:
                os.fsync(file.fileno())
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
