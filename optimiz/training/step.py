"""One training step: a batch and a state go in, the next state comes out.

The optimizer is any Optax transformation. It is always offered ``value``, ``grad`` and
``value_fn``, the loss of this batch under this dropout mask as a function of the parameters, so
that a line search needs no loop of its own; and ``logits_fn``, likewise the logits, where the task
has them.

Under a budget the step also keeps the clock. It charges what it did: itself, and the extra work
that the optimizer counts in its state. Where there is such work, the host cannot tell what a step
will have cost; so that it need not wait for each to stop in time, a step does nothing from a given
moment on.
"""

import contextlib
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optimiz import schedules
from optimiz.hyperparams import hyperparams
from optimiz.training.clock import Clock
from optimiz.training.task import Task, batch_size, mean_loss, weighted_logits

STEP = "step"
"""The work of a training step: forward, backward and update."""

# Cumulative counts that optimizers keep in their state, and the work that each of them counts. A wrapper that
# undoes a step, state and all, takes its counts back, and the step is charged alone.
_EXTRA_WORK = {"evaluations": "forward", "estimates": "hessian"}

# Named, so that a run is resumed on the same random numbers whatever the default is then.
_KEY_IMPL = "threefry2x32"


class Figures(NamedTuple):
    """What is measured at every step: loss and gradient norm of the parameters before the update.

    ``fraction`` is what was spent of the budget before it; None where there is no budget. ``readings`` is what
    the optimizer says of the update, by name.
    """

    loss: jax.Array
    gradient_norm: jax.Array
    fraction: jax.Array | None
    readings: Mapping[str, jax.Array]


class TrainState(NamedTuple):
    """All that the next step depends on besides its batch.

    ``step`` is the number of updates made (int32) and so the index of the next batch; ``key`` is
    the data of the random key (uint32 [2]) from which, with the step, each step's dropout key is
    folded; ``clock`` is None where there is no budget.
    """

    step: jax.Array
    params: Any
    opt_state: Any
    key: jax.Array
    clock: Clock | None = None


def initial_state(
    task: Task, tx: optax.GradientTransformation, seed: int, budget: float | None = None
) -> TrainState:
    """Make the state before the first step; traceable."""
    init_key, run_key = keys(seed)
    clock = None if budget is None else Clock.start(budget)
    params, opt_state = _initializer(tx, budget)(task.init(init_key))
    return TrainState(jnp.zeros((), jnp.int32), params, opt_state, jax.random.key_data(run_key), clock)


def keys(seed: int) -> tuple[jax.Array, jax.Array]:
    """The random keys of a run: of its initial parameters, and of its steps."""
    init_key, run_key = jax.random.split(jax.random.key(seed, impl=_KEY_IMPL))
    return init_key, run_key


@functools.lru_cache(maxsize=1)  # as for the compiled step below: runs that differ in their seed share it
def _initializer(tx: optax.GradientTransformation, budget: float | None) -> Callable[[Any], Any]:
    @jax.jit
    def init(params: Any) -> Any:
        with _on(None if budget is None else Clock.start(budget)):
            return _own((params, tx.init(params)))

    return init


def _on(clock: Clock | None) -> contextlib.AbstractContextManager[None]:
    """Where the schedules of an optimizer read the clock."""
    return contextlib.nullcontext() if clock is None else schedules.spending(clock.fraction)


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
    task: Task,
    tx: optax.GradientTransformation,
    state: TrainState,
    batch: Any,
    price: Callable[..., float] | None = None,
) -> jax.stages.Compiled:
    """Compile the step for one state and one batch, or return what was compiled last if that is the same.

    Runs that differ in their seed alone share a step: those of one loss, one optimizer, one set of prices.

    Args:
        task: gives the loss.
        tx: the optimizer.
        state: arrays or ``jax.ShapeDtypeStruct``.
        batch: likewise.
        price: seconds of reference time of a unit of work, by its name and batch size, as
            ``Reference.seconds``; None where the state has no clock.

    Returns:
        The step, of a state and a batch; under a price, of a third argument too: the moment (int32 [2],
        as a clock's ``spent``) from which on it does nothing, if the optimizer counts extra work. It
        consumes (donates) the state it is given.

    Raises:
        ValueError: as :func:`trace_step`.
    """
    return _compiled(*_traced_with(task, tx, state, batch, price))


def trace_step(
    task: Task,
    tx: optax.GradientTransformation,
    state: TrainState,
    batch: Any,
    price: Callable[..., float] | None = None,
) -> None:
    """Find out, at the cost of tracing it, whether the step could be compiled.

    Args:
        task: this and the others as in :func:`compile_step`.
        tx: the optimizer.
        state: arrays or ``jax.ShapeDtypeStruct``.
        batch: likewise.
        price: seconds of reference time of a unit of work.

    Raises:
        ValueError: the loss is not one per example, or the optimizer changes the type of its state; or,
            under a price, the optimizer evaluates the loss or the logits and does not count it.
    """
    _traced(*_traced_with(task, tx, state, batch, price))


def _traced_with(
    task: Task, tx: optax.GradientTransformation, state: TrainState, batch: Any, price: Any
) -> tuple[Any, ...]:
    """All that a step is made of, and hashable: functions by identity, arrays by shape and dtype."""
    leaves, structure = jax.tree.flatten(jax.eval_shape(lambda arrays: arrays, (state, batch)))
    return task.loss, task.logits, tx, price, structure, tuple(leaves)


# The last one alone: it keeps the data alive that the loss refers to.
@functools.lru_cache(maxsize=1)
def _compiled(*made_of: Any) -> jax.stages.Compiled:
    step, arguments = _traced(*made_of)
    return jax.jit(step, donate_argnums=0).lower(*arguments).compile()


def _traced(
    loss: Callable[..., jax.Array],
    logits: Callable[..., Any] | None,
    tx: optax.GradientTransformation,
    price: Callable[..., float] | None,
    structure: Any,
    leaves: tuple[jax.ShapeDtypeStruct, ...],
) -> tuple[Callable[..., tuple[TrainState, Figures]], tuple[Any, ...]]:
    """The step, checked, and the shapes of its arguments."""
    state, batch = jax.tree.unflatten(structure, leaves)
    tx = optax.with_extra_args_support(tx)
    evaluated: set[str] = set()

    def train(state: TrainState, batch: Any) -> tuple[TrainState, Figures]:
        run_key = jax.random.wrap_key_data(state.key, impl=_KEY_IMPL)
        key = jax.random.fold_in(run_key, state.step)

        def value_fn(params: Any) -> jax.Array:
            return mean_loss(loss(params, batch, key), batch)

        value, grads = jax.value_and_grad(value_fn)(state.params)
        offered = {"value_fn": _noting(evaluated, "value_fn", value_fn)}
        if (apply := logits) is not None:
            offered["logits_fn"] = _noting(
                evaluated, "logits_fn", lambda params: weighted_logits(apply(params, batch, key), batch)
            )
        with _on(state.clock):
            updates, opt_state = tx.update(
                grads, state.opt_state, state.params, value=value, grad=grads, **offered
            )
        params = optax.apply_updates(state.params, updates)
        clock, fraction = None, None
        if price is not None:
            assert state.clock is not None
            clock = _charged(state.clock, state.opt_state, opt_state, price, batch_size(batch))
            fraction = state.clock.fraction
        next_state = TrainState(state.step + 1, params, opt_state, state.key, clock)
        return next_state, Figures(value, _norm(grads), fraction, _readings(opt_state))

    train = jax.jit(train)  # for its cache: it is traced once
    after, figures = jax.eval_shape(train, state, batch)
    _check_same_types(state, after)
    counted = jax.eval_shape(extra_work, state.opt_state)
    if price is not None and evaluated and not counted:
        raise ValueError(
            f"the optimizer calls {min(evaluated)}, and no {' or '.join(_EXTRA_WORK)} in its state counts how "
            "often: what it evaluates cannot be charged to a budget"
        )

    def train_until(state: TrainState, batch: Any, moment: jax.Array) -> tuple[TrainState, Figures]:
        assert state.clock is not None
        if not counted:  # steps of one price: the host knows without asking when to stop
            return train(state, batch)
        due = state.clock.before(moment).astype(jnp.int32)
        nothing = jax.tree.map(lambda figure: jnp.zeros(figure.shape, figure.dtype), figures)
        # One turn of a loop or none, and not a branch: what a loop carries stays in its place in memory.
        return jax.lax.fori_loop(0, due, lambda _, carry: train(carry[0], batch), (state, nothing))

    if state.clock is None:
        return train, (state, batch)
    return train_until, (state, batch, state.clock.spent)


def extra_work(opt_state: Any) -> dict[str, jax.Array]:
    """What an optimizer has done beyond its steps, as it counts it in its state: number by unit of work."""
    counts: dict[str, jax.Array] = {}
    for name, count in hyperparams(opt_state).items():
        work = _EXTRA_WORK.get(name.rpartition("/")[2])
        if work is not None:
            counts[work] = counts.get(work, jnp.zeros((), jnp.int32)) + jnp.asarray(count)
    return counts


def _charged(clock: Clock, before: Any, after: Any, price: Callable[..., float], batch: int) -> Clock:
    """The clock after a step that took the optimizer from one state to another."""
    clock = clock.charge(price(STEP, batch=batch))
    done = extra_work(before)
    for work, count in extra_work(after).items():
        clock = clock.charge(price(work, batch=batch), count - done[work])
    return clock


def _readings(opt_state: Any) -> dict[str, jax.Array]:
    """What a log wants of an optimizer's state: its scalars, but for counts of updates, and its step sizes."""
    readings = {
        name: jnp.asarray(value, jnp.result_type(value))
        for name, value in hyperparams(opt_state).items()
        if name.rpartition("/")[2] != "count"
    }
    searches = jax.tree.leaves(opt_state, is_leaf=lambda node: hasattr(node, "step_size"))
    sizes = [search.step_size for search in searches if jnp.ndim(getattr(search, "step_size", 0)) == 1]
    return readings | ({"step_size": jnp.concatenate(sizes)} if sizes else {})


def _noting(calls: set[str], name: str, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def noted(params: Any) -> Any:
        calls.add(name)
        return function(params)

    return noted


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
