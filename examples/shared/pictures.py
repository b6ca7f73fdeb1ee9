"""A report's pictures: their style, and a page that is not lost if one cannot be drawn."""

import re
from collections.abc import Callable
from pathlib import Path

from matplotlib.figure import Figure

from optimiz import compare, training


def save(picture: Figure, path: Path, *, dpi: int) -> None:
    """Write a picture whose axes have a light grid, and a frame on the left and bottom only."""
    for axes in picture.axes:
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    compare.save(picture, path, dpi=dpi)


def write_page(text: str, path: Path, name: str, draw: Callable[[Path], None]) -> None:
    """Write a page of Markdown and its picture; if it cannot be drawn, the page says why.

    Args:
        text: the page, with a reference to the picture.
        path: path of the page.
        name: name of the picture, a file in the same directory.
        draw: writes the picture to a path.

    Raises:
        OSError: the page cannot be written.
    """
    picture = path.parent / name
    picture.unlink(missing_ok=True)  # not to show one of an earlier report
    try:
        draw(picture)
    except Exception as error:  # whatever it is: the page matters more than its picture
        reason = f"`{name}` is left out: {compare.escaped(f'{type(error).__name__}: {error}')}"
        print(f"warning: {name} is left out of the report: {error}", flush=True)
        text = re.sub(rf"!\[[^\]]*\]\({re.escape(name)}\)", lambda _: reason, text)
    training.write_whole(path, text)
