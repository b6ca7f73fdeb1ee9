"""The logs in a run's directory: ``metrics.jsonl``, what was computed, and ``timings.jsonl``, how long it took.

The metrics are the same bytes however often a run was resumed: a checkpoint records their size and SHA-256, and
a resumed run continues from there.
"""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from optimiz.training.distributed import processes
from optimiz.training.errors import RunError
from optimiz.training.storage import metrics_file
from optimiz.training.storage.run_directory import METRICS, TIMINGS

_log = logging.getLogger(__name__)


class MetricsLog:
    """The metrics and the timings of a run; only the first of several processes writes them.

    Args:
        path: the run's directory.
        watched: whether the rows are to be kept for :meth:`take`.
    """

    def __init__(self, path: Path, watched: bool):
        self._metrics, self._timings = path / METRICS, path / TIMINGS
        self._watched = watched
        self._untaken: list[dict[str, Any]] = []
        self._digest = hashlib.sha256()  # of the metrics; on the process that writes them

    def truncate(self, record: Mapping[str, Any] | None) -> None:
        """Truncate the metrics to what a checkpoint has recorded, and continue from there.

        Args:
            record: what :meth:`sync` returned before the checkpoint was saved; None for a run without one.

        Raises:
            RunError: the metrics are shorter than recorded, or differ; or there is no checkpoint, although the
                timings record one or are gone too.
        """
        metrics_file.drop_torn_line(self._timings)
        saves = [row for row in metrics_file.read_metrics(self._timings) if row.get("event") == "save"]
        if record is None and saves:
            raise RunError(
                f"{self._metrics.parent} was saved after {saves[-1].get('steps')} steps, but its checkpoints "
                "are gone: put them back, or start over in another directory"
            )
        if record is None and metrics_file.read(self._metrics):
            if not self._timings.exists():  # they are written before the metrics
                raise RunError(
                    f"{self._metrics.parent} holds metrics, but neither timings nor a checkpoint: put them "
                    "back, or start over in another directory"
                )
            _log.warning("%s starts over: it was stopped before its first checkpoint", self._metrics.parent)
        size = 0 if record is None else record["metrics_bytes"]
        metrics_file.truncate(self._metrics, size)
        self._digest = hashlib.sha256(metrics_file.read(self._metrics))
        # Checkpoints of earlier versions record the size alone.
        if record is not None and self._digest.hexdigest() != record.get(
            "metrics_sha256", self._digest.hexdigest()
        ):
            raise RunError(
                f"{self._metrics} is not what the checkpoint has recorded: its first {size} bytes have another "
                "SHA-256"
            )
        self._untaken = metrics_file.read_metrics(self._metrics) if size else []

    def sync(self) -> dict[str, Any]:
        """Force the metrics onto the disk, and return their size and SHA-256 for a checkpoint's record."""
        return {"metrics_bytes": metrics_file.sync(self._metrics), "metrics_sha256": self._digest.hexdigest()}

    def write(self, rows: Sequence[dict[str, Any]]) -> None:
        """Append rows to the metrics."""
        if processes.is_first():
            self._digest.update(metrics_file.append(self._metrics, rows))
        if self._watched:
            self._untaken += rows

    def write_timing(self, steps: int, event: str, seconds: float, **more: float) -> None:
        """Append to the timings how long an event took, and the number of updates before it."""
        if processes.is_first():
            row = {"steps": steps, "event": event, "seconds": seconds, **more}
            metrics_file.append(self._timings, [row])

    def take(self) -> list[dict[str, Any]]:
        """The rows written since the last call; the first call includes those of earlier sessions."""
        rows, self._untaken = self._untaken, []
        return rows

    def history(self) -> list[dict[str, Any]]:
        """All rows of the metrics."""
        return metrics_file.read_metrics(self._metrics)

    def temporary_bytes(self) -> int | None:
        """The most temporary memory of any compiled step, earlier sessions included; None if unknown."""
        planned = (row.get("temporary_bytes") for row in metrics_file.read_metrics(self._timings))
        return max((size for size in planned if isinstance(size, int)), default=None)
