"""The state of a run: everything that its next step depends on besides the batch."""

import contextlib
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optimiz import numerics, schedules
from optimiz.averaged_params import averaged_params, keeps_average
from optimiz.training.at_rate import AtRate, Factory, explained
from optimiz.training.budget.clock import Clock
from optimiz.training.distributed.sharding import Layout
from optimiz.training.methods.growth import Growth, grow
from optimiz.training.methods.selection import Selection
from optimiz.training.task import Task


class TrainState(NamedTuple):
    """Everything that the next step depends on besides its batch.

    Args:
        step: number of updates made, which is the index of the next batch; int32 scalar.
        params: the parameters.
        opt_state: the optimizer's state.
        key: the data of the run's random key, uint32 [2]; each step folds its index into it.
        clock: reference time spent; None without a budget.
        selection: the state of the selection of examples; None if all are trained on.
        model_state: the model's state; None if the model has parameters only.
        averaged: the parameters to evaluate; only in checkpoints, and only if they differ from the parameters.
        frozen: the task's frozen arrays, which every step returns as they are; None without any, and in
            checkpoints.
    """

    step: jax.Array
    params: Any
    opt_state: Any
    key: jax.Array
    clock: Clock | None = None
    selection: Any = None
    model_state: Any = None
    averaged: Any = None
    frozen: Any = None


def initial_state(
    task: Task,
    tx: optax.GradientTransformation,
    seed: int,
    budget: float | None = None,
    selection: Selection | None = None,
    at_rate: AtRate | None = None,
) -> TrainState:
    """Make the state before the first step; traceable.

    Args:
        task: the learning problem.
        tx: the optimizer.
        seed: seed of the run.
        budget: budget of the run, in seconds of reference time; None without one.
        selection: which examples are trained on; None for all.
        at_rate: what `tx` was made from, if runs at other rates are to share the compiled program.

    Raises:
        ValueError: the selection cannot choose from the task's batches, or its model state is None.
    """
    init_key, steps_key = keys(seed)
    clock = None if budget is None else Clock.start(budget)
    rate = () if at_rate is None else (at_rate.argument,)
    initialize = _initializer(tx if at_rate is None else at_rate.make, budget)
    params = task.init(init_key)
    with explained(*rate):
        params, opt_state = initialize(params, *rate)
    chosen = None if selection is None else selection.init(task.batches(0))
    key = jax.random.key_data(steps_key)
    model_state = None if task.model_state is None else own(task.model_state(init_key))
    if task.model_state is not None and model_state is None:
        raise ValueError("Task(model_state=) must return arrays, got None: omit it for a model without state")
    zero, frozen = jnp.zeros((), jnp.int32), frozen_arrays(task, seed)
    return TrainState(zero, params, opt_state, key, clock, chosen, model_state, frozen=frozen)


def frozen_arrays(task: Task, seed: int) -> Any:
    """The task's frozen arrays, owned by the caller; None without any.

    Raises:
        ValueError: the task has a function for them that returns None.
    """
    if task.frozen is None:
        return None
    frozen = own(task.frozen(keys(seed)[0]))
    if frozen is None:
        raise ValueError("Task(frozen=) must return arrays, got None: omit it if there are none")
    return frozen


@jax.jit
def _averaged(opt_state: Any, params: Any) -> Any:
    return averaged_params(numerics.on_device(opt_state), params)


def evaluated_params(state: TrainState) -> Any:
    """The parameters to evaluate and to return: averages, if the optimizer keeps them."""
    return _averaged(state.opt_state, state.params) if keeps_average(state.opt_state) else state.params


def as_saved(state: TrainState) -> TrainState:
    """What a checkpoint holds of a state: the parameters to evaluate too, if they are others; traceable."""
    averaged = evaluated_params(state) if keeps_average(state.opt_state) else None
    return state._replace(averaged=averaged, frozen=None)


def grown_state(plan: Growth, tx: optax.GradientTransformation, state: TrainState, stage: int) -> TrainState:
    """The state after the growth that leads to a stage; traceable.

    Raises:
        ValueError: there are no layers to double.
    """
    with on_clock(state.clock):
        params, opt_state = own(grow(plan, tx, stage, state.params, numerics.on_device(state.opt_state)))
    return state._replace(params=params, opt_state=opt_state)


def keys(seed: int) -> tuple[jax.Array, jax.Array]:
    """The random keys of a run: one for its initial parameters, one for its steps."""
    init_key, steps_key = jax.random.split(numerics.typed_key(seed))
    return init_key, steps_key


def run_key(state: TrainState) -> jax.Array:
    """The random key of a run's steps."""
    return numerics.typed_key(state.key)


def state_shardings(state: TrainState, layout: Layout) -> TrainState:
    """The sharding of each array of the state: the same tree, of ``NamedSharding``.

    Raises:
        ValueError: the layout does not fit the parameters.
    """
    shardings = jax.tree.map(lambda _: layout.whole, state)
    params, opt_state = layout.params(state.params), layout.opt_state(state.opt_state, state.params)
    averaged = None if state.averaged is None else params
    frozen = None if state.frozen is None else layout.frozen(state.frozen)
    return shardings._replace(params=params, opt_state=opt_state, averaged=averaged, frozen=frozen)


def placed(leaf: jax.ShapeDtypeStruct, sharding: jax.sharding.Sharding) -> jax.ShapeDtypeStruct:
    """The shape of an array that lies as a sharding specifies."""
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def laid_out(layout: Layout | None, make: Callable[..., TrainState], *arguments: TrainState) -> TrainState:
    """The result of a function, created in place on a mesh.

    Args:
        layout: the layout of the resulting state; None for one device.
        make: a traceable function of the arguments.
        *arguments: states on the same mesh.
    """
    if layout is None:
        return make(*arguments)
    shardings = state_shardings(jax.eval_shape(make, *arguments), layout)
    return jax.jit(make, out_shardings=shardings)(*arguments)


@functools.lru_cache(maxsize=1)  # as for the compiled step: runs that differ only in seed or rate share it
def _initializer(tx: optax.GradientTransformation | Factory, budget: float | None) -> Callable[..., Any]:
    @jax.jit
    def init(params: Any, *rate: jax.Array) -> Any:
        made = tx(*rate) if callable(tx) else tx
        with on_clock(None if budget is None else Clock.start(budget)):
            return own((params, made.init(params)))

    return init


def on_clock(clock: Clock | None) -> contextlib.AbstractContextManager[None]:
    """A context in which an optimizer's schedules read the clock."""
    return contextlib.nullcontext() if clock is None else schedules.spending(clock.fraction)


def own(tree: Any) -> Any:
    """Copy a tree, so that a step may consume it; traceable."""
    # The step donates its state, so each leaf needs its own buffer, even if the task or the optimizer shares or
    # keeps arrays. A weak type would not survive the first update.
    return jax.tree.map(lambda x: jnp.array(x, dtype=jnp.result_type(x), copy=True), tree)


def check_state(state: TrainState) -> None:
    """Refuse a state that cannot be trained or saved, before any work.

    Args:
        state: arrays or ``jax.ShapeDtypeStruct``.

    Raises:
        ValueError: a parameter is not floating point or holds statistics of a model, or a leaf has no elements;
            the message names it.
    """
    for path, node in jax.tree_util.tree_leaves_with_path(state.params, is_leaf=_is_statistics):
        if _is_statistics(node) or any(getattr(key, "key", None) == "batch_stats" for key in path):
            raise ValueError(
                f"params{jax.tree_util.keystr(path)} holds statistics of BatchNorm, which no optimizer trains: "
                "init must return the parameters alone, and the statistics go into Task(model_state=)"
            )
    leaves = jax.tree_util.tree_leaves_with_path(state.params)
    if not leaves:
        raise ValueError("the parameter tree has no leaves")
    for path, leaf in leaves:
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            name = "params" + jax.tree_util.keystr(path)
            raise ValueError(f"{name} has dtype {leaf.dtype}; parameters must be floating point")
    for path, leaf in jax.tree_util.tree_leaves_with_path(state._replace(frozen=None)):
        if leaf.size == 0:
            name = jax.tree_util.keystr(path).removeprefix(".")
            raise ValueError(f"{name} has shape {leaf.shape}: an empty array cannot be saved")


def _is_statistics(node: Any) -> bool:
    """Whether a node is a Flax NNX variable of statistics, by its class name because Flax is not imported."""
    return any(kind.__name__ == "BatchStat" for kind in type(node).__mro__)
