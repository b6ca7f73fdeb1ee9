"""What a run writes down: what it computed, the same bytes however often it was resumed, and what it took."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from optimiz.training import hosts, metrics
from optimiz.training.run_directory import METRICS, TIMINGS, RunError
from optimiz.training.step import Figures


class Journal:
    """The metrics and the timings in a run's directory; the first of several processes alone writes them.

    Args:
        path: the directory.
        watched: whether someone will :meth:`take` the rows.
    """

    def __init__(self, path: Path, watched: bool):
        self._metrics, self._timings = path / METRICS, path / TIMINGS
        self._watched = watched
        self._untaken: list[dict[str, Any]] = []

    def cut(self, size: int | None) -> None:
        """Cut the metrics back to what a checkpoint vouches for, and go on from there.

        Args:
            size: in bytes; None where there is no checkpoint, and the run begins.

        Raises:
            RunError: there are fewer bytes than that; or there is no checkpoint, and once there was.
        """
        metrics.drop_torn_line(self._timings)
        saves = [row["steps"] for row in metrics.read_metrics(self._timings) if row.get("event") == "save"]
        if size is None and saves:
            raise RunError(
                f"{self._metrics.parent} was saved after {saves[-1]} steps, and its checkpoints are gone: put "
                "them back, or begin anew in another directory"
            )
        metrics.truncate(self._metrics, size or 0)
        self._untaken = metrics.read_metrics(self._metrics) if size else []

    def sync(self) -> int:
        """Force the metrics onto the disk and return their size in bytes."""
        return metrics.sync(self._metrics)

    def write(self, rows: Sequence[dict[str, Any]]) -> None:
        """Append rows to the metrics."""
        if hosts.is_first():
            metrics.append(self._metrics, rows)
        if self._watched:
            self._untaken += rows

    def note(self, steps: int, event: str, seconds: float, **more: float) -> None:
        """Append to the timings what an event took, after so many updates."""
        if hosts.is_first():
            row = {"steps": steps, "event": event, "seconds": seconds, **more}
            metrics.append(self._timings, [row])

    def take(self) -> list[dict[str, Any]]:
        """The rows written since the last call; at first, those of earlier sessions too."""
        rows, self._untaken = self._untaken, []
        return rows

    def history(self) -> list[dict[str, Any]]:
        """All rows of the metrics."""
        return metrics.read_metrics(self._metrics)

    def temporary_bytes(self) -> int | None:
        """The most that a compilation planned, earlier sessions included; None where none was noted."""
        planned = (row.get("temporary_bytes") for row in metrics.read_metrics(self._timings))
        return max((size for size in planned if size is not None), default=None)


def row_of(step: int, figures: Figures) -> dict[str, Any]:
    """The figures of the update of an index, as a row of metrics."""
    fixed = {"loss": figures.loss, "gradient_norm": figures.gradient_norm, "fraction": figures.fraction}
    row = {"step": step} | {name: float(x) for name, x in fixed.items() if x is not None}
    return row | {name: _number(x) for name, x in figures.readings.items() if name not in row}


def _number(x: jax.typing.ArrayLike) -> Any:
    """A Python number, or a list of them."""
    x = np.asarray(x)
    return (x if np.issubdtype(x.dtype, np.integer) else x.astype(float)).tolist()
