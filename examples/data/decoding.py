"""Decode pictures into arrays: upright, with eight bits, grey or RGB, and all of the same size.

What a file specifies is applied, and counted if it changes the pixels: an EXIF orientation rotates the picture,
transparent pixels are laid on white, and only the first picture of an animation is used. A picture that cannot
be read, or whose size differs from that of the first, is never skipped, but raises an error that names it: an
accuracy means nothing if nobody knows which images it was measured on. A file that claims more pixels than
Pillow considers safe is not decoded.
"""

import collections
import contextlib
import dataclasses
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from examples.data import memory

GREY, COLOUR = 1, 3  # channels

# Only these decoders run, whatever a file's name: the decoder of PostScript would start a program.
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
_ORIENTATION = 0x0112
_SIXTEEN_BITS = {"I;16", "I;16B", "I;16L", "I;16N"}
_PLAIN = {"1": "L", "L": "L", "RGB": "RGB", "P": "RGB", "YCbCr": "RGB", "CMYK": "RGB"}


@dataclasses.dataclass(frozen=True)
class Pictures:
    """Decoded pictures.

    Attributes:
        images: uint8 [N, I, I, C].
        sizes: width and height of each in its file, but upright, int32 [N, 2].
        notes: what was done → to how many pictures.
    """

    images: np.ndarray
    sizes: np.ndarray
    notes: Mapping[str, int]


def decode(
    files: Iterable[tuple[str, Any]], count: int, size: int | None, channels: int | None, where: str
) -> Pictures:
    """Decode pictures.

    Args:
        files: the name of each picture, and its path or file.
        count: number of pictures, N.
        size: side to which pictures are scaled, I; None if all have the same size already.
        channels: `GREY` or `COLOUR`; None for grey if all pictures are grey.
        where: the source of the pictures, for messages.

    Raises:
        ValueError: pictures cannot be read, differ in size or colour, or would not fit into memory; the message
            names them.
    """
    decoded, sizes, broken = [], [], []
    notes: collections.Counter[str] = collections.Counter()
    first: tuple[str, int] | None = None
    for name, file in files:
        try:
            image, about = _upright(file)
        except Exception as error:  # Pillow has no common class for the errors of a damaged file
            kinds = f"not one of {', '.join(_FORMATS)}"  # Pillow's message names a Python object
            unknown = isinstance(error, UnidentifiedImageError)
            broken.append(f"{name} ({kinds if unknown else f'{type(error).__name__}: {error}'})")
            continue
        shape = f"{image.width} × {image.height}"
        fix = "to scale all to one size, give size= (--image_size)"
        if size is None and image.width != image.height:
            raise ValueError(f"{name} is {shape}; an image must be square: {fix}")
        side = image.width if size is None else size
        first = first or (name, side)
        if side != first[1]:
            raise ValueError(f"{name} is {shape}, but {first[0]} is {first[1]} × {first[1]}: {fix}")
        if channels == GREY and image.mode != "L":
            raise ValueError(f"{name} is in colour, but the images that it goes with are grey")
        memory.check(count * side * side * (channels or len(image.getbands())), f"{count} images of {where}")
        notes.update(about)
        sizes.append(image.size)
        scaled = image if size is None else image.resize((size, size), Image.Resampling.BICUBIC)
        decoded.append(np.asarray(scaled).reshape(side, side, -1))
    if broken:
        shown = "; ".join(broken[:3]) + "; ..." * (len(broken) > 3)
        raise ValueError(f"{where}: {len(broken)} of {count} images cannot be read: {shown}")
    grey = sum(array.shape[-1] == GREY for array in decoded)
    if channels == COLOUR or (channels is None and grey < len(decoded)):
        notes["grey images among coloured ones"] = grey
        decoded = [np.broadcast_to(array, (*array.shape[:2], COLOUR)) for array in decoded]
    images = np.stack(decoded) if decoded else np.zeros((0, 1, 1, 1), np.uint8)
    return Pictures(images, np.array(sizes, np.int32).reshape(-1, 2), +notes)


def _upright(file: Any) -> tuple[Image.Image, list[str]]:
    """A picture in mode L or RGB, and what was done to it."""
    # Given a path, Pillow would memory-map an uncompressed TIFF, and scramble one that is rotated.
    opening = file.open("rb") if isinstance(file, Path) else contextlib.nullcontext(file)
    with opening as stream, warnings.catch_warnings():
        # Pillow only warns above its limit, and refuses pictures above twice the limit.
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(stream, formats=_FORMATS) as opened:
            notes = []
            # The file of a photograph may contain other pictures, such as a preview.
            if getattr(opened, "is_animated", False) and opened.format != "MPO":
                notes.append("animated: only the first picture is used")
            if opened.getexif().get(_ORIENTATION, 1) in range(2, 9):
                notes.append("rotated upright, by their EXIF orientation")
            # The TIFF loader rotates pictures itself.
            image, format = ImageOps.exif_transpose(opened), opened.format
    mode = image.mode
    if mode in _SIXTEEN_BITS or (mode == "I" and format in ("PNG", "PPM")):
        grey = np.asarray(image).astype(np.float32) / 257  # 65,535 becomes 255
        return Image.fromarray(np.round(grey).astype(np.uint8)), [*notes, "16 bits: reduced to 8"]
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if image.getextrema()[3][0] < 255:
            notes.append("partly transparent: laid on white")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image).convert("RGB")
        return (image.convert("L") if mode in ("L", "LA") else image), notes
    if mode not in _PLAIN:
        raise ValueError(f"pixels of mode {mode} are not supported; save it as 8-bit PNG or JPEG")
    if mode == "CMYK":
        notes.append("CMYK: converted to RGB without their colour profile")
    return image.convert(_PLAIN[mode]), notes
