"""The one training loop: any task, any optimizer, and a result that a kill does not change.

A run keeps in its directory

    run.json         the settings that decide its trajectory
    metrics.jsonl    what it computed: the same bytes, however often it was stopped and resumed
    timings.jsonl    what it took, never the same twice: the seconds of each compilation, stretch
                     of updates, evaluation and save
    checkpoints/     the newest ``keep``, by number of updates

and ends in one of three ways: it returns (exit code 0); it was asked to leave and raises
``Preempted`` (exit code 75: resume it); or it cannot go on and raises ``RunError`` (exit code 1). A
loss or a gradient norm that is not finite is of the last kind: its row is written, and nothing is
saved from then on.
"""

import contextlib
import dataclasses
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import optax

from optimiz.training import checkpoint, metrics, preemption, run_directory
from optimiz.training.run_directory import RunError
from optimiz.training.settings import Settings, description
from optimiz.training.step import Figures, TrainState, check_state, compile_step, initial_state
from optimiz.training.task import Task, batch_shapes

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Result:
    """What a finished run leaves.

    Args:
        params: the trained parameters.
        history: the rows of ``metrics.jsonl``: ``{"step", "loss", "gradient_norm"}`` for the update
            of that 0-based index, ``{"steps", "evaluation"}`` for an evaluation after that many
            updates.
        steps: number of updates.
        seconds: spent on updates and their batches, earlier sessions included; compilation,
            evaluations and saves are not.
        compile_seconds: spent on tracing and compiling by this process.
    """

    params: Any
    history: list[dict[str, Any]]
    steps: int
    seconds: float
    compile_seconds: float


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a run has come; as a string, one line.

    Args:
        steps: updates made.
        total: updates to make.
        seconds: spent on updates so far.
        figures: those of the last update, or those of an evaluation.
    """

    steps: int
    total: int
    seconds: float
    figures: Mapping[str, float]

    def __str__(self) -> str:
        figures = "  ".join(f"{name} {value:.4g}" for name, value in self.figures.items())
        return f"step {self.steps}/{self.total}  {self.seconds:.1f} s  {figures}"


def fit(
    task: Task,
    tx: optax.GradientTransformation,
    settings: Settings,
    directory: str | os.PathLike[str],
    *,
    identity: Mapping[str, Any],
    resume: bool = False,
    progress: Callable[[Progress], object] | None = None,
) -> Result:
    """Train, from the start or from the newest checkpoint.

    Args:
        task: what to learn.
        tx: the optimizer; it is offered ``value``, ``grad`` and ``value_fn``.
        settings: how long, and when to look.
        directory: of this run alone; empty or not there for a new one.
        identity: what else decides the trajectory (optimizer, learning rate, model, data), by name,
            as plain JSON; a resumed run must come with the same.
        resume: go on with the run in ``directory``; one that never began begins, one that is
            finished is read back.
        progress: called at every look, with ``Progress``; ``print`` will do.

    Returns:
        The trained parameters and the run's history, the same to the bit whether it was resumed or
        not.

    Raises:
        TypeError: ``identity`` holds what is not plain JSON.
        ValueError: the task or the optimizer cannot be trained, with the reason.
        RunError: the directory, a checkpoint or the loss does not let the run go on.
        Preempted: SIGTERM or SIGINT came in, and the run is saved.
    """
    described = description(settings, identity)
    with (
        run_directory.claimed(directory, described, resume) as path,
        preemption.deferred() as request,
    ):
        return _Run(task, tx, settings, path, described, request, progress).train()


@dataclasses.dataclass
class _Run:
    """A run under way; ``clock`` is when the updates not yet counted in ``seconds`` began."""

    task: Task
    tx: optax.GradientTransformation
    settings: Settings
    path: Path
    described: Mapping[str, Any]
    request: preemption.Request
    progress: Callable[[Progress], object] | None
    steps: int = 0
    seconds: float = 0.0
    clock: float = 0.0
    pending: list[Figures] = dataclasses.field(default_factory=list)

    def __post_init__(self) -> None:
        self.metrics = self.path / "metrics.jsonl"
        self.timings = self.path / "timings.jsonl"
        self.checkpoints = self.path / "checkpoints"

    def train(self) -> Result:
        like = jax.eval_shape(self.initial_state)
        check_state(like)
        state = self.restored(like)
        if state is not None and self.steps == self.settings.steps:
            _log.warning("%s is finished: all %d steps are done", self.path, self.steps)
            return self.result(state, compile_seconds=0.0)

        batch = self.task.batches(self.steps)
        shapes = batch_shapes(batch, f"batches({self.steps})")
        started = time.perf_counter()
        step = compile_step(self.task, self.tx, like, batch)
        compile_seconds = time.perf_counter() - started
        self.note("compile", compile_seconds)

        if state is None:
            state = self.initial_state()
        self.clock = time.perf_counter()
        for index in range(self.steps, self.settings.steps):
            batch = self.task.batches(index)
            found = batch_shapes(batch, f"batches({index})")
            if found != shapes:
                raise ValueError(f"batches({index}) has {found}, the batches before had {shapes}")
            # Nothing waits here: the next batch is made while the device works on this one.
            state, figures = step(state, jax.device_put(batch))
            self.pending.append(figures)
            self.steps += 1
            self.after_update(state)
        return self.result(state, compile_seconds)

    def initial_state(self) -> TrainState:
        return initial_state(self.task, self.tx, self.settings.seed)

    def restored(self, like: TrainState) -> TrainState | None:
        saved = checkpoint.restore(self.checkpoints, like, self.described)
        metrics.drop_torn_line(self.timings)
        metrics.truncate(self.metrics, saved.record["metrics_bytes"] if saved else 0)
        if saved is None:
            return None
        self.steps, self.seconds = int(saved.state.step), saved.record["seconds"]
        _log.info("%s goes on after %d steps", self.path, self.steps)
        return saved.state

    def after_update(self, state: TrainState) -> None:
        evaluate = self.task.evaluate is not None and self.due(self.settings.evaluate_every)
        # The first look comes at once, so that a loss that is wrong from the start says so.
        if evaluate or self.steps == 1 or self.due(self.settings.log_every):
            self.look(state)
        if evaluate:
            self.evaluate(state)
        signal = self.request.received
        if signal is not None or self.due(self.settings.save_every):
            self.look(state)
            self.save(state)
        if signal is not None:
            _log.warning("%s: %s is saved after %d steps", signal.name, self.path, self.steps)
            raise preemption.Preempted

    def due(self, every: int) -> bool:
        return self.steps == self.settings.steps or (every > 0 and self.steps % every == 0)

    def look(self, state: TrainState) -> None:
        """Wait for the updates dispatched so far, and write down their figures."""
        if not self.pending:
            return
        jax.block_until_ready(state)
        taken = time.perf_counter() - self.clock
        self.seconds += taken
        first = self.steps - len(self.pending)
        rows = [
            {"step": step, "loss": float(figures.loss), "gradient_norm": float(figures.gradient_norm)}
            for step, figures in enumerate(jax.device_get(self.pending), start=first)
        ]
        self.pending.clear()
        metrics.append(self.metrics, rows)
        self.note("updates", taken)
        for row in rows:
            if not all(map(math.isfinite, row.values())):
                raise RunError(
                    f"at step {row['step']} the loss is {row['loss']} and the gradient norm "
                    f"{row['gradient_norm']}; {checkpoint.newest(self.checkpoints)}"
                )
        self.report({name: rows[-1][name] for name in Figures._fields})
        self.clock = time.perf_counter()

    def evaluate(self, state: TrainState) -> None:
        assert self.task.evaluate is not None
        with self.off_the_clock("evaluate"):
            figures = self.task.evaluate(state.params)
            try:
                figures = {name: float(value) for name, value in figures.items()}
            except (AttributeError, TypeError, ValueError):
                raise ValueError(f"evaluate must return numbers by name, got {figures}") from None
            metrics.append(self.metrics, [{"steps": self.steps, "evaluation": figures}])
            self.report(figures)

    def save(self, state: TrainState) -> None:
        with self.off_the_clock("save"):
            checkpoint.save(
                self.checkpoints,
                self.steps,
                state,
                settings=self.described,
                record={"metrics_bytes": metrics.sync(self.metrics), "seconds": self.seconds},
                keep=self.settings.keep,
            )

    @contextlib.contextmanager
    def off_the_clock(self, event: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        taken = time.perf_counter() - started
        self.clock += taken
        self.note(event, taken)

    def note(self, event: str, seconds: float) -> None:
        row = {"steps": self.steps, "event": event, "seconds": seconds}
        metrics.append(self.timings, [row])

    def report(self, figures: Mapping[str, float]) -> None:
        if self.progress is not None:
            self.progress(Progress(self.steps, self.settings.steps, self.seconds, figures))

    def result(self, state: TrainState, compile_seconds: float) -> Result:
        history = metrics.read_metrics(self.metrics)
        return Result(state.params, history, self.steps, self.seconds, compile_seconds)
