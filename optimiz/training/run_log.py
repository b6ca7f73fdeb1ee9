"""The log of a run: its position, its metrics, its timings, and the progress that it reports.

Steps are dispatched ahead of the device. The log counts them, keeps their metrics on the device until the host
looks, and knows when the host must look: after the first step, and at the next milestone of the budget.
"""

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from optimiz.training import divergence
from optimiz.training.budget.clock import as_nanoseconds
from optimiz.training.budget.milestones import Milestones
from optimiz.training.distributed import processes
from optimiz.training.methods.methods import Methods
from optimiz.training.result import Progress, Result
from optimiz.training.settings import Settings
from optimiz.training.step import StepMetrics
from optimiz.training.storage.metrics_log import MetricsLog
from optimiz.training.storage.same_settings import refuse_other_settings
from optimiz.training.train_state import TrainState

_log = logging.getLogger(__name__)


class RunLog:
    """What a run has done, and what lies ahead of it.

    Args:
        path: the run's directory.
        settings: how long the run is, and when to look.
        methods: whether the model grows, and whether a batch of candidates may yield no update.
        progress: function to call at every look; None for no reports.

    Attributes:
        steps: updates dispatched; after a look, updates made.
        drawn: batches dispatched. There are more of them than updates if examples are selected and too few are
            kept.
    """

    def __init__(
        self,
        path: Path,
        settings: Settings,
        methods: Methods,
        progress: Callable[[Progress], object] | None,
    ):
        self.steps = self.drawn = 0
        self._path, self._settings, self._progress = path, settings, progress
        self._waits = methods.selection is not None and methods.selection.waits
        grow_at = () if methods.growth is None else methods.growth.at
        self._milestones = Milestones(settings.steps, settings.budget, settings.evaluate_at, grow_at)
        self._rows = MetricsLog(path, watched=progress is not None)
        self._pending: list[StepMetrics] = []  # of the updates since the last look
        self._best: dict[str, Any] | None = None  # the best evaluation, if the settings name a metric
        self._unimproved = 0  # evaluations since then
        self._seconds = self._compile_seconds = 0.0
        self.memory: dict[str, int] = {}
        self._lap_started = self._drawing = self._waited = 0.0

    @property
    def finished(self) -> bool:
        """Whether all updates are dispatched, the budget is spent, or the run stops early."""
        return self.steps == self._settings.steps or self._milestones.all_spent or self._out_of_patience

    @property
    def _out_of_patience(self) -> bool:
        patience = self._settings.patience
        return patience is not None and self._unimproved >= patience

    @property
    def stage(self) -> int:
        """The number of growths that are due by now."""
        return self._milestones.stage(self.steps)

    @property
    def moment(self) -> tuple[jax.Array, ...]:
        """The next milestone as an argument of the step; empty without a budget."""
        return self._milestones.moment

    def resume(self, state: TrainState | None, record: Mapping[str, Any] | None) -> None:
        """Continue from a checkpoint, or start a new log.

        Args:
            state: the saved state; None if there is no checkpoint.
            record: the record saved with it.

        Raises:
            RunError: the metrics are not those that the checkpoint recorded. It is ``OtherSettings`` if its
                evaluations were judged otherwise than by ``Settings(keep_best=, lower_is_better=)``.
        """
        processes.from_first(lambda: self._rows.truncate(record))
        if state is None or record is None:
            return
        self._seconds = record["seconds"]
        self._best = record.get("best")
        processes.from_first(self._refuse_other_best)
        self._unimproved = record.get("unimproved", 0)
        self.steps = int(state.step)
        self.drawn = int(state.selection.drawn) if self._waits else self.steps
        if state.clock is not None:
            self._milestones.spent = as_nanoseconds(state.clock.spent)

    def _refuse_other_best(self) -> None:
        """Refuse to go on if the best of all evaluations so far may not be the one that is kept."""
        best, settings = self._best, self._settings
        was = {} if best is None else {"keep_best": best["figure"], "lower_is_better": best["lower_is_better"]}
        name, now = settings.keep_best, {}
        if name is not None:
            now = {"keep_best": name, "lower_is_better": settings.lower_is_better}
        # Without a best, nothing was kept, or nothing could be: no value of the metric was finite so far.
        earlier = (row["evaluation"].get(name) for row in self._rows.history() if "evaluation" in row)
        if best is not None or any(value is not None and math.isfinite(value) for value in earlier):
            refuse_other_settings(str(self._path), {"settings": was}, {"settings": now})

    def plan_ahead(self, least_price: float | None) -> None:
        """Estimate when the next milestone is reached.

        Args:
            least_price: the least price of an update from now on, in seconds; None without a budget.
        """
        if least_price is not None:
            self._milestones.set_price(least_price, self.steps)
        self._milestones.look_ahead(self.steps)

    def start(self) -> None:
        """Begin to count the seconds of updates."""
        self._lap_started = time.perf_counter()

    @contextlib.contextmanager
    def timed(self, event: str) -> Iterator[dict[str, float]]:
        """Log how long the body takes, and exclude it from the time of the updates.

        Args:
            event: name of the event.

        Yields:
            A dict for further numbers to log with it, by name.
        """
        more: dict[str, float] = {}
        started = time.perf_counter()
        yield more
        seconds = time.perf_counter() - started
        self._lap_started += seconds
        if event == "compile":
            self._compile_seconds += seconds
        self._rows.write_timing(self.steps, event, seconds, **more)

    @contextlib.contextmanager
    def drawing(self) -> Iterator[None]:
        """Count how long the body takes to make a batch, and whether the device waits, or is still working."""
        started = time.perf_counter()
        yield
        seconds = time.perf_counter() - started
        self._drawing += seconds
        newest: Any = self._pending[-1].loss if self._pending else None
        if newest is None or newest.is_ready():
            self._waited += seconds

    def dispatched(self, state: TrainState, metrics: StepMetrics) -> bool:
        """Record a step that the device may still be working on.

        Args:
            state: the state after the step.
            metrics: the metrics of the step.

        Returns:
            Whether the step makes an update. This waits for the device only if a batch of candidates may yield
            none.
        """
        self.drawn += 1
        if self._waits and int(state.step) <= self.steps:
            return False
        self._pending.append(metrics)
        self.steps += 1
        return True

    def due(self, every: int) -> bool:
        """Whether something done every ``every`` updates is due; 0 means only at the end."""
        return self.finished or (every > 0 and self.steps % every == 0)

    def must_look(self, state: TrainState) -> bool:
        """Whether to look at once: after the first update, as its loss may be wrong, and at a milestone."""
        if self.steps in (1, self._milestones.horizon):
            return True
        return self._waits and self.at_milestone(state)

    def at_milestone(self, state: TrainState) -> bool:
        """Whether the clock has reached the next milestone; waits for the device."""
        return self._milestones.reached(state.clock)

    def look(self, state: TrainState) -> tuple[dict[str, Any] | None, bool]:
        """Wait for the steps dispatched so far, and log the metrics of those that made an update.

        Returns:
            The row of the update that ends the run, which is then the last one logged, or None; and whether a
            milestone for an evaluation was passed.
        """
        jax.block_until_ready(state)
        seconds = time.perf_counter() - self._lap_started
        self._seconds += seconds
        first, spent = self.steps - len(self._pending), self._milestones.spent
        if state.clock is not None:
            made = int(state.step)
            self.drawn -= self.steps - made  # steps beyond a milestone do nothing
            self.steps, self._milestones.spent = made, as_nanoseconds(state.clock.spent)
        self._milestones.look_ahead(self.steps)
        made_metrics = jax.device_get(self._pending[: self.steps - first])
        self._pending.clear()
        rows = [_row(step, metrics) for step, metrics in enumerate(made_metrics, start=first)]
        end = divergence.end_of(rows, [metrics.sound for metrics in made_metrics])
        if end is not None:
            # Later rows are useless, and their number depends on when the host looks.
            rows = rows[: end + 1]
        self._rows.write(rows)
        of_data = {"drawing_seconds": self._drawing, "waiting_seconds": self._waited}
        self._rows.write_timing(self.steps, "updates", seconds, **of_data)
        self._drawing = self._waited = 0.0
        bad = [row for row in rows if divergence.is_bad(row)]
        if end is not None:
            self.steps = rows[-1]["step"] + 1
            if "fraction" in rows[-1]:
                self._milestones.spend(rows[-1]["fraction"])
        elif bad and processes.is_first():
            message = divergence.step_message(bad[-1])
            _log.warning("%s continues, bad steps since the last look: %d; %s", self._path, len(bad), message)
        if rows:  # there are none if no candidates made an update
            self._show({name: rows[-1][name] for name in ("loss", "gradient_norm")})
        self.start()
        return (None if end is None else rows[-1]), self._milestones.crossed(spent)

    def evaluated(self, metrics: Mapping[str, float]) -> None:
        """Log an evaluation, and report it."""
        spent = self._milestones.fraction
        fraction = {} if spent is None else {"fraction": spent}
        self._rows.write([{"steps": self.steps, **fraction, "evaluation": metrics}])
        self._show(metrics)

    def is_best(self, metrics: Mapping[str, float]) -> bool:
        """Remember an evaluation if it is the best so far, and return whether it is, the same on every process.

        Raises:
            ValueError: the metric to keep the best by is not among them.
        """
        name, lower = self._settings.keep_best, self._settings.lower_is_better
        if name is None:
            return False
        if name not in metrics:
            raise ValueError(f"evaluate gives no metric {name!r} to keep the best by; it gives {list(metrics)}")
        value, before = metrics[name], None if self._best is None else self._best["value"]
        better = before is None or (value < before if lower else value > before)
        # "figure" is the name of the metric in the manifests of all versions.
        best = {"figure": name, "lower_is_better": lower, "value": value}
        best |= {"steps": self.steps, "checkpoint": self.drawn}
        self._best = processes.from_first(lambda: best if better and math.isfinite(value) else self._best)
        is_best = self._best is not None and self._best["checkpoint"] == self.drawn
        self._unimproved = 0 if is_best else self._unimproved + 1
        return is_best

    @property
    def best_checkpoint(self) -> int | None:
        """The number of the checkpoint of the best evaluation; None if there is none."""
        return None if self._best is None else self._best["checkpoint"]

    def record(self) -> dict[str, Any]:
        """Force the metrics onto the disk, and return what a checkpoint saves of the log."""
        record = processes.from_first(lambda: self._rows.sync() | {"seconds": self._seconds})
        unimproved = {} if self._settings.patience is None else {"unimproved": self._unimproved}
        return record | unimproved | ({} if self._best is None else {"best": self._best})

    def result(self, params: Any, model_state: Any) -> Result:
        """Close the log."""
        processes.any_process(True)  # wait until the first process has written what all of them now read
        spent = None if self._milestones.fraction is None else self._milestones.spent / 1e9
        best = self._best and {"metric": self._best["figure"]} | {k: self._best[k] for k in ("value", "steps")}
        return Result(
            params=params,
            history=self._rows.history(),
            steps=self.steps,
            seconds=self._seconds,
            compile_seconds=self._compile_seconds,
            reference_seconds=spent,
            # Read from the file, because a finished run that is read back compiles nothing.
            temporary_bytes=self._rows.temporary_bytes(),
            model_state=model_state,
            best=best,
            stopped_early=self.finished and self._out_of_patience,
        )

    def _show(self, metrics: Mapping[str, float]) -> None:
        """Report progress, until a report fails."""
        if self._progress is None:
            return
        rows, spent = self._rows.take(), self._milestones.fraction
        try:
            self._progress(
                Progress(self.steps, self._settings.steps, self._seconds, metrics, spent, rows, self.memory)
            )
        except OSError as error:  # its reader has gone, or its disk is full
            _log.warning("%s continues without progress, which raised %r", self._path, error)
            self._progress = None


def _row(step: int, metrics: StepMetrics) -> dict[str, Any]:
    """The metrics of an update, by its 0-based index, as a row of ``metrics.jsonl``."""
    fixed = {"loss": metrics.loss, "gradient_norm": metrics.gradient_norm, "fraction": metrics.fraction}
    row: dict[str, Any] = {"step": step} | {name: float(x) for name, x in fixed.items() if x is not None}
    row |= {name: _number(x) for name, x in metrics.logged_scalars.items() if name not in row}
    if metrics.noise is not None:
        row["noise"] = {name: float(x) for name, x in metrics.noise._asdict().items()}
    return row


def _number(x: jax.typing.ArrayLike) -> Any:
    """A Python number, or a list of them."""
    x = np.asarray(x)
    return (x if np.issubdtype(x.dtype, np.integer) else x.astype(float)).tolist()
