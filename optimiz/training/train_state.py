"""The state of a run: all that its next step depends on besides the batch."""

import contextlib
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optimiz import numerics, schedules
from optimiz.training.budget.clock import Clock
from optimiz.training.distributed.sharding import Layout
from optimiz.training.methods.growth import Growth, grow
from optimiz.training.methods.selection import Selection
from optimiz.training.task import Task


class TrainState(NamedTuple):
    """All that the next step depends on besides its batch.

    ``step`` is the number of updates made (int32) and so the index of the next batch; ``key`` is
    the data of the random key (uint32 [2]) from which, with the step, each step's dropout key is
    folded; ``clock`` is None where there is no budget, ``selection`` where all examples are trained on, and
    ``model_state`` where the model has nothing but parameters.
    """

    step: jax.Array
    params: Any
    opt_state: Any
    key: jax.Array
    clock: Clock | None = None
    selection: Any = None
    model_state: Any = None


def initial_state(
    task: Task,
    tx: optax.GradientTransformation,
    seed: int,
    budget: float | None = None,
    selection: Selection | None = None,
) -> TrainState:
    """Make the state before the first step; traceable.

    Raises:
        ValueError: the task's batches are no candidates for the selection, or its model state is None.
    """
    init_key, steps_key = keys(seed)
    clock = None if budget is None else Clock.start(budget)
    params, opt_state = _initializer(tx, budget)(task.init(init_key))
    chosen = None if selection is None else selection.init(task.batches(0))
    key = jax.random.key_data(steps_key)
    model_state = None if task.model_state is None else own(task.model_state(init_key))
    if task.model_state is not None and model_state is None:
        raise ValueError("Task(model_state=) must return arrays, got None: leave it out for a model without")
    return TrainState(jnp.zeros((), jnp.int32), params, opt_state, key, clock, chosen, model_state)


def grown_state(plan: Growth, tx: optax.GradientTransformation, state: TrainState, stage: int) -> TrainState:
    """The state after one growth more, which makes it the stage; traceable.

    Raises:
        ValueError: there are no layers to double.
    """
    with on_clock(state.clock):
        params, opt_state = own(grow(plan, tx, stage, state.params, state.opt_state))
    return state._replace(params=params, opt_state=opt_state)


def keys(seed: int) -> tuple[jax.Array, jax.Array]:
    """The random keys of a run: of its initial parameters, and of its steps."""
    init_key, steps_key = jax.random.split(numerics.typed_key(seed))
    return init_key, steps_key


def run_key(state: TrainState) -> jax.Array:
    """The random key of a run's steps."""
    return numerics.typed_key(state.key)


def state_shardings(state: TrainState, layout: Layout) -> TrainState:
    """Where each array of the state lies on a mesh: the same tree of ``NamedSharding``.

    Raises:
        ValueError: the layout does not fit the parameters.
    """
    shardings = jax.tree.map(lambda _: layout.whole, state)
    params, opt_state = layout.params(state.params), layout.opt_state(state.opt_state, state.params)
    return shardings._replace(params=params, opt_state=opt_state)


def laid_out(layout: Layout | None, make: Callable[..., TrainState], *arguments: TrainState) -> TrainState:
    """What a function makes, on a mesh in parts from its first array on.

    Args:
        layout: of the state that is made; None for one device.
        make: traceable, of the arguments.
        *arguments: states on the same mesh.
    """
    if layout is None:
        return make(*arguments)
    shardings = state_shardings(jax.eval_shape(make, *arguments), layout)
    return jax.jit(make, out_shardings=shardings)(*arguments)


@functools.lru_cache(maxsize=1)  # as for the compiled step: runs that differ in their seed share it
def _initializer(tx: optax.GradientTransformation, budget: float | None) -> Callable[[Any], Any]:
    @jax.jit
    def init(params: Any) -> Any:
        with on_clock(None if budget is None else Clock.start(budget)):
            return own((params, tx.init(params)))

    return init


def on_clock(clock: Clock | None) -> contextlib.AbstractContextManager[None]:
    """Where the schedules of an optimizer read the clock."""
    return contextlib.nullcontext() if clock is None else schedules.spending(clock.fraction)


def own(tree: Any) -> Any:
    """A tree of arrays whose step may donate them; traceable."""
    # The step donates its state, so each leaf must be a buffer of its own, whatever the task and the
    # optimizer share or keep; and a weak type would not survive the first update.
    return jax.tree.map(lambda x: jnp.array(x, dtype=jnp.result_type(x), copy=True), tree)


def check_state(state: TrainState) -> None:
    """Refuse, before any work, what cannot be trained or saved.

    Args:
        state: arrays or ``jax.ShapeDtypeStruct``.

    Raises:
        ValueError: naming a parameter that is not floating point or holds statistics of a model, or a leaf
            without elements.
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
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        if leaf.size == 0:
            name = jax.tree_util.keystr(path).removeprefix(".")
            raise ValueError(f"{name} has shape {leaf.shape}: an empty array cannot be saved")


def _is_statistics(node: Any) -> bool:
    """Whether a node is Flax NNX's variable of statistics; known by name, for Flax is not imported here."""
    return any(kind.__name__ == "BatchStat" for kind in type(node).__mro__)
