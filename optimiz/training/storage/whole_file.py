"""Atomic writes: a file is written under another name, flushed to the disk, and renamed."""

import contextlib
import os
from pathlib import Path


def write_whole(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Write a file; an existing file is replaced only once the new one is complete and on the disk.

    Args:
        path: path of the file, in an existing directory.
        content: the content. Text is encoded as UTF-8, with "?" for a lone surrogate.

    Raises:
        OSError: the file cannot be written, as on a full disk. The message names the path, and an existing file
            is unchanged.
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
