"""The training loop: steps are dispatched ahead of the device, and the host looks at results now and then.

A run ends after a number of updates, or when its budget of reference time is spent, after the same update on
any machine. The clock is on the device, and the host reads it when it looks. It then estimates how many updates
remain until the next milestone of the budget, where the run evaluates, grows or ends, and looks again there; a
step that was dispatched beyond the milestone does nothing. The next batch is prepared while the device works on
the current one. The host waits for every step only if examples are selected, as some batches then yield no
update.
"""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import jax

from optimiz.training import device_memory, divergence, preemption
from optimiz.training.compiled_step import compile_noise
from optimiz.training.data.bucketed import Bucketed
from optimiz.training.data.streamed import Streamed
from optimiz.training.distributed import processes, replicas
from optimiz.training.errors import RunError
from optimiz.training.micro_batches import Noise
from optimiz.training.result import Diverged, Progress, Result
from optimiz.training.run_log import RunLog
from optimiz.training.run_plan import RunPlan
from optimiz.training.storage import checkpoint
from optimiz.training.storage.conditions import (
    conditions,
    refuse_other_numerics,
    refuse_other_step,
    warn_of_others,
)
from optimiz.training.storage.profile import PROFILE, profiled
from optimiz.training.storage.run_directory import CHECKPOINTS, write_settings
from optimiz.training.storage.same_settings import STEPS
from optimiz.training.task import batch_shapes, untrained_arguments
from optimiz.training.train_state import TrainState, as_saved, evaluated_params

_log = logging.getLogger(__name__)


class Loop:
    """A run in progress.

    Args:
        plan: the parts of the run.
        path: the run's directory, which has been claimed.
        described: what decides the run's trajectory, as plain JSON.
        request: the signals received, which may preempt the run.
        progress: function to call at every look; None for no reports.
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
        self._run_log = RunLog(path, plan.settings, plan.methods, progress)
        self._stage = 0  # growths made
        self._rate = plan.rate()
        layout = plan.layout
        self._conditions = conditions(layout and layout.mesh.shape, bool(layout and layout.offload_state))
        self._digests: dict[str, str] = {}  # of the steps traced, by stage, and by shape if there are several
        self._comparable = False  # whether they can be compared with those of the checkpoint
        self._more: str | None = None  # how the number of steps has grown since the checkpoint
        self._shapes: list[Any] = []  # that a batch may have
        self._steps: dict[int, jax.stages.Compiled] = {}  # of the current stage, by the shape of the batch

    def train(self) -> Result:
        """Continue from the newest checkpoint, or start a new run, and train to the end."""
        run_log = self._run_log
        self._plan.check()
        state = self._restored()
        if state is not None and run_log.finished:
            _log.warning("%s is finished after %d steps", self._path, run_log.steps)
            self._refuse_not_finite(state)
            return self._result(state)

        checkpoint.probe(self._checkpoints)
        batches = self._task.batches
        kinds = batches.one_of_each() if isinstance(batches, Bucketed) else [batches(run_log.drawn)]
        self._shapes = [batch_shapes(batch, f"batches({run_log.drawn})") for batch in kinds]
        for kind, batch in enumerate(kinds):
            self._compile(self._plan.like(self._stage), self._plan.place(batch), kind)
        processes.from_first(lambda: write_settings(self._path, self._described))  # there may be more steps
        if state is None:
            state = self._plan.first()
        run_log.start()
        with profiled(self._path / PROFILE, self._settings.profile) as about_to_update:
            return self._train(state, about_to_update)

    def _train(self, state: TrainState, about_to_update: Callable[[int, Any], None]) -> Result:
        """Train to the end, from a state whose step is compiled."""
        run_log = self._run_log
        while not run_log.finished:
            about_to_update(run_log.steps, state)
            with run_log.drawing():
                batch = self._task.batches(run_log.drawn)
            found = batch_shapes(batch, f"batches({run_log.drawn})")
            if found not in self._shapes:
                known = " or ".join(map(str, self._shapes))
                raise ValueError(f"batches({run_log.drawn}) has {found}, earlier batches had {known}")
            kind = self._shapes.index(found)
            if kind not in self._steps:
                self._compile(state, self._plan.place(batch), kind)
            # Nothing waits here: the next batch is made while the device works on this one.
            moment, placed = self._plan.everywhere(run_log.moment), self._plan.place(batch)
            noise = self._noise(state, placed)
            state, metrics = self._steps[kind](state, placed, *moment, *self._rate)
            metrics = metrics if noise is None else metrics._replace(noise=noise)
            if self._in_lockstep:
                jax.block_until_ready(metrics)
            if run_log.dispatched(state, metrics):
                state = self._after_update(state)
            elif run_log.at_milestone(state) or self._preempted:
                state = self._look(state, due=lambda every: run_log.finished)
        return self._result(state)

    def _restored(self) -> TrainState | None:
        plan = self._plan

        def like(record: Mapping[str, Any]) -> TrainState:
            refuse_other_numerics(str(self._path), record.get("conditions", {}), self._conditions)
            growth, stage = plan.methods.growth, record.get("stage", 0)
            if stage > (0 if growth is None else len(growth.at)):
                raise RunError(f"{self._path} has a checkpoint after {stage} growths, more than the run makes")
            return plan.like(stage, as_saved)

        longer = plan.methods.growth is None
        saved = checkpoint.restore(self._checkpoints, like, self._described, longer)
        if saved is None:
            self._run_log.resume(None, None)
            return None
        self._run_log.resume(saved.state, saved.record)
        self._stage = saved.record.get("stage", 0)
        self._resume_data(saved.record.get("data"))
        self._digests = dict(saved.record.get("traced", {}))
        if saved.settings != self._described:
            was = saved.settings["settings"]["steps"]
            self._more = f"{STEPS} was {was}, is {self._settings.steps}"
        _log.info("%s continues after %d steps", self._path, self._run_log.steps)
        if not self._run_log.finished and processes.is_first():
            was = saved.record.get("conditions", {})
            self._comparable = warn_of_others(str(self._path), was, self._conditions)
        return saved.state._replace(averaged=None, frozen=plan.frozen())

    def _resume_data(self, positions: list[str] | None) -> None:
        """Go to the position of a stream of batches that this process has saved, if there is one.

        Raises:
            RunError: the stream refuses the position.
        """
        batches = self._task.batches
        if not isinstance(batches, Streamed) or self._run_log.finished:
            return
        saved, needed = len(positions or ()), jax.process_count()
        if positions is None or saved != needed:
            message = (
                "%s reads its data from the start: its checkpoint has the positions of %d processes, not of %d"
            )
            _log.warning(message, self._path, saved, needed)
            return
        try:
            batches.resume(self._run_log.drawn, positions[jax.process_index()])
        except ValueError as error:
            raise RunError(f"{self._path} cannot be resumed: {error}") from error

    def _compile(self, state: TrainState, batch: Mapping[str, jax.Array], kind: int) -> None:
        name = str(self._stage) if len(self._shapes) == 1 else f"{self._stage}/{kind}"
        with self._run_log.timed("compile") as timing:
            with device_memory.compiling():
                compiled = self._plan.compile(self._stage, state, batch)
            step, digest = compiled.executable, compiled.digest
            saved = self._digests.get(name) if self._comparable else None
            processes.from_first(lambda: refuse_other_step(str(self._path), saved, digest, self._more))
            self._digests[name], self._steps[kind] = digest, step
            self._refuse_early_end(self._plan.schedules_end(compiled))
            memory = step.memory_analysis()
            if memory is not None:
                timing["temporary_bytes"] = memory.temp_size_in_bytes
                timing["argument_bytes"] = memory.argument_size_in_bytes
            self._run_log.memory = device_memory.check(step)
            timing |= self._run_log.memory
        self._run_log.plan_ahead(self._plan.least_price(state, batch))

    def _noise(self, state: TrainState, batch: Mapping[str, jax.Array]) -> Noise | None:
        """The noise of the gradient of the next update, if it is to be measured."""
        every = self._settings.noise_every
        if not every or self._run_log.steps % every:
            return None
        jax.block_until_ready(state)
        with self._run_log.timed("noise"):
            return jax.block_until_ready(compile_noise(self._task.loss)(state, batch))

    def _refuse_early_end(self, end: int | None) -> None:
        """Refuse to extend a run beyond the end of a schedule, and warn if a new run goes beyond it."""
        steps = self._settings.steps
        if end is None or steps is None or end >= steps:
            return
        message = f"{self._path}: a schedule is bound to {end} steps and 0 from then on, but steps is {steps}"
        if self._more is not None:
            raise RunError(f"{message}: bind it to {steps} steps, or choose another directory")
        _log.warning(message)

    @property
    def _in_lockstep(self) -> bool:
        # Steps that are dispatched ahead block one another where processes have several CPU devices each.
        return jax.process_count() > 1 and jax.local_device_count() > 1 and jax.default_backend() == "cpu"

    @property
    def _preempted(self) -> bool:
        # Several processes receive the signal at different steps: they agree on it at the next look.
        return jax.process_count() == 1 and self._request.received is not None

    def _after_update(self, state: TrainState) -> TrainState:
        settings, due = self._settings, self._run_log.due
        evaluates = self._task.evaluate is not None
        looks = (
            self._run_log.must_look(state)
            or self._preempted
            or due(settings.log_every)
            or due(settings.save_every)
            or due(settings.compare_replicas_every)
            or (evaluates and due(settings.evaluate_every))
        )
        return self._look(state, due) if looks else state

    def _look(self, state: TrainState, due: Callable[[int], bool]) -> TrainState:
        """Wait for the steps dispatched so far, and do what is due."""
        settings, run_log = self._settings, self._run_log
        end, at_milestone = run_log.look(state)
        if self._request.was_stopped:
            self._request.was_stopped = False
            _log.warning(
                "%s was stopped and continues: the seconds of updates may include that time", self._path
            )
        if end is not None:
            message = f"{divergence.end_message(end)}; {checkpoint.newest(self._checkpoints)}"
            raise Diverged(message, end["step"], self._result(state))
        is_best = False
        if self._task.evaluate is not None and (at_milestone or due(settings.evaluate_every)):
            is_best = self._evaluate(state)
        while self._stage < run_log.stage and not run_log.finished:
            state = self._grown(state)
        preempted = processes.any_process(self._request.received is not None)
        saves = preempted or is_best or due(settings.save_every)
        if self._plan.layout is not None and (saves or due(settings.compare_replicas_every)):
            replicas.refuse_differing(state.params, run_log.steps)
        if saves:
            self._save(state)
        if preempted:
            _log.warning("preempted: %s is saved after %d steps", self._path, run_log.steps)
            raise preemption.Preempted
        return state

    def _refuse_not_finite(self, state: TrainState) -> None:
        """End the run if its last update has left an array that is not finite.

        Raises:
            Diverged: there is such an array.
        """
        name = divergence.not_finite(state.params, state.opt_state, state.model_state)
        if processes.any_process(name is not None):
            self._end_diverged(state, f"{name or 'an array on another process'} is not finite")

    def _end_diverged(self, state: TrainState, why: str) -> NoReturn:
        steps, kept = self._run_log.steps, checkpoint.newest(self._checkpoints)
        raise Diverged(f"after {steps} updates {why}; {kept}", steps - 1, self._result(state))

    def _evaluate(self, state: TrainState) -> bool:
        """Evaluate, and return whether the result is the best so far, so that its checkpoint is kept."""
        assert self._task.evaluate is not None
        self._refuse_not_finite(state)
        with self._run_log.timed("evaluate"):
            own = self._plan.own
            others = untrained_arguments(own(state.model_state), own(state.frozen))
            metrics = self._task.evaluate(own(evaluated_params(state)), **others)
            try:
                metrics = {name: float(value) for name, value in metrics.items()}
            except (AttributeError, TypeError, ValueError):
                raise ValueError(f"evaluate must return numbers by name, got {metrics}") from None
            metrics, not_finite = divergence.judged(metrics)
            self._run_log.evaluated(metrics)
        # Each of several processes evaluates on its own.
        if processes.any_process(not_finite is not None):
            where = not_finite or "no finite loss on another process"
            self._end_diverged(state, f"the evaluation gives {where}")
        return self._run_log.is_best(metrics)

    def _grown(self, state: TrainState) -> TrainState:
        with self._run_log.timed("growth"):
            self._stage += 1
            self._steps.clear()
            return self._plan.grown(state, self._stage)

    def _save(self, state: TrainState) -> None:
        self._refuse_not_finite(state)
        with self._run_log.timed("save"):
            more: dict[str, Any] = {} if self._plan.methods.growth is None else {"stage": self._stage}
            if isinstance(self._task.batches, Streamed):
                more["data"] = processes.from_each(self._task.batches.position(self._run_log.drawn))
            checkpoint.save(
                self._checkpoints,
                self._run_log.drawn,
                as_saved(state),
                settings=self._described,
                record=self._run_log.record()
                | more
                | {"traced": self._digests, "conditions": self._conditions},
                keep=self._settings.keep,
                best=self._run_log.best_checkpoint,
            )

    def _result(self, state: TrainState) -> Result:
        own = self._plan.own
        return self._run_log.result(own(evaluated_params(state)), own(state.model_state))
