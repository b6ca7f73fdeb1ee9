"""List the files of a folder, without those that operating systems and editors leave behind."""

import collections
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from examples.data import shown

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
TRAIN = {"train", "training"}
PARTS = {*TRAIN, "dev", "eval", "test", "testing", "val", "valid", "validation"}


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


def of_classes(
    path: Path, is_example: Callable[[Path], bool], kind: str, one: str
) -> tuple[list[tuple[str, Path]], Mapping[str, int]]:
    """The examples of a folder that has a folder for each class, and in it files and further folders.

    Args:
        path: the folder.
        is_example: whether a file is an example, by its name.
        kind: what examples are, such as `"pictures"`, for `notes`.
        one: one of them, such as `"a picture"`.

    Returns:
        Class and file of each example, in the order of their paths; and what was left out → how often.

    Raises:
        OSError: a folder cannot be read.
        ValueError: two folders have a name that is shown alike, or they are parts of a data set, not classes.
    """
    left_out: collections.Counter[str] = collections.Counter()
    found: list[tuple[str, Path]] = []
    classes: dict[str, str] = {}
    for each in sorted(path.iterdir()):
        if is_hidden(each.name):
            left_out[f"files or folders left out: {HIDDEN}"] += 1
        elif not each.is_dir():
            left_out["files left out: not in the folder of a class"] += 1
        else:
            name = shown.path(Path(each.name))
            if classes.setdefault(name, each.name) != each.name:
                raise ValueError(f"{path}: two folders would both be the class {name!r}; rename one")
            listed, ignored = files(each)
            for reason, count in ignored.items():
                left_out[f"files or folders left out: {reason}"] += count
            examples = [file for file in listed if is_example(file)]
            left_out[f"files left out: not {kind}, by their names"] += len(listed) - len(examples)
            left_out[f"folders left out: without {one}"] += not examples
            found += [(name, file) for file in examples]
    if classes and {name.lower() for name in classes} <= PARTS:
        first = min(classes.values(), key=lambda name: name.lower() not in TRAIN)
        raise ValueError(
            f"{path} holds parts of a data set, {', '.join(classes)}, instead of folders of classes; "
            f"give each part by itself, such as --data={path / first}"
        )
    return found, +left_out
