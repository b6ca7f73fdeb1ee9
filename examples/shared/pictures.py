"""Pictures of reports: their style, and pages that are written even if a picture cannot be drawn."""

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from matplotlib.figure import Figure

from optimiz import compare, training


def save(picture: Figure, path: Path, *, dpi: int) -> None:
    """Write a picture, with a light grid and a frame only on the left and the bottom of its axes."""
    for axes in picture.axes:
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    compare.save(picture, path, dpi=dpi)


def write_page(text: str, path: Path, name: str, draw: Callable[[Path], None]) -> None:
    """Write a page of Markdown and its picture; if the picture cannot be drawn, the page says why.

    Args:
        text: the page, with a reference to the picture.
        path: path of the page.
        name: file name of the picture, in the same directory.
        draw: function that writes the picture to a path.

    Raises:
        OSError: the page cannot be written.
    """
    picture = path.parent / name
    picture.unlink(missing_ok=True)  # it may belong to an earlier report
    try:
        draw(picture)
    except Exception as error:  # of any kind: the page matters more than its picture
        reason = f"`{name}` is left out: {compare.escaped(f'{type(error).__name__}: {error}')}"
        print(f"warning: {name} is left out of the report: {error}", flush=True)
        text = re.sub(rf"!\[[^\]]*\]\({re.escape(name)}\)", lambda _: reason, text)
    training.write_whole(path, text)


class StudyReport(Protocol):
    """The report of a study, usually a module.

    Attributes:
        PICTURE: file name of the picture that the page shows.
    """

    PICTURE: str

    def render(self, record: compare.Record) -> str:
        """Return the page, as Markdown."""
        ...

    def summary(self, record: compare.Record) -> str:
        """Return the part of the page with the result."""
        ...

    def draw(self, record: compare.Record, path: Path) -> None:
        """Write the picture."""
        ...


def write_study(report: StudyReport, record: compare.Record, directory: Path) -> str:
    """Write the record, its page ``report.md`` and its picture, and return the part with the result.

    Args:
        report: report of the study.
        record: record of the study.
        directory: where to write.

    Raises:
        OSError: the record or the page cannot be written.
    """
    record.write(directory / "record.json")
    draw = functools.partial(report.draw, record)
    write_page(report.render(record), directory / "report.md", report.PICTURE, draw)
    return report.summary(record)
