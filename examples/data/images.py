"""Labelled images of one size: folders of classes, a NumPy, Parquet or Arrow file, or scikit-learn's digits."""

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from examples.data import dealing, decoding, folders, image_tables, labels, overlap, row_files, shown

SUFFIXES = {".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}

# Pictures too, which must not be skipped silently.
_NOT_READ = {".avif", ".cr2", ".dng", ".heic", ".heif", ".jp2", ".jxl", ".nef", ".psd", ".svg", ".tga"}


@dataclasses.dataclass(frozen=True, eq=False)
class ImageExamples:
    """N labelled images.

    Attributes:
        images: uint8 [N, I, I, C], C = 1 (grey) or 3 (red, green, blue).
        labels: int32 [N], each the index of a name in `label_names`.
        label_names: the classes, in a fixed order.
        source: where the images come from, for the record of a run.
        sizes: width and height of each before it was scaled, int32 [N, 2]; None for I × I.
        notes: what was done → to how many images of the source, or what was left out → how many files.
    """

    images: np.ndarray
    labels: np.ndarray
    label_names: tuple[str, ...]
    source: str
    sizes: np.ndarray | None = None
    notes: Mapping[str, int] = dataclasses.field(default_factory=dict)


def digits() -> ImageExamples:
    """The 1,797 handwritten digits of scikit-learn, 8 × 8, in 17 shades of grey."""
    from sklearn.datasets import load_digits

    content = load_digits()
    images = np.round(content.images * (255 / 16)).astype(np.uint8)[..., None]
    names = tuple(str(name) for name in content.target_names)
    return ImageExamples(images, content.target.astype(np.int32), names, "scikit-learn's digits")


def read(
    path: str | Path,
    *,
    size: int | None = None,
    label_names: Sequence[str] | None = None,
    channels: int | None = None,
) -> ImageExamples:
    """Read a folder with a folder of images for each class, an `.npz`, or Parquet or Arrow files.

    An `.npz` holds `images`, uint8 [N, I, I] or [N, I, I, C], and `labels`, integers or strings [N]. A
    `.parquet` or `.arrow`, which needs pyarrow, holds the columns `image`, of encoded bytes or of records with
    `bytes`, and `label`, whose classes its schema may name, see `class_labels`; a folder without pictures holds
    shards of such files. Hidden files, system files and files that are not pictures are left out, and counted
    in `notes`.

    Args:
        path: the folder or file, or a pattern of files, see `row_files.listed`.
        size: side to which images are scaled, in pixels, whatever their shape; None for images that have the
            same size already. An `.npz` is not scaled.
        label_names: the classes, in order; None for those that a schema names, else those found.
        channels: 1 or 3, to match other images; None for 1 if all images are grey, else 3.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ImportError: pyarrow is needed and not installed.
        ValueError: something is not as described; the message names it.
    """
    path = Path(path).expanduser()
    if not row_files.exist(path):
        raise FileNotFoundError(f"{path}: no such file or folder")
    readers: dict[str, Callable[..., image_tables.Labelled]] = {
        ".npz": image_tables.read_npz,
        **dict.fromkeys(image_tables.COLUMNAR, image_tables.read_columns),
    }
    is_pattern = path.suffix in image_tables.COLUMNAR and row_files.is_pattern(path)
    if not path.is_dir() and not is_pattern and not (path.suffix in readers and path.is_file()):
        *several, last = readers
        raise ValueError(
            f"{path}: images must be in a folder, or in a file that ends in {', '.join(several)} or {last}"
        )
    of_folder = image_tables.read_columns if _is_of_shards(path) else _read_folder
    reader = of_folder if path.is_dir() else readers[path.suffix]
    pictures, names, in_order = reader(path, size, channels)
    if not len(pictures.images):
        raise ValueError(f"{path}: no images")
    named = label_names or in_order
    if not named and reader is not _read_folder:  # a folder of any name is meant as a class
        for row, name in enumerate(names, 1):
            if labels.means_none(name):
                raise ValueError(f"{path}: label {name!r} of image {row} means no label; if a class, rename it")
    known = tuple(named or sorted(set(names), key=_place))
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise ValueError(f"{path}: label {unknown[0]!r} is not one of {', '.join(map(repr, known))}")
    if len(known) < 2:
        raise ValueError(f"{path}: all labels are {known[0]!r}; classification needs two classes or more")
    index = {name: i for i, name in enumerate(known)}
    indices = np.array([index[name] for name in names], np.int32)
    source = shown.path(path)
    return ImageExamples(pictures.images, indices, known, source, pictures.sizes, pictures.notes)


def split(examples: ImageExamples, shares: Mapping[str, float]) -> dict[str, ImageExamples]:
    """Distribute images over named parts by a hash of their pixels, so that equal images are in one part.

    Args:
        examples: N images.
        shares: part → expected share, > 0; the shares add up to 1.

    Raises:
        ValueError: a part got no image.
    """
    positions = [dealing.position(image.tobytes()) for image in examples.images]
    owners = dealing.owners(positions, shares, fill=False)
    parts = {}
    for owner, name in enumerate(shares):
        rows = owners == owner
        if not rows.any():
            count, different = len(positions), len({*positions})
            equal = f", as only {different} of {count} are different" if different < count else ""
            raise ValueError(
                f"{examples.source}: too few images for a part {name!r} of {shares[name]:.0%}{equal}"
            )
        parts[name] = _of_rows(examples, rows)
    return parts


def apart(train: ImageExamples, test: ImageExamples) -> ImageExamples:
    """The training images without those of the test, which are counted in `notes`.

    Args:
        train: the training images.
        test: the test images.

    Raises:
        ValueError: more than a tenth of the test images are in training, or nothing is left of training.
    """
    rows = overlap.apart(_digests(train), {"test": _digests(test)}, {"test": test.source}, "images")
    if not (count := len(train.images) - len(rows)):
        return train
    notes = {**train.notes, overlap.note("images"): count}
    return dataclasses.replace(_of_rows(train, np.array(rows)), notes=notes)


def pictures(path: Path) -> list[Path]:
    """The pictures of a folder and of the folders in it, in the order of their paths; or the one picture.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: there is no picture, or one of a kind that is not read.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder")
    found = [file for file in (folders.files(path)[0] if path.is_dir() else [path]) if _is_picture(file)]
    if not found:
        raise ValueError(f"{path}: no pictures, by {'their names' if path.is_dir() else 'its name'}")
    return found


def _digests(examples: ImageExamples) -> list[str]:
    return [hashlib.sha256(image.tobytes()).hexdigest() for image in examples.images]


def _of_rows(examples: ImageExamples, rows: np.ndarray) -> ImageExamples:
    return dataclasses.replace(
        examples,
        images=examples.images[rows],
        labels=examples.labels[rows],
        sizes=None if examples.sizes is None else examples.sizes[rows],
    )


def _place(name: str) -> tuple[bool, int, str]:
    """The sort key of a class: numbers come first, by their value."""
    is_number = name.isascii() and name.isdecimal() and len(name) < 20
    return not is_number, int(name) if is_number else 0, name


def _is_of_shards(path: Path) -> bool:
    """Whether a folder has shards and no pictures."""
    found = folders.files(path)[0] if path.is_dir() else []
    has_shards = any(file.suffix.lower() in image_tables.COLUMNAR for file in found)
    return has_shards and not any(map(_is_picture, found))


def _read_folder(path: Path, size: int | None, channels: int | None) -> image_tables.Labelled:
    found, left_out = folders.of_classes(path, _is_picture, "pictures", "a picture")
    files = ((shown.path(file), file) for _, file in found)
    pictures = decoding.decode(files, len(found), size, channels, shown.path(path))
    notes = {**pictures.notes, **left_out}
    return dataclasses.replace(pictures, notes=notes), [name for name, _ in found], None


def _is_picture(file: Path) -> bool:
    suffix = file.suffix.lower()
    if suffix in _NOT_READ:
        raise ValueError(
            f"{file}: pictures of type {suffix} are not supported; convert it to PNG or JPEG, or move it"
        )
    if suffix in SUFFIXES and file.exists() and not file.is_file():
        raise ValueError(f"{file} is not a regular file")
    return suffix in SUFFIXES
