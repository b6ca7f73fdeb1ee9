"""Read labelled images: the arrays of an `.npz`, or the rows of Parquet or Arrow files.

All can claim, in a few bytes, to hold more than any machine has memory for. The claimed sizes of what is
needed are therefore checked first, and never more than that is read.
"""

import dataclasses
import io
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from examples.data import class_labels, columnar, decoding, memory, row_files, shown
from examples.data.decoding import COLOUR, GREY, Pictures

_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_ROWS_AT_ONCE = 64
_COLUMNS = ("image", "label")
COLUMNAR = (columnar.PARQUET, columnar.ARROW)

Labelled = tuple[Pictures, list[str], tuple[str, ...] | None]
"""The pictures, the label of each, and the classes in order if the files name them."""


def read_npz(path: Path, size: int | None, channels: int | None) -> Labelled:
    """Read `images` and `labels` from an `.npz`, and nothing else in it.

    Args:
        path: path of the file.
        size: side that the images must have; None for any.
        channels: number of channels that the images must have; None for any.

    Raises:
        ValueError: the file is not as `images.read` describes it.
    """
    (images, labels), unused = _arrays(path, ("images", "labels"))
    images = _checked(path, images, size, channels)
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "iuU":
        raise ValueError(
            f"{path}: labels must be {len(images)} integers or strings, got {labels.dtype} {list(labels.shape)}"
        )
    sizes = np.full((len(images), 2), images.shape[1], np.int32)
    notes = {"unused arrays": unused} if unused else {}
    return Pictures(images, sizes, notes), [str(label) for label in labels.tolist()], None


def read_npz_images(path: Path, size: int, channels: int) -> np.ndarray:
    """Read only `images`, uint8 [N, I, I, C], from an `.npz`, see `read_npz`."""
    (images,), _ = _arrays(path, ("images",))
    return _checked(path, images, size, channels)


def _arrays(path: Path, wanted: Sequence[str]) -> tuple[list[np.ndarray], int]:
    """Some arrays of an `.npz`, and the number of its others."""
    try:
        if not zipfile.is_zipfile(path):
            raise ValueError("it is not an archive of arrays, as written by numpy.savez")
        found = []
        with zipfile.ZipFile(path) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist()]
            _check_names(path, names, wanted, "array")
            for name in wanted:
                with archive.open(f"{name}.npy") as file:
                    found.append(_array(file, archive.getinfo(f"{name}.npy").file_size, f"{name} of {path}"))
    except _WrongNamesError as error:
        raise ValueError(str(error)) from None
    except Exception as error:  # zip, NumPy and pickle each have their own error classes
        raise ValueError(f"{path} cannot be read: {error}") from None
    return found, len(names) - len(wanted)


def _checked(path: Path, images: np.ndarray, size: int | None, channels: int | None) -> np.ndarray:
    """Images [N, I, I, C] of the asked size and number of channels."""
    found = f"{images.dtype} {list(images.shape)}"
    images = images[..., None] if images.ndim == 3 else images
    square = images.ndim == 4 and images.shape[1] == images.shape[2] and images.shape[3] in (GREY, COLOUR)
    if images.dtype != np.uint8 or not square:
        told = f"{path}: images must be uint8 [N, I, I] or [N, I, I, 1 or 3], got {found}"
        raise ValueError(told + "; convert them to integers from 0 to 255" * (images.dtype != np.uint8))
    if size not in (None, images.shape[1]):
        raise ValueError(f"{path}: images must be {size} × {size}, got {images.shape[1]} × {images.shape[2]}")
    if channels not in (None, images.shape[3]):
        raise ValueError(f"{path}: images must have {channels} channels, like the other images, got {found}")
    return images


class _WrongNamesError(Exception):
    """A required name is missing, or occurs twice."""


def _check_names(path: Path, names: list[str], wanted: Sequence[str], kind: str) -> None:
    for name in wanted:
        if names.count(name) != 1:
            said = f"no {kind} {name!r}" if name not in names else f"{kind} {name!r} twice"
            there = ", ".join(map(repr, dict.fromkeys(names)))
            raise _WrongNamesError(f"{path}: {said}; there are {there}")


def _array(file: Any, size: int, what: str) -> np.ndarray:
    """The array of an archive member, for which the archive states a size in bytes."""
    version = np.lib.format.read_magic(file)
    if version not in _HEADERS:
        raise ValueError(f"the format {version} of {what} is not supported")
    shape, in_columns, dtype = _HEADERS[version](file)
    if dtype.hasobject:
        raise ValueError("Object arrays cannot be loaded: they are pickles, which could run code")
    count = 1
    for length in shape:  # in Python's integers, which do not overflow
        count *= length
    if size - file.tell() != count * dtype.itemsize:
        raise ValueError(f"{what}: the header says {dtype} {list(shape)}, but there are {size} bytes")
    memory.check(size, what)
    array = np.frombuffer(file.read(), dtype, count)
    return array.reshape(shape[::-1]).transpose() if in_columns else array.reshape(shape)


def read_columns(path: Path, size: int | None, channels: int | None) -> Labelled:
    """Read the columns `image` and `label` of Parquet or Arrow files, a few rows at a time.

    Args:
        path: file, folder of shards, or pattern of files, see `row_files.listed`.
        size: side to which images are scaled; None if all have the same size already.
        channels: number of channels of the result; None for grey if all images are grey.

    Raises:
        FileNotFoundError: nothing matches the pattern.
        ImportError: pyarrow is not installed.
        ValueError: a file is not as `images.read` describes it.
    """
    paths, left_out = row_files.listed(path, COLUMNAR)
    files = [_opened(each) for each in paths]
    names = files[0].class_names.get("label")
    for file in files:
        if file.class_names.get("label") != names:
            raise ValueError(f"{file.name}: the classes of 'label' are not those of {files[0].name}")
    labels: list[str] = []
    count = sum(file.count for file in files)
    rows = (each for file in files for each in _pictures(file, labels, names))
    pictures = decoding.decode(rows, count, size, channels, shown.path(path))
    notes = {f"files or folders left out: {why}": number for why, number in left_out.items()}
    notes |= {} if paths == [path] else {"shards": len(files)}
    unused = len(files[0].columns) - len(_COLUMNS)
    notes |= {"unused columns": unused} if unused else {}
    return dataclasses.replace(pictures, notes={**pictures.notes, **notes}), labels, names


def _opened(path: Path) -> columnar.ColumnarFile:
    """A file with an image and a label in every row, which together fit into memory."""
    file = columnar.opened(path)
    try:
        _check_names(path, file.columns, _COLUMNS, "column")
    except _WrongNamesError as error:
        raise ValueError(str(error)) from None
    from pyarrow import types

    kind = file.schema.field("label").type
    kind = kind.value_type if types.is_dictionary(kind) else kind
    are = types.is_integer, types.is_string, types.is_large_string, types.is_string_view
    if not any(is_one(kind) for is_one in are):
        raise ValueError(f"{path}: label must hold integers or strings, got {kind}")
    file.check(_COLUMNS)
    return file


def _pictures(
    file: columnar.ColumnarFile, labels: list[str], names: tuple[str, ...] | None
) -> Iterator[tuple[str, io.BytesIO]]:
    """Name and file of each picture; its label is appended to `labels`."""
    for where, row in file.rows(_COLUMNS, _ROWS_AT_ONCE):
        content, label = row["image"], row["label"]
        content = content.get("bytes") if isinstance(content, dict) else content
        if not isinstance(content, bytes):
            kind = type(content).__name__
            raise ValueError(f"{where}: image must be bytes or a record with bytes, got {kind}")
        if label is None:
            raise ValueError(f"{where}: no label")
        labels.append(str(class_labels.named(label, names, where, "label") if names else label))
        yield where, io.BytesIO(content)
