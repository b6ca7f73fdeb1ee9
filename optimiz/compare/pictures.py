"""Writing pictures to files, and text from outside in pictures."""

import io
import os
from pathlib import Path

from matplotlib.figure import Figure

from optimiz import training
from optimiz.compare.markdown import shown

_LONGEST = 100  # characters


def drawn(text: object) -> str:
    r"""Text from outside for a picture: a short line, without formulas, that no legend leaves out.

    Example:
        >>> print(drawn("$x^$"))
        \$x^\$
        >>> drawn("_x")
        ' _x'
    """
    line = " ".join(shown(str(text)).split())
    line = (line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…").replace("$", r"\$")
    return f" {line}" if line.startswith("_") else line  # Matplotlib leaves such names out of legends


def save(picture: Figure, path: str | os.PathLike[str], *, dpi: int) -> None:
    """Write a picture; an existing file is replaced only once the new one is complete.

    Args:
        picture: picture to write.
        path: file to write; the suffix gives the format.
        dpi: pixels per inch.

    Raises:
        OSError: the file cannot be written.
        ValueError: the format is unknown.
    """
    content = io.BytesIO()
    picture.savefig(content, dpi=dpi, format=Path(path).suffix[1:] or "png")
    training.write_whole(path, content.getvalue())
