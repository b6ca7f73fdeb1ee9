"""The account of a run: what it has done, what that took and spent, what of it is written down and shown."""

import contextlib
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

from optimiz.training import divergence
from optimiz.training.budget.clock import as_nanoseconds
from optimiz.training.budget.milestones import Marks
from optimiz.training.distributed import processes
from optimiz.training.journal import Journal, row_of
from optimiz.training.methods.growth import Growth
from optimiz.training.result import Progress, Result
from optimiz.training.settings import Settings
from optimiz.training.step import StepMetrics
from optimiz.training.stopwatch import Stopwatch
from optimiz.training.train_state import TrainState

_log = logging.getLogger(__name__)


class Account:
    """What a run has done.

    Args:
        path: its directory.
        settings: how long it is to go.
        growth: when its model grows.
        progress: called at every look.

    Attributes:
        steps: updates dispatched; at a look, updates made.
        drawn: batches dispatched: more than updates, where examples are selected and too few are kept.
        marks: what it has spent, and when to look next.
        journal: what is written down.
        stopwatch: of the updates.
        compile_seconds: spent compiling, by this process.
        best: the best evaluation so far, where the settings name a figure: its figure, direction, value and
            steps, and the number of its checkpoint; None before there is one.
    """

    def __init__(
        self,
        path: Path,
        settings: Settings,
        growth: Growth | None,
        progress: Callable[[Progress], object] | None,
    ):
        self.steps = self.drawn = 0
        self.marks = Marks(settings, growth)
        self.journal = Journal(path, watched=progress is not None)
        self.stopwatch = Stopwatch()
        self.compile_seconds = 0.0
        self.best: dict[str, Any] | None = None
        self._path, self._total, self._progress = path, settings.steps, progress
        self._settings = settings
        self._pending: list[StepMetrics] = []  # of the updates since the last look

    @property
    def finished(self) -> bool:
        """Whether all updates are dispatched, or the budget is spent."""
        return self.steps == self._total or self.marks.all_spent

    def go_on_from(self, state: TrainState, record: Mapping[str, Any], waits: bool) -> None:
        """Take over from a checkpoint.

        Args:
            state: that was saved.
            record: that was saved beside it.
            waits: whether some batches yield no update.
        """
        self.stopwatch.seconds = record["seconds"]
        best = record.get("best")
        asked = (self._settings.keep_best, self._settings.lower_is_better)
        if best is not None and (best["figure"], best["lower_is_better"]) == asked:
            self.best = best
        self.steps = int(state.step)
        self.drawn = int(state.selection.drawn) if waits else self.steps
        if state.clock is not None:
            self.marks.spent = as_nanoseconds(state.clock.spent)

    def dispatched(self, figures: StepMetrics) -> None:
        """Enter an update that the device may still be working on."""
        self._pending.append(figures)
        self.steps += 1

    def read_clock(self, state: TrainState) -> None:
        """Learn how many of the updates dispatched were made, and set the next mark."""
        if state.clock is not None:
            made = int(state.step)
            self.drawn -= self.steps - made  # beyond a mark nothing is done
            self.steps, self.marks.spent = made, as_nanoseconds(state.clock.spent)
        self.marks.look_ahead(self.steps)

    def look(self, state: TrainState) -> dict[str, Any] | None:
        """Wait for the updates dispatched so far, and write down the figures of those made.

        Returns:
            The row of the update that ends the run, if one does; the account then ends with it.
        """
        jax.block_until_ready(state)
        taken = self.stopwatch.lap()
        first = self.steps - len(self._pending)
        self.read_clock(state)
        made = jax.device_get(self._pending[: self.steps - first])
        self._pending.clear()
        rows = [row_of(step, figures) for step, figures in enumerate(made, start=first)]
        end = divergence.end_of(rows, [figures.sound for figures in made])
        if end is not None:  # what follows is of no use, and how much of it there is depends on the look
            rows = rows[: end + 1]
        self.journal.write(rows)
        self.note("updates", taken)
        bad = [row for row in rows if divergence.is_bad(row)]
        if end is not None:
            self.steps = rows[-1]["step"] + 1
            if "fraction" in rows[-1]:
                self.marks.spent = round(rows[-1]["fraction"] * self.marks.end)
        elif bad and processes.is_first():
            told = divergence.told(bad[-1])
            _log.warning("%s goes on, bad steps since the last look: %d; %s", self._path, len(bad), told)
        if rows:  # a look at candidates alone has none
            self.show({name: rows[-1][name] for name in ("loss", "gradient_norm")})
        self.stopwatch.start()
        return None if end is None else rows[-1]

    def evaluated(self, figures: Mapping[str, float]) -> None:
        """Enter an evaluation."""
        spent = self.marks.fraction
        fraction = {} if spent is None else {"fraction": spent}
        self.journal.write([{"steps": self.steps, **fraction, "evaluation": figures}])
        self.show(figures)

    def is_best(self, figures: Mapping[str, float]) -> bool:
        """Take note of an evaluation that is the best so far; whether it is, the same on every process.

        Raises:
            ValueError: it has no such figure.
        """
        figure, lower = self._settings.keep_best, self._settings.lower_is_better
        if figure is None:
            return False
        if figure not in figures:
            raise ValueError(
                f"evaluate gives no figure {figure!r} to keep the best by; it gives {list(figures)}"
            )
        value, before = figures[figure], None if self.best is None else self.best["value"]
        better = before is None or (value < before if lower else value > before)
        best = {"figure": figure, "lower_is_better": lower, "value": value}
        best |= {"steps": self.steps, "checkpoint": self.drawn}
        self.best = processes.from_first(lambda: best if better and math.isfinite(value) else self.best)
        return self.best is not None and self.best["checkpoint"] == self.drawn

    @contextlib.contextmanager
    def beside(self, event: str) -> Iterator[None]:
        """Enter what the body takes, which is no update, under a name."""
        with self.stopwatch.paused() as pause:
            yield
        self.note(event, pause.seconds)

    def note(self, event: str, seconds: float, **more: float) -> None:
        """Enter what an event took."""
        self.journal.note(self.steps, event, seconds, **more)

    def show(self, figures: Mapping[str, float]) -> None:
        """Show how far the run has come, for as long as it can be shown."""
        if self._progress is None:
            return
        rows, seconds, spent = self.journal.take(), self.stopwatch.seconds, self.marks.fraction
        try:
            self._progress(Progress(self.steps, self._total, seconds, figures, spent, rows))
        except OSError as error:  # whoever read it has gone, or its disk is full
            _log.warning("%s goes on unseen: progress raised %r", self._path, error)
            self._progress = None

    def result(self, params: Any, model_state: Any) -> Result:
        """Close the account."""
        processes.any_process(True)  # wait until the first process has written what all now read
        return Result(
            params=params,
            history=self.journal.history(),
            steps=self.steps,
            seconds=self.stopwatch.seconds,
            compile_seconds=self.compile_seconds,
            reference_seconds=None if self.marks.fraction is None else self.marks.spent / 1e9,
            # Noted down, because a finished run that is read back compiles nothing.
            temporary_bytes=self.journal.temporary_bytes(),
            model_state=model_state,
        )
