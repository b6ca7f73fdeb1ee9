"""Texts from folders: one in every `.txt` file; of labelled texts, a folder for each class, as IMDb has it."""

from collections.abc import Sequence
from pathlib import Path

from examples.data import folders, memory, row_files, shown, tables, targets, text, text_files

SUFFIX = ".txt"
UNLABELLED = "unsup"  # IMDb's folder of texts without a label


def is_one(path: Path) -> bool:
    """Whether a path is a folder with texts in files of their own, and not one of shards, see `row_files`."""
    if not path.is_dir():
        return False
    suffixes = {file.suffix.lower() for file in folders.files(path)[0]}
    return SUFFIX in suffixes or suffixes.isdisjoint(row_files.SUFFIXES)


def read(
    path: Path,
    *,
    label_names: Sequence[str] | None = None,
    encoding: str | None = None,
    argument: str = "{}=",
) -> text.TextExamples:
    """Read a folder with a folder of `.txt` files for each class; a file is one text.

    Hidden files, system files and files of other types are left out and counted in `notes`, as is the folder
    `unsup` unless it is named as a class.

    Args:
        path: the folder.
        label_names: the classes, in order; None for the names of the folders in it.
        encoding: encoding of the files; None for UTF-8, with or without a byte order mark.
        argument: how the caller writes an argument, for messages.

    Raises:
        OSError: a folder or file cannot be read.
        ValueError: something is not as described; the message is one line that begins with the place.
    """
    name, how = shown.path(path), tables.Format(encoding=encoding, argument=argument)
    known = text_files.known_classes(label_names, how)
    found, notes = folders.of_classes(path, _is_text, SUFFIX + " files", "a text")
    labelled = [(label, file) for label, file in found if label != UNLABELLED or UNLABELLED in (known or ())]
    if len(labelled) < len(found):
        notes = {**notes, f"files left out: in {UNLABELLED}, without a label": len(found) - len(labelled)}
    if not labelled:
        raise ValueError(
            f"{name}: no {SUFFIX} files in folders of classes, such as pos/1{SUFFIX}; if it also holds shards, "
            f"name them in a pattern, such as {name}/*.csv"
        )
    texts = _contents([file for _, file in labelled], name, how)
    places = [(shown.path(file), label) for label, file in labelled]
    labels, known = targets.classes(places, known, "folder", name, how)
    return text.TextExamples(texts, None, labels, known, name, notes=notes)


def read_texts(
    path: Path, *, encoding: str | None = None, argument: str = "{}="
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The `.txt` files of a folder and of the folders in it, in the order of their paths, and the text of each.

    Args:
        path: the folder.
        encoding: as for `read`.
        argument: as for `read`.

    Raises:
        OSError: a folder or file cannot be read.
        ValueError: there is no text, or one cannot be decoded.
    """
    name = shown.path(path)
    files = [file for file in folders.files(path)[0] if _is_text(file)]
    if not files:
        raise ValueError(f"{name}: no {SUFFIX} files")
    how = tables.Format(encoding=encoding, argument=argument)
    return tuple(map(shown.path, files)), _contents(files, name, how)


def _is_text(file: Path) -> bool:
    if file.suffix.lower() != SUFFIX:
        return False
    if file.exists() and not file.is_file():  # a pipe would block, a device has no end
        raise ValueError(f"{shown.path(file)} is not a regular file")
    return True


def _contents(files: Sequence[Path], name: str, how: tables.Format) -> tuple[str, ...]:
    memory.check(sum(file.stat().st_size for file in files), f"the texts of {name}")
    return tuple(_content(file, how) for file in files)


def _content(file: Path, how: tables.Format) -> str:
    """The text of a file, without the end of its last line."""
    found = tables.decoded(file.read_bytes(), shown.path(file), how)
    return found.removesuffix("\n").removesuffix("\r")
