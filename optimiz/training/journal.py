"""What a run writes down: what it computed, the same bytes however often it was resumed, and what it took."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from optimiz.training.distributed import processes
from optimiz.training.step import StepMetrics
from optimiz.training.storage import metrics_file
from optimiz.training.storage.run_directory import METRICS, TIMINGS, RunError


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
        self._digest = hashlib.sha256()  # of the metrics; on the process that writes them

    def cut(self, record: Mapping[str, Any] | None) -> None:
        """Cut the metrics back to what a checkpoint vouches for, and go on from there.

        Args:
            record: what :meth:`sync` returned when it was saved; None where there is no checkpoint, and the run
                begins.

        Raises:
            RunError: there are fewer bytes than that, or others; or there is no checkpoint, and once there was.
        """
        metrics_file.drop_torn_line(self._timings)
        saves = [row for row in metrics_file.read_metrics(self._timings) if row.get("event") == "save"]
        if record is None and saves:
            raise RunError(
                f"{self._metrics.parent} was saved after {saves[-1].get('steps')} steps, and its checkpoints "
                "are gone: put them back, or begin anew in another directory"
            )
        size = 0 if record is None else record["metrics_bytes"]
        metrics_file.truncate(self._metrics, size)
        self._digest = hashlib.sha256(metrics_file.read(self._metrics))
        # Checkpoints of earlier versions vouch for the size alone.
        if record is not None and self._digest.hexdigest() != record.get(
            "metrics_sha256", self._digest.hexdigest()
        ):
            raise RunError(
                f"{self._metrics} is not what the checkpoint vouches for: its first {size} bytes have another "
                "SHA-256"
            )
        self._untaken = metrics_file.read_metrics(self._metrics) if size else []

    def sync(self) -> dict[str, Any]:
        """Force the metrics onto the disk: their size and SHA-256, for a checkpoint to vouch for."""
        return {"metrics_bytes": metrics_file.sync(self._metrics), "metrics_sha256": self._digest.hexdigest()}

    def write(self, rows: Sequence[dict[str, Any]]) -> None:
        """Append rows to the metrics."""
        if processes.is_first():
            self._digest.update(metrics_file.append(self._metrics, rows))
        if self._watched:
            self._untaken += rows

    def note(self, steps: int, event: str, seconds: float, **more: float) -> None:
        """Append to the timings what an event took, after so many updates."""
        if processes.is_first():
            row = {"steps": steps, "event": event, "seconds": seconds, **more}
            metrics_file.append(self._timings, [row])

    def take(self) -> list[dict[str, Any]]:
        """The rows written since the last call; at first, those of earlier sessions too."""
        rows, self._untaken = self._untaken, []
        return rows

    def history(self) -> list[dict[str, Any]]:
        """All rows of the metrics."""
        return metrics_file.read_metrics(self._metrics)

    def temporary_bytes(self) -> int | None:
        """The most that a compilation planned, earlier sessions included; None where none was noted."""
        planned = (row.get("temporary_bytes") for row in metrics_file.read_metrics(self._timings))
        return max((size for size in planned if isinstance(size, int)), default=None)


def row_of(step: int, figures: StepMetrics) -> dict[str, Any]:
    """The figures of the update of an index, as a row of metrics."""
    fixed = {"loss": figures.loss, "gradient_norm": figures.gradient_norm, "fraction": figures.fraction}
    row = {"step": step} | {name: float(x) for name, x in fixed.items() if x is not None}
    return row | {name: _number(x) for name, x in figures.logged_scalars.items() if name not in row}


def _number(x: jax.typing.ArrayLike) -> Any:
    """A Python number, or a list of them."""
    x = np.asarray(x)
    return (x if np.issubdtype(x.dtype, np.integer) else x.astype(float)).tolist()
