"""A report's pictures: their style, and a page that is not lost if one cannot be drawn."""

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

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


class StudyReport(Protocol):
    """What the report of a study is made of: a module, as a rule.

    Attributes:
        PICTURE: name of the picture, to which the page refers.
    """

    PICTURE: str

    def render(self, record: compare.Record) -> str:
        """Return the page, as Markdown."""
        ...

    def summary(self, record: compare.Record) -> str:
        """Return the part of the page that is the result."""
        ...

    def draw(self, record: compare.Record, path: Path) -> None:
        """Write the picture."""
        ...


def write_study(report: StudyReport, record: compare.Record, directory: Path) -> str:
    """Write the record, its page ``report.md`` and its picture, and return the part that is the result.

    Args:
        report: how the record is shown.
        record: record of the study.
        directory: where to write.

    Raises:
        OSError: the record or the page cannot be written.
    """
    record.write(directory / "record.json")
    draw = functools.partial(report.draw, record)
    write_page(report.render(record), directory / "report.md", report.PICTURE, draw)
    return report.summary(record)
