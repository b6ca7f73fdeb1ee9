"""The one training loop: steps are dispatched ahead of the device, and looked at now and then.

A run ends after a number of updates, or when its budget of reference time is spent, on any machine
after the same update. The clock is on the device, and the host reads it when it looks. It reckons
then how many updates there are until the next mark, which is a fraction of the budget to evaluate
at or to grow at, or its end, and looks again there; a step that it dispatches beyond the mark does nothing.
A step is dispatched with the next batch, whatever it makes of it; only where examples are selected, so that
some batches yield no update, does the host wait and see.
"""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import jax

from optimiz.training import divergence, preemption
from optimiz.training.account import Account
from optimiz.training.conditions import conditions, refuse_other_numerics, refuse_other_step, warn_of_others
from optimiz.training.distributed import processes, replicas
from optimiz.training.result import Diverged, Progress, Result
from optimiz.training.run_plan import RunPlan
from optimiz.training.stopwatch import Stopwatch
from optimiz.training.storage import checkpoint
from optimiz.training.storage.run_directory import CHECKPOINTS, STEPS, RunError, write_settings
from optimiz.training.task import batch_shapes, beside
from optimiz.training.train_state import TrainState

_log = logging.getLogger(__name__)


class Loop:
    """A run under way.

    Args:
        plan: what it is made of.
        path: its directory, claimed.
        described: what decides its trajectory.
        request: to leave.
        progress: called at every look.
    """

    def __init__(
        self,
        plan: RunPlan,
        path: Path,
        described: Mapping[str, Any],
        request: preemption.Request,
        progress: Callable[[Progress], object] | None,
    ):
        self._plan, self._task, self._settings = plan, plan.task, plan.settings
        self._path, self._checkpoints, self._described = path, path / CHECKPOINTS, described
        self._request = request
        self._account = Account(path, plan.settings, plan.methods.growth, progress)
        self._marks = self._account.marks
        selection = plan.methods.selection
        self._waits = selection is not None and selection.waits
        self._stage = 0  # growths made
        mesh = None if plan.layout is None else plan.layout.mesh.shape
        self._conditions = conditions(mesh)
        self._digests: dict[str, str] = {}  # of the steps traced, by stage
        self._comparable = False  # with those of the checkpoint that the run goes on from
        self._more: str | None = None  # steps than the checkpoint was told to make
        self._step: jax.stages.Compiled | None = None  # None until that of the present stage is compiled

    def train(self) -> Result:
        """Go on from the newest checkpoint, or begin, and go through to the end."""
        account = self._account
        self._plan.check()
        state = self._restored()
        if state is not None and account.finished:
            _log.warning("%s is finished: all %d steps are done", self._path, account.steps)
            self._refuse_unsound(state)
            return self._result(state)

        checkpoint.probe(self._checkpoints)
        batch = self._task.batches(account.drawn)
        shapes = batch_shapes(batch, f"batches({account.drawn})")
        self._compile(self._plan.like(self._stage), self._plan.place(batch))
        processes.from_first(lambda: write_settings(self._path, self._described))  # there may be more steps
        if state is None:
            state = self._plan.first()
        account.read_clock(state)
        account.stopwatch.start()
        while not account.finished:
            batch = self._task.batches(account.drawn)
            found = batch_shapes(batch, f"batches({account.drawn})")
            if found != shapes:
                raise ValueError(f"batches({account.drawn}) has {found}, the batches before had {shapes}")
            if self._step is None:
                with account.stopwatch.paused():
                    self._compile(state, self._plan.place(batch))
                    account.read_clock(state)
            assert self._step is not None
            # Nothing waits here: the next batch is made while the device works on this one.
            until = self._plan.everywhere(self._marks.until)
            state, figures = self._step(state, self._plan.place(batch), *until)
            if self._in_lockstep:
                jax.block_until_ready(figures)
            account.drawn += 1
            if self._made(state):
                account.dispatched(figures)
                state = self._after_update(state)
            elif self._marks.reached(state.clock) or self._asked_to_leave:
                state = self._look_round(state, due=lambda every: account.finished)
        return self._result(state)

    def _restored(self) -> TrainState | None:
        plan = self._plan

        def like(record: Mapping[str, Any]) -> TrainState:
            refuse_other_numerics(str(self._path), record.get("conditions", {}), self._conditions)
            growth, stage = plan.methods.growth, record.get("stage", 0)
            if stage > (0 if growth is None else len(growth.at)):
                raise RunError(
                    f"{self._path} has a checkpoint of {stage} growths, more than the run is to make"
                )
            return plan.like(stage)

        longer = plan.methods.growth is None
        saved = checkpoint.restore(self._checkpoints, like, self._described, longer)
        processes.from_first(lambda: self._account.journal.cut(saved.record if saved else None))
        if saved is None:
            return None
        self._stage = saved.record.get("stage", 0)
        self._digests = dict(saved.record.get("traced", {}))
        if saved.settings != self._described:
            was = saved.settings["settings"]["steps"]
            self._more = f"{STEPS} was {was}, is {self._settings.steps}"
        self._account.go_on_from(saved.state, saved.record, self._waits)
        _log.info("%s goes on after %d steps", self._path, self._account.steps)
        if not self._account.finished and processes.is_first():
            was = saved.record.get("conditions", {})
            self._comparable = warn_of_others(str(self._path), was, self._conditions)
        return saved.state

    def _compile(self, state: TrainState, batch: Mapping[str, jax.Array]) -> None:
        account, stopwatch = self._account, Stopwatch()
        stopwatch.start()
        self._step, digest, end = self._plan.compile(self._stage, state, batch)
        saved = self._digests.get(str(self._stage)) if self._comparable else None
        processes.from_first(lambda: refuse_other_step(str(self._path), saved, digest, self._more))
        self._digests[str(self._stage)] = digest
        steps = self._settings.steps
        if end is not None and steps is not None and end < steps:
            message = (
                f"{self._path}: a schedule is bound to {end} steps and 0 from then on, of {steps} in settings"
            )
            if self._more is not None:
                raise RunError(f"{message}: bind it to as many, or choose another directory")
            _log.warning(message)
        taken = stopwatch.lap()
        account.compile_seconds += taken
        memory = self._step.memory_analysis()
        planned = {}
        if memory is not None:
            planned["temporary_bytes"] = memory.temp_size_in_bytes
            planned["argument_bytes"] = memory.argument_size_in_bytes
        account.note("compile", taken, **planned)
        least = self._plan.least_price(state, batch)
        if least is not None:
            self._marks.price(least, account.steps)

    @property
    def _in_lockstep(self) -> bool:
        # Steps that are dispatched ahead block one another where processes have several CPU devices each.
        return jax.process_count() > 1 and jax.local_device_count() > 1 and jax.default_backend() == "cpu"

    @property
    def _asked_to_leave(self) -> bool:
        # Several processes hear of it at different steps, and look at the same ones: they agree when they look.
        return jax.process_count() == 1 and self._request.received is not None

    def _made(self, state: TrainState) -> bool:
        """Whether that was an update, and not a look at candidates, for which alone the host waits."""
        return not self._waits or int(state.step) > self._account.steps

    def _due(self, every: int) -> bool:
        return self._account.finished or (every > 0 and self._account.steps % every == 0)

    def _after_update(self, state: TrainState) -> TrainState:
        settings, evaluates = self._settings, self._task.evaluate is not None
        # The first look comes at once, so that a loss that is wrong from the start says so.
        if not (
            self._account.steps in (1, self._marks.horizon)
            or (self._waits and self._marks.reached(state.clock))
            or self._asked_to_leave
            or self._due(settings.log_every)
            or self._due(settings.save_every)
            or self._due(settings.compare_replicas_every)
            or (evaluates and self._due(settings.evaluate_every))
        ):
            return state
        return self._look_round(state, self._due)

    def _look_round(self, state: TrainState, due: Callable[[int], bool]) -> TrainState:
        """Look, and do what is due."""
        settings, spent, account = self._settings, self._marks.spent, self._account
        end = account.look(state)
        if self._request.was_stopped:
            self._request.was_stopped = False
            _log.warning(
                "%s was stopped and goes on: seconds of updates, if any, include that time", self._path
            )
        if end is not None:
            message = f"{divergence.ended(end)}; {checkpoint.newest(self._checkpoints)}"
            raise Diverged(message, end["step"], self._result(state))
        is_best = False
        if self._task.evaluate is not None and (self._marks.crossed(spent) or due(settings.evaluate_every)):
            is_best = self._evaluate(state)
        while self._stage < self._marks.stage(account.steps) and not account.finished:
            state = self._grown(state)
        leave = processes.any_process(self._request.received is not None)
        saves = leave or is_best or due(settings.save_every)
        if self._plan.layout is not None and (saves or due(settings.compare_replicas_every)):
            replicas.refuse_differing(state.params, account.steps)
        if saves:
            self._save(state)
        if leave:
            _log.warning("asked to leave: %s is saved after %d steps", self._path, account.steps)
            raise preemption.Preempted
        return state

    def _refuse_unsound(self, state: TrainState) -> None:
        """End the run where its last update has left something that is not finite.

        Raises:
            Diverged: it has.
        """
        spoilt = divergence.not_finite(state.params, state.opt_state, state.model_state)
        if processes.any_process(spoilt is not None):
            self._end_diverged(state, f"{spoilt or 'an array on another process'} is not finite")

    def _end_diverged(self, state: TrainState, why: str) -> NoReturn:
        steps, kept = self._account.steps, checkpoint.newest(self._checkpoints)
        raise Diverged(f"after {steps} updates {why}; {kept}", steps - 1, self._result(state))

    def _evaluate(self, state: TrainState) -> bool:
        """Evaluate; whether it is the best so far, and to be kept."""
        assert self._task.evaluate is not None
        self._refuse_unsound(state)
        with self._account.beside("evaluate"):
            own = self._plan.own
            figures = self._task.evaluate(own(state.params), **beside(own(state.model_state)))
            try:
                figures = {name: float(value) for name, value in figures.items()}
            except (AttributeError, TypeError, ValueError):
                raise ValueError(f"evaluate must return numbers by name, got {figures}") from None
            figures, spoilt = divergence.judged(figures)
            self._account.evaluated(figures)
        # Of several processes each evaluates on its own.
        if processes.any_process(spoilt is not None):
            self._end_diverged(state, f"the evaluation gives {spoilt or 'on another process no finite loss'}")
        return self._account.is_best(figures)

    def _grown(self, state: TrainState) -> TrainState:
        with self._account.beside("growth"):
            self._stage += 1
            self._step = None
            return self._plan.grown(state, self._stage)

    def _save(self, state: TrainState) -> None:
        account = self._account
        self._refuse_unsound(state)
        with account.beside("save"):
            record = processes.from_first(
                lambda: account.journal.sync() | {"seconds": account.stopwatch.seconds}
            )
            if self._plan.methods.growth is not None:
                record["stage"] = self._stage
            best = None if account.best is None else account.best["checkpoint"]
            if account.best is not None:
                record["best"] = account.best
            record |= {"traced": self._digests, "conditions": self._conditions}
            checkpoint.save(
                self._checkpoints,
                account.drawn,
                state,
                settings=self._described,
                record=record,
                keep=self._settings.keep,
                best=best,
            )

    def _result(self, state: TrainState) -> Result:
        own = self._plan.own
        return self._account.result(own(state.params), own(state.model_state))
