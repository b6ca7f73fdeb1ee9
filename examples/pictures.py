"""The look of a report's pictures."""

from pathlib import Path

from matplotlib.figure import Figure

from optimiz import compare


def save(picture: Figure, path: Path, *, dpi: int) -> None:
    """Write a picture whose axes have a light grid, and a frame at the left and below alone."""
    for axes in picture.axes:
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    compare.save(picture, path, dpi=dpi)
