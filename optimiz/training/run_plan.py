"""What a run is made of at each stage of its model: the optimizer, the shapes of the state, the compiled step.

A model that grows has a stage before the first growth and one after each; any other model has a single stage.
On a mesh, all arrays are laid out as the layout specifies from the start.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax

from optimiz import schedules
from optimiz.training.at_rate import AtRate
from optimiz.training.budget.price_table import Reference
from optimiz.training.budget.step_cost import least_price
from optimiz.training.compiled_step import CompiledStep, compile_step, trace_step
from optimiz.training.distributed.sharding import Layout, warn_of_whole
from optimiz.training.methods.methods import Methods
from optimiz.training.settings import Settings
from optimiz.training.step import StepSpec
from optimiz.training.task import Batch, Task, batch_size
from optimiz.training.train_state import (
    TrainState,
    check_state,
    frozen_arrays,
    grown_state,
    initial_state,
    keys,
    laid_out,
    placed,
    state_shardings,
)


@dataclasses.dataclass(frozen=True)
class RunPlan:
    """The parts of a run; the arguments are those of ``fit``.

    Args:
        task: the learning problem.
        tx: the optimizer.
        settings: how long to train, and how often to evaluate and save.
        reference: the prices of the work, under a budget.
        methods: which layers and which examples are trained.
        layout: where the run's arrays lie on a mesh of devices; None for one device.
        at_rate: the learning rate that ``tx`` was made from, if all rates share one compiled step.
    """

    task: Task
    tx: optax.GradientTransformation
    settings: Settings
    reference: Reference | None
    methods: Methods
    layout: Layout | None
    at_rate: AtRate | None = None

    def check(self) -> None:
        """Refuse a run that cannot be trained, saved or grown, and warn of state that cannot be split.

        Raises:
            ValueError: the run is refused; the message gives the reason.
        """
        like = self.like(stage=0)
        check_state(like)
        if self.methods.growth is not None:
            self.methods.growth.check(like.params)
        if self.layout is not None and self.layout.shard_state:
            warn_of_whole(like.opt_state, state_shardings(like, self.layout).opt_state)

    def first(self) -> TrainState:
        """The state before the first step."""
        # On a mesh the state is made by a program, whose constants frozen arrays must not become.
        trained = dataclasses.replace(self, task=dataclasses.replace(self.task, frozen=None))
        return laid_out(self.layout, trained._initial)._replace(frozen=self.frozen())

    def frozen(self) -> Any:
        """The task's frozen arrays, on the device or the mesh; None without any."""
        if self.task.frozen is None or self.layout is None:
            return frozen_arrays(self.task, self.settings.seed)
        arrays = self.task.frozen(keys(self.settings.seed)[0])  # from the host, no device need hold all of them
        return jax.device_put(arrays, self.layout.frozen(arrays), may_alias=False)

    def grown(self, state: TrainState, stage: int) -> TrainState:
        """The state at a stage, from the state at the stage before."""
        return laid_out(self.layout, jax.jit(self._growing(stage)), state)

    def like(self, stage: int, form: Callable[[TrainState], TrainState] = lambda state: state) -> TrainState:
        """The state at a stage, or another form of it, without its values."""
        state = self._shapes
        for growth in range(1, stage + 1):
            state = jax.eval_shape(self._growing(growth), state)
        state = jax.eval_shape(form, state)
        if self.layout is None:
            return state
        return jax.tree.map(placed, state, state_shardings(state, self.layout))

    def compile(self, stage: int, state: TrainState, batch: Mapping[str, jax.Array]) -> CompiledStep:
        """The compiled step at a stage."""
        return compile_step(self._spec(stage, state, batch), self.layout)

    def trace(self) -> None:
        """Check that the first step can be compiled, at the cost of tracing it.

        Raises:
            ValueError: as for ``trace_step``.
        """
        trace_step(self._spec(0, self.like(0), self.task.batches(0)))

    def schedules_end(self, step: CompiledStep) -> int | None:
        """The step from which on a schedule of the optimizer is 0; None if there is no such step."""
        return schedules.zero_from(step.schedules, () if self.at_rate is None else self.at_rate.schedules)

    def rate(self) -> tuple[jax.Array, ...]:
        """The learning rate as the last argument of the step, if it takes one."""
        return () if self.at_rate is None else self.everywhere((self.at_rate.argument,))

    def least_price(self, state: TrainState, batch: Mapping[str, Any]) -> float | None:
        """The least price of an update, in seconds of reference time; None without a budget."""
        if self.reference is None:
            return None
        depth = None if self.task.depth is None else self.task.depth(state.params)
        return least_price(self.reference.seconds, batch_size(batch), depth, self.methods)

    def place(self, batch: Batch) -> Mapping[str, jax.Array]:
        """The batch, on the device or the mesh."""
        return jax.device_put(batch) if self.layout is None else self.layout.place(batch)

    def everywhere(self, arrays: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        """The arrays, whole on every device of the mesh, if there is one."""
        if self.layout is None:
            return arrays
        return tuple(jax.device_put(jax.device_get(array), self.layout.whole) for array in arrays)

    def own(self, params: Any) -> Any:
        """The parameters in a form that this process can read on its own."""
        return params if self.layout is None else self.layout.own(params)

    def _spec(self, stage: int, state: TrainState, batch: Mapping[str, Any]) -> StepSpec:
        growth = self.methods.growth
        staged = lambda tx: tx if growth is None else growth.optimizer(tx, stage)  # noqa: E731
        price = None if self.reference is None else self.reference.seconds
        spec = StepSpec.of(
            self.task,
            staged(self.tx),
            state,
            batch,
            price,
            self.methods,
            self.settings.steps,
            self.settings.micro_batches,
        )
        if self.at_rate is None:
            return spec
        make = self.at_rate.make
        return spec.of_any_rate(make if growth is None or stage == 0 else lambda rate: staged(make(rate)))

    @functools.cached_property
    def _shapes(self) -> TrainState:
        """The state before the first step, without its values: tracing it takes seconds for a large model."""
        return jax.eval_shape(self._initial)

    def _initial(self) -> TrainState:
        seed, budget = self.settings.seed, self.settings.budget
        return initial_state(self.task, self.tx, seed, budget, self.methods.selection, self.at_rate)

    def _growing(self, stage: int) -> Callable[[TrainState], TrainState]:
        plan = self.methods.growth
        assert plan is not None
        return lambda state: grown_state(plan, self.tx, state, stage)
