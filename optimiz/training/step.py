"""One training step: a batch and a state go in, the next state comes out.

The optimizer is any Optax transformation. It is always offered ``value``, ``grad`` and
``value_fn``, the loss of this batch under this dropout mask as a function of the parameters, so
that a line search needs no loop of its own.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optimiz.training.task import Task, mean_loss

# Named, so that a run is resumed on the same random numbers whatever the default is then.
_KEY_IMPL = "threefry2x32"


class Figures(NamedTuple):
    """What is measured at every step, of the parameters before the update."""

    loss: jax.Array
    gradient_norm: jax.Array


class TrainState(NamedTuple):
    """All that the next step depends on besides its batch.

    ``step`` is the number of updates made (int32) and so the index of the next batch; ``key`` is
    the data of the random key (uint32 [2]) from which, with the step, each step's dropout key is
    folded.
    """

    step: jax.Array
    params: Any
    opt_state: Any
    key: jax.Array


def initial_state(task: Task, tx: optax.GradientTransformation, seed: int) -> TrainState:
    """Make the state before the first step; traceable."""
    init_key, run_key = jax.random.split(jax.random.key(seed, impl=_KEY_IMPL))
    params, opt_state = jax.jit(lambda params: _own((params, tx.init(params))))(task.init(init_key))
    return TrainState(jnp.zeros((), jnp.int32), params, opt_state, jax.random.key_data(run_key))


def _own(tree: Any) -> Any:
    # The step donates its state, so each leaf must be a buffer of its own, whatever the task and the
    # optimizer share or keep; and a weak type would not survive the first update.
    return jax.tree.map(lambda x: jnp.array(x, dtype=jnp.result_type(x), copy=True), tree)


def check_state(state: TrainState) -> None:
    """Refuse, before any work, what cannot be trained or saved.

    Args:
        state: arrays or ``jax.ShapeDtypeStruct``.

    Raises:
        ValueError: naming a parameter that is not floating point, or a leaf without elements.
    """
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


def compile_step(
    task: Task, tx: optax.GradientTransformation, state: TrainState, batch: Any
) -> Callable[[TrainState, Any], tuple[TrainState, Figures]]:
    """Compile the step for one state and one batch.

    Args:
        task: gives the loss.
        tx: the optimizer.
        state: arrays or ``jax.ShapeDtypeStruct``.
        batch: likewise.

    Returns:
        The step. It consumes (donates) the state it is given.

    Raises:
        ValueError: the loss is not one per example, or the optimizer changes the type of its state.
    """
    tx = optax.with_extra_args_support(tx)

    def step(state: TrainState, batch: Any) -> tuple[TrainState, Figures]:
        run_key = jax.random.wrap_key_data(state.key, impl=_KEY_IMPL)
        key = jax.random.fold_in(run_key, state.step)

        def value_fn(params: Any) -> jax.Array:
            return mean_loss(task.loss(params, batch, key), batch)

        value, grads = jax.value_and_grad(value_fn)(state.params)
        updates, opt_state = tx.update(
            grads, state.opt_state, state.params, value=value, grad=grads, value_fn=value_fn
        )
        params = optax.apply_updates(state.params, updates)
        next_state = TrainState(state.step + 1, params, opt_state, state.key)
        return next_state, Figures(value, _norm(grads))

    traced = jax.jit(step, donate_argnums=0).trace(state, batch)
    _check_same_types(state, traced.out_info[0])
    return traced.lower().compile()


def _norm(tree: Any) -> jax.Array:
    # optax.tree.norm sums in each leaf's own dtype, which overflows in float16 and stalls in
    # bfloat16.
    squares = (jnp.sum(jnp.square(x.astype(jnp.float32))) for x in jax.tree.leaves(tree))
    return jnp.sqrt(sum(squares, start=jnp.zeros((), jnp.float32)))


def _check_same_types(before: Any, after: Any) -> None:
    if jax.tree.structure(before) != jax.tree.structure(after):
        raise ValueError("the optimizer changes the tree structure of its state at the first update")
    pairs = zip(jax.tree_util.tree_leaves_with_path(before), jax.tree.leaves(after), strict=True)
    for (path, old), new in pairs:
        if (old.shape, old.dtype) != (new.shape, new.dtype):
            name = jax.tree_util.keystr(path).removeprefix(".")
            raise ValueError(
                f"the optimizer changes {name} from {old.dtype}{list(old.shape)} to "
                f"{new.dtype}{list(new.shape)} at the first update"
            )
