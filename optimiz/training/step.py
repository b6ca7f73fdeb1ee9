"""One training step: a batch and a state go in, the next state comes out.

The optimizer is any Optax transformation. It is always offered ``value``, ``grad`` and
``value_fn``, the loss of this batch under this dropout mask as a function of the parameters, so
that a line search needs no loop of its own; and ``logits_fn``, likewise the logits, where the task
has them.

Under a budget the step also keeps the clock. It charges what it did: itself, and the extra work
that the optimizer counts in its state. Where there is such work, the host cannot tell what a step
will have cost; so that it need not wait for each to stop in time, a step does nothing from a given
moment on.

Layers may be dropped: then the step draws a pattern, hands it to the loss and is charged by it. Examples may
be selected: then the batch that goes in is one of candidates, and where too few of them are kept, the step is
no more than a look at them.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optimiz import schedules
from optimiz.hyperparams import hyperparams
from optimiz.training.budget.clock import Clock
from optimiz.training.budget.step_cost import EXTRA_WORK, FORWARD, charge, charge_step, extra_work
from optimiz.training.distributed.sharding import Layout
from optimiz.training.divergence import sound
from optimiz.training.methods.layer_drop import LayerDrop
from optimiz.training.methods.methods import PLAIN, Methods
from optimiz.training.methods.selection import Selection
from optimiz.training.task import (
    Task,
    batch_size,
    beside,
    losses_and_state,
    mean_loss,
    per_example,
    weighted_logits,
)
from optimiz.training.trace_digest import trace_digest
from optimiz.training.train_state import TrainState, on_clock, run_key, state_shardings

# Folded into a step's key, far from what a model would fold into it, so that dropout is the same without them.
_PATTERN, _SELECTION = 2**32 - 1, 2**32 - 2


class Figures(NamedTuple):
    """What is measured at every step: loss and gradient norm of the parameters before the update.

    ``fraction`` is what was spent of the budget before it; None where there is no budget. ``readings`` is what
    the optimizer says of the update, by name. ``sound`` is whether the parameters are finite after it; None
    where that is not asked, see ``divergence``.
    """

    loss: jax.Array
    gradient_norm: jax.Array
    fraction: jax.Array | None
    readings: Mapping[str, jax.Array]
    sound: jax.Array | None


def compile_step(
    task: Task,
    tx: optax.GradientTransformation,
    state: TrainState,
    batch: Any,
    price: Callable[..., float] | None = None,
    methods: Methods = PLAIN,
    steps: int | None = None,
    layout: Layout | None = None,
) -> jax.stages.Compiled:
    """Compile the step for one state and one batch, or return what was compiled last if that is the same.

    Runs that differ in their seed alone share a step: those of one loss, one optimizer, one set of prices.

    Args:
        task: gives the loss.
        tx: the optimizer.
        state: arrays or ``jax.ShapeDtypeStruct``.
        batch: likewise.
        price: seconds of reference time of a unit of work, by its name, depth and batch size, as
            ``Reference.seconds``; None where the state has no clock.
        methods: which layers are on, and which examples of the batch are trained on.
        steps: of the whole run, for dropping layers where there is no budget.
        layout: how state and batch lie on a mesh; None for one device.

    Returns:
        The step, of a state and a batch; under a price, of a third argument too: the moment (int32 [2],
        as a clock's ``spent``) from which on it does nothing, if steps differ in their price. It
        consumes (donates) the state it is given.

    Raises:
        ValueError: as :func:`trace_step`.
    """
    return compile_and_digest(task, tx, state, batch, price, methods, steps, layout)[0]


def compile_and_digest(
    task: Task,
    tx: optax.GradientTransformation,
    state: TrainState,
    batch: Any,
    price: Callable[..., float] | None = None,
    methods: Methods = PLAIN,
    steps: int | None = None,
    layout: Layout | None = None,
) -> tuple[jax.stages.Compiled, str, int | None]:
    """As :func:`compile_step`, a digest of what was traced, and the step at which a schedule comes to 0."""
    return _compiled(layout, *_traced_with(task, tx, state, batch, price, methods, steps))


def trace_step(
    task: Task,
    tx: optax.GradientTransformation,
    state: TrainState,
    batch: Any,
    price: Callable[..., float] | None = None,
    methods: Methods = PLAIN,
    steps: int | None = None,
) -> None:
    """Find out, at the cost of tracing it, whether the step could be compiled.

    Args:
        task: this and the others as in :func:`compile_step`.
        tx: the optimizer.
        state: arrays or ``jax.ShapeDtypeStruct``.
        batch: likewise.
        price: seconds of reference time of a unit of work.
        methods: which layers and examples are trained.
        steps: of the whole run.

    Raises:
        ValueError: the loss is not one per example, or the optimizer changes the type of its state; layers are
            to be dropped, and the task does not say its depth; or, under a price, the optimizer evaluates the
            loss or the logits and does not count it.
    """
    _traced(*_traced_with(task, tx, state, batch, price, methods, steps))


def _traced_with(
    task: Task,
    tx: optax.GradientTransformation,
    state: TrainState,
    batch: Any,
    price: Any,
    methods: Methods,
    steps: int | None,
) -> tuple[Any, ...]:
    """All that a step is made of, and hashable: functions by identity, arrays by shape and dtype."""
    leaves, structure = jax.tree.flatten(jax.eval_shape(lambda arrays: arrays, (state, batch)))
    depth = None if task.depth is None else task.depth(state.params)
    if methods.layer_drop is None or state.clock is not None:
        steps = None
    if methods.layer_drop is not None and depth is None:
        raise ValueError("to drop layers, the task must say its depth, got depth=None")
    drop, selection, grows = methods.layer_drop, methods.selection, methods.growth is not None
    return task.loss, task.logits, tx, price, depth, drop, selection, grows, steps, structure, tuple(leaves)


# The last one alone: it keeps the data alive that the loss refers to.
@functools.lru_cache(maxsize=1)
def _compiled(layout: Layout | None, *made_of: Any) -> tuple[jax.stages.Compiled, str, int | None]:
    with schedules.called() as called:
        step, arguments = _traced(*made_of)
    places = {}
    if layout is not None:
        state = state_shardings(arguments[0], layout)
        places["in_shardings"] = (state, layout.batch, *[layout.whole] * (len(arguments) - 2))
        places["out_shardings"] = (state, layout.whole)
    traced = jax.jit(step, donate_argnums=0, **places).trace(*arguments)
    return traced.lower().compile(), trace_digest(traced.jaxpr), schedules.zero_from(called)


def _traced(
    loss: Callable[..., jax.Array],
    logits: Callable[..., Any] | None,
    tx: optax.GradientTransformation,
    price: Callable[..., float] | None,
    depth: int | None,
    drop: LayerDrop | None,
    selection: Selection | None,
    grows: bool,
    steps: int | None,
    structure: Any,
    leaves: tuple[jax.ShapeDtypeStruct, ...],
) -> tuple[Callable[..., tuple[TrainState, Figures]], tuple[Any, ...]]:
    """The step, checked, and the shapes of its arguments."""
    state, batch = jax.tree.unflatten(structure, leaves)
    tx = optax.with_extra_args_support(tx)
    evaluated: set[str] = set()

    def update(
        state: TrainState, batch: Any, before: Clock | None, looks: jax.Array | None = None
    ) -> tuple[TrainState, Figures]:
        """A step at what was spent ``before``, after so many looks at candidates."""
        key = jax.random.fold_in(run_key(state), state.step)
        pattern, on = (), None
        if drop is not None:
            assert depth is not None
            if before is not None:
                progress = before.fraction
            else:
                assert steps is not None  # a run without a budget has so many
                progress = state.step / steps
            layers = drop.pattern(jax.random.fold_in(key, _PATTERN), progress, depth)
            pattern, on = (layers,), jnp.sum(layers, dtype=jnp.int32)

        def value_and_state(params: Any) -> tuple[jax.Array, Any]:
            returned = loss(params, batch, key, *pattern, **beside(state.model_state))
            losses, model_state = losses_and_state(returned, state.model_state)
            return mean_loss(losses, batch), model_state

        def value_fn(params: Any) -> jax.Array:
            return value_and_state(params)[0]

        (value, model_state), grads = jax.value_and_grad(value_and_state, has_aux=True)(state.params)
        norm = _norm(grads)
        offered = {"value_fn": _noting(evaluated, "value_fn", value_fn)}
        if (apply := logits) is not None:
            offered["logits_fn"] = _noting(
                evaluated,
                "logits_fn",
                lambda params: weighted_logits(
                    apply(params, batch, key, *pattern, **beside(state.model_state)), batch
                ),
            )
        with on_clock(before):
            updates, opt_state = tx.update(
                grads, state.opt_state, state.params, value=value, grad=grads, **offered
            )
        params = optax.apply_updates(state.params, updates)
        clock, fraction = None, None
        if price is not None:
            assert state.clock is not None and before is not None
            clock = charge_step(
                state.clock, state.opt_state, opt_state, price, batch=batch_size(batch), depth=depth, on=on
            )
            fraction = before.fraction
        if grows and on is None and depth is not None:
            on = jnp.asarray(depth, jnp.int32)
        shown = {"active_layers": on, "looks": looks}
        readings = _readings(opt_state) | {name: x for name, x in shown.items() if x is not None}
        # What a bad batch has done to statistics must not outlast it where the optimizer skips the step.
        good = jnp.isfinite(value) & jnp.isfinite(norm)
        model_state = jax.tree.map(lambda new, old: jnp.where(good, new, old), model_state, state.model_state)
        next_state = state._replace(
            step=state.step + 1, params=params, opt_state=opt_state, clock=clock, model_state=model_state
        )
        return next_state, Figures(value, norm, fraction, readings, sound(opt_state, params))

    def train(state: TrainState, batch: Any) -> tuple[TrainState, Figures]:
        if selection is None:
            return update(state, batch, state.clock)
        before, size = state.clock, batch_size(batch)
        drawn = state.selection.drawn if selection.waits else state.step
        key = jax.random.fold_in(jax.random.fold_in(run_key(state), _SELECTION), drawn)
        returned = loss(state.params, batch, None, **beside(state.model_state))
        losses = per_example(losses_and_state(returned, state.model_state)[0], batch)
        chosen = selection.choose(state.selection, losses, batch, key)
        clock = before
        if price is not None:
            assert before is not None
            clock = charge(before, price, FORWARD, batch=size, depth=depth)
        state = state._replace(selection=chosen.state, clock=clock)
        # In forward passes over the batch of a step.
        looks = (drawn + 1) * jnp.float32(size / selection.batch)
        arguments = state, chosen.batch, before, looks
        if not selection.waits:
            return update(*arguments)
        nothing = _zeros(jax.eval_shape(update, *arguments)[1])
        return jax.lax.cond(chosen.full, update, lambda state, *_: (state, nothing), *arguments)

    train = jax.jit(train)  # for its cache: it is traced once
    after, figures = jax.eval_shape(train, state, batch)
    _check_same_types(state, after)
    counted = jax.eval_shape(extra_work, state.opt_state)
    if price is not None and evaluated and not counted:
        raise ValueError(
            f"the optimizer calls {min(evaluated)}, and no {' or '.join(EXTRA_WORK)} in its state counts how "
            "often: what it evaluates cannot be charged to a budget"
        )
    differ = counted or drop is not None or (selection is not None and selection.waits)

    def train_until(state: TrainState, batch: Any, moment: jax.Array) -> tuple[TrainState, Figures]:
        assert state.clock is not None
        if not differ:  # steps of one price: the host knows without asking when to stop
            return train(state, batch)
        due = state.clock.before(moment).astype(jnp.int32)
        # One turn of a loop or none, and not a branch: what a loop carries stays in its place in memory.
        return jax.lax.fori_loop(0, due, lambda _, carry: train(carry[0], batch), (state, _zeros(figures)))

    if state.clock is None:
        return train, (state, batch)
    return train_until, (state, batch, state.clock.spent)


def _zeros(figures: Figures) -> Figures:
    """The figures of no step."""
    return jax.tree.map(lambda figure: jnp.zeros(figure.shape, figure.dtype), figures)


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
    def noted(params: Any, *index: Any) -> Any:
        if index:
            raise ValueError(
                f"the optimizer calls {name} with the index of a micro-batch, and a run has none; make it with "
                "microbatches=None"
            )
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
