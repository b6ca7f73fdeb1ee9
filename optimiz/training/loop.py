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
at or to grow at, or its end, and looks again there; a step that it dispatches beyond the mark does nothing.
A step is dispatched with the next batch, whatever it makes of it; only where examples are selected, so that
some batches yield no update, does the host wait and see.
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

from optimiz.training import checkpoint, hosts, preemption, replicas
from optimiz.training.charging import least_price
from optimiz.training.clock import as_nanoseconds
from optimiz.training.journal import Journal, row_of
from optimiz.training.marks import Marks
from optimiz.training.methods import PLAIN, Methods
from optimiz.training.reference import Reference
from optimiz.training.result import Diverged, Progress, Result
from optimiz.training.settings import Settings, description
from optimiz.training.sharding import Layout, warn_of_whole
from optimiz.training.step import Figures, compile_step
from optimiz.training.task import Batch, Task, batch_shapes, batch_size
from optimiz.training.train_state import (
    TrainState,
    check_state,
    grown_state,
    initial_state,
    laid_out,
    state_shardings,
)

_log = logging.getLogger(__name__)


def fit(
    task: Task,
    tx: optax.GradientTransformation,
    settings: Settings,
    directory: str | os.PathLike[str],
    *,
    identity: Mapping[str, Any],
    reference: Reference | None = None,
    methods: Methods = PLAIN,
    layout: Layout | None = None,
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
        methods: which layers and which examples are trained on.
        layout: how the run lies on a mesh of devices; None for one device. It is no part of what decides the
            trajectory: a run may be resumed on another mesh, whose sums differ in their rounding.
        resume: go on with the run in ``directory``; one that never began begins, one that is
            finished is read back.
        progress: called at every look, with ``Progress``, at a divergence too; ``print`` will do.

    Returns:
        The trained parameters and the run's history, the same to the bit whether it was resumed or
        not.

    Raises:
        TypeError: ``identity`` holds what is not plain JSON.
        ValueError: the task or the optimizer cannot be trained, with the reason, or not by these methods; there
            is a budget and no reference, or the reverse; the reference lacks work that is to be charged; the
            layout does not fit the parameters or the batch, or there are several processes and none, or
            examples to select.
        RunError: the directory or a checkpoint does not let the run go on; or ``Diverged``, where it is
            the loss.
        Preempted: SIGTERM or SIGINT came in, and the run is saved.
    """
    if (settings.budget is None) != (reference is None):
        raise ValueError(
            f"a budget needs a reference and a reference a budget, got budget={settings.budget} and "
            f"{'no' if reference is None else 'a'} reference"
        )
    if reference is not None and methods.growth is not None and task.depth is None:
        raise ValueError("a model that grows is charged by its depth: the task must say it, got depth=None")
    if layout is None and jax.process_count() > 1:
        raise ValueError(f"a run of {jax.process_count()} processes needs a layout")
    if methods.selection is not None and jax.process_count() > 1:
        raise ValueError(f"examples are selected by one process, there are {jax.process_count()}")
    prices = None if reference is None else reference.prices()
    described = description(settings, identity, prices, methods)
    mesh = None if layout is None else dict(layout.mesh.shape)
    # What decides when the processes meet must be the same too.
    hosts.refuse_differing(described | {"when": dataclasses.asdict(settings), "mesh": mesh})
    told = progress if hosts.is_first() else None
    with (
        hosts.claimed(directory, described, resume) as path,
        preemption.deferred() as request,
    ):
        return _Run(task, tx, settings, path, described, reference, methods, layout, request, told).train()


@dataclasses.dataclass
class _Run:
    """A run under way.

    Args:
        step: the compiled step; None where there is none for the present depth.
        steps: updates dispatched; at a look, updates made.
        drawn: batches dispatched: more than updates, where examples are selected and too few are kept.
        stage: growths made.
        seconds: spent on updates up to the last look.
        since: when the updates since then began.
        pending: the figures of those updates.
        compile_seconds: spent compiling.
    """

    task: Task
    tx: optax.GradientTransformation
    settings: Settings
    path: Path
    described: Mapping[str, Any]
    reference: Reference | None
    methods: Methods
    layout: Layout | None
    request: preemption.Request
    progress: Callable[[Progress], object] | None
    step: jax.stages.Compiled | None = None
    steps: int = 0
    drawn: int = 0
    stage: int = 0
    seconds: float = 0.0
    since: float = 0.0
    pending: list[Figures] = dataclasses.field(default_factory=list)
    compile_seconds: float = 0.0

    def __post_init__(self) -> None:
        self.journal = Journal(self.path, watched=self.progress is not None)
        self.checkpoints = self.path / "checkpoints"
        self.marks = Marks(self.settings, self.methods.growth)
        selection = self.methods.selection
        self.waits = selection is not None and selection.waits

    def train(self) -> Result:
        like = self.like(stage=0)
        check_state(like)
        if self.methods.growth is not None:
            self.methods.growth.check(like.params)
        if self.layout is not None and self.layout.shard_state:
            warn_of_whole(like.opt_state, state_shardings(like, self.layout).opt_state)
        state = self.restored()
        if state is not None and self.finished:
            _log.warning("%s is finished: all %d steps are done", self.path, self.steps)
            return self.result(state)

        batch = self.task.batches(self.drawn)
        shapes = batch_shapes(batch, f"batches({self.drawn})")
        self.compile(self.like(self.stage), self.place(batch))
        if state is None:
            state = laid_out(self.layout, self.initial_state)
        self.read_clock(state)
        self.since = time.perf_counter()
        while not self.finished:
            batch = self.task.batches(self.drawn)
            found = batch_shapes(batch, f"batches({self.drawn})")
            if found != shapes:
                raise ValueError(f"batches({self.drawn}) has {found}, the batches before had {shapes}")
            if self.step is None:
                with self.off_the_clock():
                    self.compile(state, self.place(batch))
                    self.read_clock(state)
            assert self.step is not None
            # Nothing waits here: the next batch is made while the device works on this one.
            state, figures = self.step(state, self.place(batch), *self.until)
            if self.in_lockstep:
                jax.block_until_ready(figures)
            self.drawn += 1
            if self.made(state):
                self.pending.append(figures)
                self.steps += 1
                state = self.after_update(state)
            elif self.marks.reached(state.clock) or self.asked_to_leave:
                state = self.look_round(state, due=lambda every: self.finished)
        return self.result(state)

    def made(self, state: TrainState) -> bool:
        """Whether that was an update, and not a look at candidates, for which alone the host waits."""
        return not self.waits or int(state.step) > self.steps

    def place(self, batch: Batch) -> Mapping[str, jax.Array]:
        return jax.device_put(batch) if self.layout is None else self.layout.place(batch)

    def own(self, params: Any) -> Any:
        return params if self.layout is None else self.layout.own(params)

    @property
    def until(self) -> tuple[jax.Array, ...]:
        if self.layout is None:
            return self.marks.until
        return tuple(jax.device_put(jax.device_get(moment), self.layout.whole) for moment in self.marks.until)

    @property
    def in_lockstep(self) -> bool:
        # Steps that are dispatched ahead block one another where processes have several CPU devices each.
        return jax.process_count() > 1 and jax.local_device_count() > 1 and jax.default_backend() == "cpu"

    def compile(self, state: TrainState, batch: Mapping[str, jax.Array]) -> None:
        started = time.perf_counter()
        price = None if self.reference is None else self.reference.seconds
        tx = self.optimizer(self.stage)
        self.step = compile_step(
            self.task, tx, state, batch, price, self.methods, self.settings.steps, self.layout
        )
        taken = time.perf_counter() - started
        self.compile_seconds += taken
        memory = self.step.memory_analysis()
        planned = {} if memory is None else {"temporary_bytes": memory.temp_size_in_bytes}
        self.note("compile", taken, **planned)
        if price is not None:
            depth = None if self.task.depth is None else self.task.depth(state.params)
            self.marks.price(least_price(price, batch_size(batch), depth, self.methods), self.steps)

    def optimizer(self, stage: int) -> optax.GradientTransformation:
        growth = self.methods.growth
        return self.tx if growth is None else growth.optimizer(self.tx, stage)

    def initial_state(self) -> TrainState:
        seed, budget = self.settings.seed, self.settings.budget
        return initial_state(self.task, self.tx, seed, budget, self.methods.selection)

    def like(self, stage: int) -> TrainState:
        """The state after so many growths, without its values."""
        state = jax.eval_shape(self.initial_state)
        for growth in range(1, stage + 1):
            state = jax.eval_shape(self.growing(growth), state)
        if self.layout is None:
            return state
        return jax.tree.map(_placed, state, state_shardings(state, self.layout))

    def growing(self, stage: int) -> Callable[[TrainState], TrainState]:
        plan = self.methods.growth
        assert plan is not None
        return lambda state: grown_state(plan, self.tx, state, stage)

    def restored(self) -> TrainState | None:
        like = lambda record: self.like(record.get("stage", 0))  # noqa: E731
        saved = checkpoint.restore(self.checkpoints, like, self.described)
        hosts.from_first(lambda: self.journal.cut(saved.record["metrics_bytes"] if saved else 0))
        if saved is None:
            return None
        state = saved.state
        self.stage, self.seconds = saved.record.get("stage", 0), saved.record["seconds"]
        self.steps = self.drawn = int(state.step)
        if self.waits:
            self.drawn = int(state.selection.drawn)
        if state.clock is not None:
            self.marks.spent = as_nanoseconds(state.clock.spent)
        _log.info("%s goes on after %d steps", self.path, self.steps)
        return state

    @property
    def finished(self) -> bool:
        return self.steps == self.settings.steps or self.marks.all_spent

    def after_update(self, state: TrainState) -> TrainState:
        settings, evaluates = self.settings, self.task.evaluate is not None
        # The first look comes at once, so that a loss that is wrong from the start says so.
        if not (
            self.steps in (1, self.marks.horizon)
            or (self.waits and self.marks.reached(state.clock))
            or self.asked_to_leave
            or self.due(settings.log_every)
            or self.due(settings.save_every)
            or self.due(settings.compare_replicas_every)
            or (evaluates and self.due(settings.evaluate_every))
        ):
            return state
        return self.look_round(state, self.due)

    def look_round(self, state: TrainState, due: Callable[[int], bool]) -> TrainState:
        """Look, and do what is due."""
        settings, spent = self.settings, self.marks.spent
        self.look(state)
        if self.task.evaluate is not None and (self.marks.crossed(spent) or due(settings.evaluate_every)):
            self.evaluate(state)
        while self.stage < self.marks.stage(self.steps) and not self.finished:
            state = self.grown(state)
        leave = hosts.any_process(self.request.received is not None)
        saves = leave or due(settings.save_every)
        if self.layout is not None and (saves or due(settings.compare_replicas_every)):
            replicas.refuse_differing(state.params, self.steps)
        if saves:
            self.save(state)
        if leave:
            _log.warning("asked to leave: %s is saved after %d steps", self.path, self.steps)
            raise preemption.Preempted
        return state

    @property
    def asked_to_leave(self) -> bool:
        # Several processes hear of it at different steps, and look at the same ones: they agree when they look.
        return jax.process_count() == 1 and self.request.received is not None

    def due(self, every: int) -> bool:
        return self.finished or (every > 0 and self.steps % every == 0)

    def grown(self, state: TrainState) -> TrainState:
        with self.off_the_clock("growth"):
            self.stage += 1
            self.step = None
            return laid_out(self.layout, jax.jit(self.growing(self.stage)), state)

    def look(self, state: TrainState) -> None:
        """Wait for the updates dispatched so far, and write down the figures of those made."""
        jax.block_until_ready(state)
        taken = time.perf_counter() - self.since
        self.seconds += taken
        first = self.steps - len(self.pending)
        self.read_clock(state)
        made = jax.device_get(self.pending[: self.steps - first])
        self.pending.clear()
        rows = [row_of(step, figures) for step, figures in enumerate(made, start=first)]
        finite = [math.isfinite(row["loss"]) and math.isfinite(row["gradient_norm"]) for row in rows]
        if not all(finite):  # what follows is of no use, and how much of it there is depends on the look
            rows = rows[: finite.index(False) + 1]
        self.journal.write(rows)
        self.note("updates", taken)
        if not all(finite):
            raise self.diverged(rows[-1], state)
        if rows:  # a look at candidates alone has none
            self.report({name: rows[-1][name] for name in ("loss", "gradient_norm")})
        self.since = time.perf_counter()

    def diverged(self, row: Mapping[str, Any], state: TrainState) -> Diverged:
        self.steps = row["step"] + 1
        if "fraction" in row:
            self.marks.spent = round(row["fraction"] * self.marks.end)
        self.report({name: row[name] for name in ("loss", "gradient_norm")})
        message = (
            f"at step {row['step']} the loss is {row['loss']} and the gradient norm {row['gradient_norm']}; "
            f"{checkpoint.newest(self.checkpoints)}"
        )
        return Diverged(message, row["step"], self.result(state))

    def read_clock(self, state: TrainState) -> None:
        """Learn how many of the updates dispatched were made, and set the next mark."""
        if state.clock is not None:
            made = int(state.step)
            self.drawn -= self.steps - made  # beyond a mark nothing is done
            self.steps, self.marks.spent = made, as_nanoseconds(state.clock.spent)
        self.marks.look_ahead(self.steps)

    def evaluate(self, state: TrainState) -> None:
        assert self.task.evaluate is not None
        with self.off_the_clock("evaluate"):
            figures = self.task.evaluate(self.own(state.params))
            try:
                figures = {name: float(value) for name, value in figures.items()}
            except (AttributeError, TypeError, ValueError):
                raise ValueError(f"evaluate must return numbers by name, got {figures}") from None
            spent = self.marks.fraction
            fraction = {} if spent is None else {"fraction": spent}
            self.journal.write([{"steps": self.steps, **fraction, "evaluation": figures}])
            self.report(figures)

    def save(self, state: TrainState) -> None:
        with self.off_the_clock("save"):
            record = hosts.from_first(lambda: {"metrics_bytes": self.journal.sync(), "seconds": self.seconds})
            if self.methods.growth is not None:
                record["stage"] = self.stage
            checkpoint.save(
                self.checkpoints,
                self.drawn,
                state,
                settings=self.described,
                record=record,
                keep=self.settings.keep,
            )

    @contextlib.contextmanager
    def off_the_clock(self, event: str | None = None) -> Iterator[None]:
        started = time.perf_counter()
        yield
        taken = time.perf_counter() - started
        self.since += taken
        if event is not None:
            self.note(event, taken)

    def note(self, event: str, seconds: float, **more: float) -> None:
        self.journal.note(self.steps, event, seconds, **more)

    def report(self, figures: Mapping[str, float]) -> None:
        if self.progress is not None:
            total, rows = self.settings.steps, self.journal.take()
            self.progress(Progress(self.steps, total, self.seconds, figures, self.marks.fraction, rows))

    def result(self, state: TrainState) -> Result:
        hosts.any_process(True)  # wait until the first process has written what all now read
        return Result(
            params=self.own(state.params),
            history=self.journal.history(),
            steps=self.steps,
            seconds=self.seconds,
            compile_seconds=self.compile_seconds,
            reference_seconds=None if self.marks.fraction is None else self.marks.spent / 1e9,
            # Noted down, because a finished run that is read back compiles nothing.
            temporary_bytes=self.journal.temporary_bytes(),
        )


def _placed(leaf: jax.ShapeDtypeStruct, sharding: jax.sharding.Sharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
