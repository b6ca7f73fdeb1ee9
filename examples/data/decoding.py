"""Pictures to arrays: upright, of eight bits, grey or red, green and blue, and all of one size.

What a file asks for is done, and counted where it changes the pixels: an EXIF orientation turns the picture,
what is transparent lies on white, of an animation the first picture is taken. A picture that cannot be read, or
has another size than the first, is an error that names it, never a picture skipped: an accuracy means nothing
when nobody knows which images it was measured on. No file is decoded that claims more pixels than Pillow holds
to be safe.
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

# Only these decoders run, whatever a file is called: that of PostScript would start a program.
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
_ORIENTATION = 0x0112
_SIXTEEN_BITS = {"I;16", "I;16B", "I;16L", "I;16N"}
_PLAIN = {"1": "L", "L": "L", "RGB": "RGB", "P": "RGB", "YCbCr": "RGB", "CMYK": "RGB"}


@dataclasses.dataclass(frozen=True)
class Pictures:
    """What was decoded.

    Attributes:
        images: uint8 [N, I, I, C].
        sizes: width and height of each as it stood in its file, but upright, int32 [N, 2].
        notes: what was done to how many.
    """

    images: np.ndarray
    sizes: np.ndarray
    notes: Mapping[str, int]


def decode(
    files: Iterable[tuple[str, Any]], count: int, size: int | None, channels: int | None, where: str
) -> Pictures:
    """Decode pictures.

    Args:
        files: the name of each, and its path or file.
        count: their number, N.
        size: to which they are scaled, I; None where all have one size already.
        channels: `GREY` or `COLOUR`; None for grey where all are.
        where: they are from, for messages.

    Raises:
        ValueError: they cannot be read, are not alike, or would not fit into memory; with names.
    """
    decoded, sizes, broken = [], [], []
    notes: collections.Counter[str] = collections.Counter()
    first: tuple[str, int] | None = None
    for name, file in files:
        try:
            image, about = _upright(file)
        except Exception as error:  # Pillow has no class for all that a damaged file can raise
            kinds = f"it is none of {', '.join(_FORMATS)}"  # Pillow names Python's object
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
            raise ValueError(f"{name} is {shape}, and {first[0]} is {first[1]} × {first[1]}: {fix}")
        if channels == GREY and image.mode != "L":
            raise ValueError(f"{name} is in colour, and the images that it goes with are grey")
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
        notes["grey among coloured ones"] = grey
        decoded = [np.broadcast_to(array, (*array.shape[:2], COLOUR)) for array in decoded]
    images = np.stack(decoded) if decoded else np.zeros((0, 1, 1, 1), np.uint8)
    return Pictures(images, np.array(sizes, np.int32).reshape(-1, 2), +notes)


def _upright(file: Any) -> tuple[Image.Image, list[str]]:
    """A picture of mode L or RGB, and what was done to it."""
    # Of a path, Pillow would map an uncompressed TIFF into memory, and scramble one that lies on its side.
    opening = file.open("rb") if isinstance(file, Path) else contextlib.nullcontext(file)
    with opening as stream, warnings.catch_warnings():
        # Pillow refuses twice that many pixels, and only warns of once.
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(stream, formats=_FORMATS) as opened:
            notes = []
            # A photograph may have others beside it in its file, such as a preview.
            if getattr(opened, "is_animated", False) and opened.format != "MPO":
                notes.append("animated: the first picture of each")
            if opened.getexif().get(_ORIENTATION, 1) in range(2, 9):
                notes.append("turned upright, as their EXIF orientation says")
            # TIFF's loader turns them itself.
            image, format = ImageOps.exif_transpose(opened), opened.format
    mode = image.mode
    if mode in _SIXTEEN_BITS or (mode == "I" and format in ("PNG", "PPM")):
        grey = np.asarray(image).astype(np.float32) / 257  # 65,535 becomes 255
        return Image.fromarray(np.round(grey).astype(np.uint8)), [*notes, "of 16 bits, brought to 8"]
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if image.getextrema()[3][0] < 255:
            notes.append("partly transparent: laid on white")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image).convert("RGB")
        return (image.convert("L") if mode in ("L", "LA") else image), notes
    if mode not in _PLAIN:
        raise ValueError(f"pixels of mode {mode} are not read; save it as PNG or JPEG of 8 bits")
    if mode == "CMYK":
        notes.append("of printing inks (CMYK), turned to RGB without their profile")
    return image.convert(_PLAIN[mode]), notes
