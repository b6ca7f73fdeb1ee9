"""The one training loop: any task, any optimizer, and a result that a kill does not change.

A run keeps in its directory

    run.json         the settings that decide its trajectory
    metrics.jsonl    what it computed: the same bytes, however often it was stopped and resumed
    timings.jsonl    what it took, never the same twice: the seconds of each compilation, stretch
                     of updates, evaluation and save
    checkpoints/     the newest ``keep``, by number of updates

and ends in one of three ways: it returns (exit code 0); it was asked to leave and raises
``Preempted`` (exit code 75: resume it); or it cannot go on and raises ``RunError`` (exit code 1). A
loss or a gradient norm that is not finite is of the last kind, ``Diverged``: its row is the last one
written, and nothing is saved from then on.

A run ends after a number of updates, or when its budget of reference time is spent, on any machine
after the same update. The clock is on the device, and the host reads it when it looks. It reckons
then how many updates there are until the next mark, which is a fraction of the budget to evaluate
at, or its end, and looks again there; a step that it dispatches beyond the mark does nothing.
"""

import contextlib
import dataclasses
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from optimiz.training import checkpoint, metrics, preemption, run_directory
from optimiz.training.clock import as_moment, as_nanoseconds, nanoseconds
from optimiz.training.reference import Reference
from optimiz.training.run_directory import RunError
from optimiz.training.settings import Settings, description
from optimiz.training.step import STEP, Figures, TrainState, check_state, compile_step, initial_state
from optimiz.training.task import Task, batch_shapes, batch_size

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Result:
    """What a finished run leaves.

    Args:
        params: the trained parameters.
        history: the rows of ``metrics.jsonl``: ``{"step", "loss", "gradient_norm"}`` for the update
            of that 0-based index, and what the optimizer's state says of it, such as
            ``"learning_rate"``; ``{"steps", "evaluation"}`` for an evaluation after that many
            updates; under a budget either has the ``"fraction"`` of it that was spent before.
        steps: number of updates.
        seconds: spent on updates and their batches, earlier sessions included; compilation,
            evaluations and saves are not.
        compile_seconds: spent on tracing and compiling by this process.
        reference_seconds: of reference time, charged for the updates; None without a budget.
        temporary_bytes: of device memory, at the most, that a step needs beside its state and its batch, as
            the compiler plans it; None where it does not say.
    """

    params: Any
    history: list[dict[str, Any]]
    steps: int
    seconds: float
    compile_seconds: float
    reference_seconds: float | None = None
    temporary_bytes: int | None = None


class Diverged(RunError):
    """The loss or the norm of its gradient is not finite: the run cannot go on.

    Attributes:
        step: 0-based index of the first such update.
        result: the run up to and with that update; its parameters are of no use.
    """

    def __init__(self, message: str, step: int, result: Result):
        super().__init__(message)
        self.step = step
        self.result = result


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a run has come; as a string, one line.

    Args:
        steps: updates made.
        total: updates to make; None where only the budget says.
        seconds: spent on updates so far.
        figures: those of the last update, or those of an evaluation.
        fraction: of the budget, spent so far; None without a budget.
        rows: of ``metrics.jsonl``, written since the last call; those of earlier sessions come with the first.
    """

    steps: int
    total: int | None
    seconds: float
    figures: Mapping[str, float]
    fraction: float | None = None
    rows: Sequence[Mapping[str, Any]] = ()

    @property
    def share(self) -> float:
        """Of the run, done so far, in [0, 1]."""
        if self.fraction is not None:
            return self.fraction
        return self.steps / (self.total or self.steps)

    def __str__(self) -> str:
        steps = f"{self.steps}" if self.total is None else f"{self.steps}/{self.total}"
        budget = "" if self.fraction is None else f"  {self.fraction:.1%} of the budget"
        figures = "  ".join(f"{name} {value:.4g}" for name, value in self.figures.items())
        return f"step {steps}{budget}  {self.seconds:.1f} s  {figures}"


def fit(
    task: Task,
    tx: optax.GradientTransformation,
    settings: Settings,
    directory: str | os.PathLike[str],
    *,
    identity: Mapping[str, Any],
    reference: Reference | None = None,
    resume: bool = False,
    progress: Callable[[Progress], object] | None = None,
) -> Result:
    """Train, from the start or from the newest checkpoint.

    Args:
        task: what to learn.
        tx: the optimizer; it is offered ``value``, ``grad`` and ``value_fn``, and ``logits_fn`` where
            the task has logits.
        settings: how long, and when to look.
        directory: of this run alone; empty or not there for a new one.
        identity: what else decides the trajectory (optimizer, learning rate, model, data), by name,
            as plain JSON; a resumed run must come with the same.
        reference: what the work costs, where the settings name a budget; its prices, and not the machine
            at hand, decide the trajectory. Evaluations and checkpoints are not charged.
        resume: go on with the run in ``directory``; one that never began begins, one that is
            finished is read back.
        progress: called at every look, with ``Progress``, at a divergence too; ``print`` will do.

    Returns:
        The trained parameters and the run's history, the same to the bit whether it was resumed or
        not.

    Raises:
        TypeError: ``identity`` holds what is not plain JSON.
        ValueError: the task or the optimizer cannot be trained, with the reason; there is a budget and
            no reference, or the reverse; or the reference lacks work that is to be charged.
        RunError: the directory or a checkpoint does not let the run go on; or ``Diverged``, where it is
            the loss.
        Preempted: SIGTERM or SIGINT came in, and the run is saved.
    """
    if (settings.budget is None) != (reference is None):
        raise ValueError(
            f"a budget needs a reference and a reference a budget, got budget={settings.budget} and "
            f"{'no' if reference is None else 'a'} reference"
        )
    described = description(settings, identity, None if reference is None else reference.prices())
    with (
        run_directory.claimed(directory, described, resume) as path,
        preemption.deferred() as request,
    ):
        return _Run(task, tx, settings, path, described, reference, request, progress).train()


@dataclasses.dataclass
class _Run:
    """A run under way.

    Args:
        steps: updates dispatched; at a look, updates made.
        seconds: spent on updates up to the last look.
        since: when the updates since then began.
        pending: the figures of those updates.
        unreported: rows of the metrics that ``progress`` has not seen.
        spent: of the budget, in nanoseconds, at the last look.
        mark: the moment of the next mark, on the device; None without a budget.
        horizon: how many updates there will be, as far as the host can tell, when the mark is reached.
        step_price: of one update at the least, in nanoseconds.
        compile_seconds: spent compiling.
    """

    task: Task
    tx: optax.GradientTransformation
    settings: Settings
    path: Path
    described: Mapping[str, Any]
    reference: Reference | None
    request: preemption.Request
    progress: Callable[[Progress], object] | None
    steps: int = 0
    seconds: float = 0.0
    since: float = 0.0
    pending: list[Figures] = dataclasses.field(default_factory=list)
    unreported: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    spent: int = 0
    mark: jax.Array | None = None
    horizon: int | None = None
    step_price: int = 0
    compile_seconds: float = 0.0

    def __post_init__(self) -> None:
        self.metrics = self.path / "metrics.jsonl"
        self.timings = self.path / "timings.jsonl"
        self.checkpoints = self.path / "checkpoints"
        budget, fractions = self.settings.budget, (*self.settings.evaluate_at, 1)
        self.marks = [] if budget is None else [nanoseconds(fraction * budget) for fraction in fractions]

    def train(self) -> Result:
        like = jax.eval_shape(self.initial_state)
        check_state(like)
        state = self.restored(like)
        if state is not None and self.finished:
            _log.warning("%s is finished: all %d steps are done", self.path, self.steps)
            return self.result(state)

        batch = self.task.batches(self.steps)
        shapes = batch_shapes(batch, f"batches({self.steps})")
        price = None
        if self.reference is not None:
            price = self.reference.seconds
            self.step_price = nanoseconds(price(STEP, batch=batch_size(batch)))
        started = time.perf_counter()
        step = compile_step(self.task, self.tx, like, batch, price)
        self.compile_seconds = time.perf_counter() - started
        memory = step.memory_analysis()
        planned = {} if memory is None else {"temporary_bytes": memory.temp_size_in_bytes}
        self.note("compile", self.compile_seconds, **planned)

        if state is None:
            state = self.initial_state()
        self.read_clock(state)
        self.since = time.perf_counter()
        while not self.finished:
            batch = self.task.batches(self.steps)
            found = batch_shapes(batch, f"batches({self.steps})")
            if found != shapes:
                raise ValueError(f"batches({self.steps}) has {found}, the batches before had {shapes}")
            until = () if self.mark is None else (self.mark,)
            # Nothing waits here: the next batch is made while the device works on this one.
            state, figures = step(state, jax.device_put(batch), *until)
            self.pending.append(figures)
            self.steps += 1
            self.after_update(state)
        return self.result(state)

    def initial_state(self) -> TrainState:
        return initial_state(self.task, self.tx, self.settings.seed, self.settings.budget)

    def restored(self, like: TrainState) -> TrainState | None:
        saved = checkpoint.restore(self.checkpoints, like, self.described)
        metrics.drop_torn_line(self.timings)
        metrics.truncate(self.metrics, saved.record["metrics_bytes"] if saved else 0)
        if saved is None:
            return None
        self.steps, self.seconds = int(saved.state.step), saved.record["seconds"]
        self.unreported = metrics.read_metrics(self.metrics)
        if saved.state.clock is not None:
            self.spent = as_nanoseconds(saved.state.clock.spent)
        _log.info("%s goes on after %d steps", self.path, self.steps)
        return saved.state

    @property
    def finished(self) -> bool:
        return self.steps == self.settings.steps or (self.marks != [] and self.spent >= self.marks[-1])

    @property
    def fraction(self) -> float | None:
        return min(1.0, self.spent / self.marks[-1]) if self.marks else None

    def after_update(self, state: TrainState) -> None:
        due, settings = self.due, self.settings
        evaluates = self.task.evaluate is not None
        # The first look comes at once, so that a loss that is wrong from the start says so.
        if not (
            self.steps in (1, self.horizon)
            or self.request.received is not None
            or due(settings.log_every)
            or due(settings.save_every)
            or (evaluates and due(settings.evaluate_every))
        ):
            return
        spent = self.spent
        self.look(state)
        crossed = any(spent < mark <= self.spent for mark in self.marks)
        if evaluates and (crossed or due(settings.evaluate_every)):
            self.evaluate(state)
        signal = self.request.received
        if signal is not None or due(settings.save_every):
            self.save(state)
        if signal is not None:
            _log.warning("%s: %s is saved after %d steps", signal.name, self.path, self.steps)
            raise preemption.Preempted

    def due(self, every: int) -> bool:
        return self.finished or (every > 0 and self.steps % every == 0)

    def look(self, state: TrainState) -> None:
        """Wait for the updates dispatched so far, and write down the figures of those made."""
        jax.block_until_ready(state)
        taken = time.perf_counter() - self.since
        self.seconds += taken
        first = self.steps - len(self.pending)
        self.read_clock(state)
        made = jax.device_get(self.pending[: self.steps - first])
        self.pending.clear()
        rows = [_row(step, figures) for step, figures in enumerate(made, start=first)]
        finite = [math.isfinite(row["loss"]) and math.isfinite(row["gradient_norm"]) for row in rows]
        if not all(finite):  # what follows is of no use, and how much of it there is depends on the look
            rows = rows[: finite.index(False) + 1]
        self.write(rows)
        self.note("updates", taken)
        if not all(finite):
            raise self.diverged(rows[-1], state)
        self.report({name: rows[-1][name] for name in ("loss", "gradient_norm")})
        self.since = time.perf_counter()

    def write(self, rows: list[dict[str, Any]]) -> None:
        metrics.append(self.metrics, rows)
        if self.progress is not None:
            self.unreported += rows

    def diverged(self, row: Mapping[str, Any], state: TrainState) -> Diverged:
        self.steps = row["step"] + 1
        if self.marks:
            self.spent = round(row["fraction"] * self.marks[-1])
        self.report({name: row[name] for name in ("loss", "gradient_norm")})
        message = (
            f"at step {row['step']} the loss is {row['loss']} and the gradient norm {row['gradient_norm']}; "
            f"{checkpoint.newest(self.checkpoints)}"
        )
        return Diverged(message, row["step"], self.result(state))

    def read_clock(self, state: TrainState) -> None:
        """Learn how many of the updates dispatched were made, and set the next mark."""
        if state.clock is None:
            return
        self.steps, self.spent = int(state.step), as_nanoseconds(state.clock.spent)
        ahead = [mark for mark in self.marks if mark > self.spent]
        if ahead:
            self.mark = jax.device_put(as_moment(ahead[0]))
            # At the mean price of a step so far, and in integers: where all have one price it is exact.
            steps, spent = (self.steps, self.spent) if self.steps else (1, self.step_price)
            self.horizon = self.steps + -((self.spent - ahead[0]) * steps // spent)

    def evaluate(self, state: TrainState) -> None:
        assert self.task.evaluate is not None
        with self.off_the_clock("evaluate"):
            figures = self.task.evaluate(state.params)
            try:
                figures = {name: float(value) for name, value in figures.items()}
            except (AttributeError, TypeError, ValueError):
                raise ValueError(f"evaluate must return numbers by name, got {figures}") from None
            fraction = {} if self.fraction is None else {"fraction": self.fraction}
            self.write([{"steps": self.steps, **fraction, "evaluation": figures}])
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
        self.since += taken
        self.note(event, taken)

    def note(self, event: str, seconds: float, **more: float) -> None:
        row = {"steps": self.steps, "event": event, "seconds": seconds}
        metrics.append(self.timings, [row | more])

    def report(self, figures: Mapping[str, float]) -> None:
        if self.progress is not None:
            rows, self.unreported = self.unreported, []
            total, seconds = self.settings.steps, self.seconds
            self.progress(Progress(self.steps, total, seconds, figures, self.fraction, rows))

    def result(self, state: TrainState) -> Result:
        compilations = (row for row in metrics.read_metrics(self.timings) if row["event"] == "compile")
        return Result(
            params=state.params,
            history=metrics.read_metrics(self.metrics),
            steps=self.steps,
            seconds=self.seconds,
            compile_seconds=self.compile_seconds,
            reference_seconds=self.spent / 1e9 if self.marks else None,
            # Noted down, because a finished run that is read back compiles nothing.
            temporary_bytes=next((row.get("temporary_bytes") for row in compilations), None),
        )


def _row(step: int, figures: Figures) -> dict[str, Any]:
    fixed = {"loss": figures.loss, "gradient_norm": figures.gradient_norm, "fraction": figures.fraction}
    row = {"step": step} | {name: float(x) for name, x in fixed.items() if x is not None}
    return row | {name: _number(x) for name, x in figures.readings.items() if name not in row}


def _number(x: jax.typing.ArrayLike) -> Any:
    """A Python number, or a list of them."""
    x = np.asarray(x)
    return (x if np.issubdtype(x.dtype, np.integer) else x.astype(float)).tolist()
