"""Files that are whole or as they were: written aside, forced onto the disk, and put in their place at once."""

import contextlib
import os
from pathlib import Path

from optimiz.training.storage.run_directory import flush


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
