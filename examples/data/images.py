"""Labelled images of one size: a folder of folders, a NumPy or Parquet file, or scikit-learn's digits.

An image that cannot be read, or has another size or mode than the first, is an error that names it, never an
image skipped: an accuracy means nothing when nobody knows which images it was measured on.
"""

import dataclasses
import hashlib
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

MODES = {"L": 1, "RGB": 3}
SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp"}


@dataclasses.dataclass(frozen=True, eq=False)
class ImageExamples:
    """N labelled images.

    Attributes:
        images: uint8 [N, I, I, C], C = 1 (grey) or 3 (red, green, blue).
        labels: int32 [N], each the index of a name in `label_names`.
        label_names: the classes, in a fixed order.
        source: where the images come from, for the record of a run.
    """

    images: np.ndarray
    labels: np.ndarray
    label_names: tuple[str, ...]
    source: str


def digits() -> ImageExamples:
    """The 1,797 handwritten digits that scikit-learn carries, 8 × 8, of 17 shades of grey."""
    from sklearn.datasets import load_digits

    content = load_digits()
    images = np.round(content.images * (255 / 16)).astype(np.uint8)[..., None]
    names = tuple(str(name) for name in content.target_names)
    return ImageExamples(images, content.target.astype(np.int32), names, "scikit-learn's digits")


def read(
    path: str | Path, *, size: int | None = None, label_names: Sequence[str] | None = None
) -> ImageExamples:
    """Read a folder with a folder of images for each class, an `.npz`, or a `.parquet`.

    An `.npz` holds `images`, uint8 [N, I, I] or [N, I, I, C], and `labels`, integers [N]. A `.parquet`, which
    needs pyarrow, holds the columns `image`, of encoded bytes or of records with `bytes`, and `label`.

    Args:
        path: the folder or file.
        size: to which images are scaled, in pixels a side; None for images that have one size already. An
            `.npz` is not scaled.
        label_names: the classes, in order; None takes those that are there.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ImportError: pyarrow is needed and not there.
        ValueError: something is not as described; naming it.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder")
    readers: dict[str, Callable[..., Any]] = {".npz": _read_npz, ".parquet": _read_parquet}
    if not path.is_dir() and path.suffix not in readers:
        raise ValueError(f"{path}: must be a folder, or a file that ends in {' or '.join(readers)}")
    reader = _read_folder if path.is_dir() else readers[path.suffix]
    images, names = reader(path, size)
    if not len(images):
        raise ValueError(f"{path}: no images")
    known = sorted(set(names), key=lambda name: (not name.isdigit(), int(name) if name.isdigit() else 0, name))
    known = tuple(known) if label_names is None else tuple(label_names)
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise ValueError(f"{path}: label {unknown[0]!r} is not one of {', '.join(map(repr, known))}")
    if len(known) < 2:
        raise ValueError(f"{path}: all labels are {known[0]!r}; classification needs two classes or more")
    index = {name: i for i, name in enumerate(known)}
    return ImageExamples(images, np.array([index[name] for name in names], np.int32), known, str(path))


def split(examples: ImageExamples, shares: Mapping[str, float]) -> dict[str, ImageExamples]:
    """Deal images out to named parts by a hash of their pixels, so that equal images are in one part.

    Args:
        examples: N images.
        shares: part → expected share, > 0; they add up to 1.

    Raises:
        ValueError: a part got no image.
    """
    digests = [hashlib.sha256(image.tobytes()).hexdigest()[:12] for image in examples.images]
    positions = np.array([int(digest, 16) / 16**12 for digest in digests])
    edges = np.cumsum([0.0, *shares.values()])
    edges[-1] = 1.0
    parts = {}
    for name, start, end in zip(shares, edges, edges[1:], strict=False):
        rows = (start <= positions) & (positions < end)
        if not rows.any():
            raise ValueError(f"{examples.source}: too few images for a part {name!r} of {shares[name]:.0%}")
        parts[name] = dataclasses.replace(examples, images=examples.images[rows], labels=examples.labels[rows])
    return parts


def _read_folder(path: Path, size: int | None) -> tuple[np.ndarray, list[str]]:
    files = [file for folder in sorted(path.iterdir()) if folder.is_dir() for file in sorted(folder.rglob("*"))]
    files = [file for file in files if file.suffix.lower() in SUFFIXES]
    images = _decode(((str(file), file) for file in files), size, str(path))
    return images, [file.relative_to(path).parts[0] for file in files]


def _read_parquet(path: Path, size: int | None) -> tuple[np.ndarray, list[str]]:
    try:
        from pyarrow import parquet  # here, because nothing else needs it
    except ImportError:
        raise ImportError(f"{path}: to read Parquet, run: pip install pyarrow") from None
    try:
        with parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            rows = file.read(columns=["image", "label"]).to_pylist()
    except (OSError, ValueError) as error:  # pyarrow's own are of these
        raise ValueError(f"{path} cannot be read: {error}") from None
    missing = [name for name in ("image", "label") if name not in names]
    if missing:
        raise ValueError(f"{path}: no column {missing[0]!r}; the columns are {', '.join(map(repr, names))}")
    encoded, labels = [], []
    for i, row in enumerate(rows):
        content, label = row["image"], row["label"]
        content = content.get("bytes") if isinstance(content, dict) else content
        if not isinstance(content, bytes):
            kind = type(content).__name__
            raise ValueError(f"{path}, row {i}: image must be bytes or a record with bytes, got {kind}")
        if label is None:
            raise ValueError(f"{path}, row {i}: no label")
        encoded.append((f"{path}, row {i}", io.BytesIO(content)))
        labels.append(str(label))
    return _decode(encoded, size, str(path)), labels


def _read_npz(path: Path, size: int | None) -> tuple[np.ndarray, list[str]]:
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            raise ValueError("one array, and no archive of them")
        with loaded as file:
            arrays = {name: file[name] for name in file.files}
    except Exception as error:  # zip, NumPy and pickle each have classes of their own
        raise ValueError(f"{path} cannot be read: {error}") from None
    missing = [name for name in ("images", "labels") if name not in arrays]
    if missing:
        raise ValueError(f"{path}: no array {missing[0]!r}; there are {', '.join(map(repr, arrays))}")
    images, labels = arrays["images"], arrays["labels"]
    images = images[..., None] if images.ndim == 3 else images
    square = images.ndim == 4 and images.shape[1] == images.shape[2] and images.shape[3] in MODES.values()
    if images.dtype != np.uint8 or not square:
        found = f"{images.dtype} {list(arrays['images'].shape)}"
        raise ValueError(f"{path}: images must be uint8 [N, I, I] or [N, I, I, 1 or 3], got {found}")
    if size not in (None, images.shape[1]):
        raise ValueError(f"{path}: images must be {size} × {size}, got {images.shape[1]} × {images.shape[2]}")
    if labels.shape != images.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"{path}: labels must be {len(images)} integers, got {labels.dtype} {list(labels.shape)}"
        )
    return images, [str(label) for label in labels.tolist()]


def _decode(files: Iterable[tuple[str, Any]], size: int | None, where: str) -> np.ndarray:
    """Images of one size and mode, [N, I, I, C], from (name, file or path)."""
    decoded, broken, total = [], [], 0
    first: tuple[str, str] | None = None
    for name, file in files:
        total += 1
        try:
            with Image.open(file) as opened:
                opened.load()
                image = opened if size is None else opened.resize((size, size), Image.Resampling.BICUBIC)
                mode, shape = image.mode, f"{image.width} × {image.height} {image.mode}"
                array = np.asarray(image)
        except Exception as error:  # Pillow has no class for all that a damaged file can raise
            broken.append(f"{name} ({type(error).__name__}: {error})")
            continue
        if mode not in MODES or array.shape[0] != array.shape[1]:
            raise ValueError(f"{name} is {shape}; an image must be square, and of mode {' or '.join(MODES)}")
        first = first or (name, shape)
        if shape != first[1]:
            raise ValueError(f"{name} is {shape}, and {first[0]} is {first[1]}: all must be alike")
        decoded.append(array.reshape(*array.shape[:2], -1))
    if broken:
        shown = "; ".join(broken[:3]) + "; ..." * (len(broken) > 3)
        raise ValueError(f"{where}: {len(broken)} of {total} images cannot be read: {shown}")
    return np.stack(decoded) if decoded else np.zeros((0, 1, 1, 1), np.uint8)
