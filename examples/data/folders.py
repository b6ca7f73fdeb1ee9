"""List the files of a folder, without those that operating systems and editors leave behind."""

import collections
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

HIDDEN = "hidden or system files"

# In lower case. Names that begin with a dot are hidden, such as .DS_Store, ._1.png or .ipynb_checkpoints.
_OF_A_SYSTEM = {
    "$recycle.bin",
    "@eadir",
    "__macosx",
    "__pycache__",
    "desktop.ini",
    "ehthumbs.db",
    "lost+found",
    "system volume information",
    "thumbs.db",
}


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name was left by an operating system or an editor.

    Example:
        >>> is_hidden("._1.png"), is_hidden("__MACOSX"), is_hidden("cat")
        (True, True, False)
    """
    return name.startswith((".", "~$")) or name.lower() in _OF_A_SYSTEM


def files(folder: Path) -> tuple[list[Path], Mapping[str, int]]:
    """All files below a folder, in the order of their paths, and how many were left out, by reason.

    Links to folders are not followed, except the folder itself.

    Raises:
        OSError: a folder cannot be read.
    """
    left_out: collections.Counter[str] = collections.Counter()

    def seen(names: list[str]) -> Iterator[str]:
        for name in names:
            if is_hidden(name):
                left_out[HIDDEN] += 1
            else:
                yield name

    def fail(error: OSError) -> None:
        raise error

    found: list[Path] = []
    for here, folders, names in os.walk(folder, onerror=fail):
        folders[:] = seen(folders)
        left_out["links to folders"] += sum((Path(here) / name).is_symlink() for name in folders)
        found += [Path(here) / name for name in seen(names)]
    return sorted(found), +left_out
