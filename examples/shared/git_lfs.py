"""Pointers to large files, which a clone has in place of the files where Git LFS is not installed."""

from pathlib import Path

_BEGINNING = b"version https://git-lfs.github.com/spec/"


def refuse(path: Path) -> None:
    """Refuse a file that is such a pointer.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is a pointer.
    """
    with path.open("rb") as file:
        if file.read(len(_BEGINNING)) == _BEGINNING:
            raise ValueError(f"{path}: a pointer of Git LFS, not the file itself; fetch it with git lfs pull")
