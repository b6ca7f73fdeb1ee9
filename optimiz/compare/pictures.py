"""Pictures as files, and words from outside in them."""

import io
import os
from pathlib import Path

from matplotlib.figure import Figure

from optimiz import training
from optimiz.compare.markdown import shown

_LONGEST = 100  # characters


def drawn(text: object) -> str:
    r"""A text from outside for a picture: a line that leaves it room, no formula, never left out of a legend.

    Example:
        >>> print(drawn("$x^$"))
        \$x^\$
        >>> drawn("_x")
        ' _x'
    """
    line = " ".join(shown(str(text)).split())
    line = (line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…").replace("$", r"\$")
    return f" {line}" if line.startswith("_") else line  # Matplotlib keeps such names to itself


def save(picture: Figure, path: str | os.PathLike[str], *, dpi: int) -> None:
    """Write a picture; one of that name is replaced only once the new one is whole.

    Args:
        picture: what is drawn.
        path: where to write; the suffix says the format.
        dpi: pixels an inch.

    Raises:
        OSError: it cannot be written.
        ValueError: there is no such format.
    """
    content = io.BytesIO()
    picture.savefig(content, dpi=dpi, format=Path(path).suffix[1:] or "png")
    training.write_whole(path, content.getvalue())
