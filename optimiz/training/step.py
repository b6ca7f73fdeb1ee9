"""One training step: a batch and a state go in, the next state comes out.

The optimizer is any Optax transformation. Every update offers it ``value``, ``grad`` and ``value_fn``, the loss
of this batch under this dropout mask as a function of the parameters, so that a line search needs no loop of
its own; and ``logits_fn``, likewise the logits, if the task has them.

Under a budget the step also advances the clock, by its own price and by that of the extra work that the
optimizer counts in its state. Such work makes the price of a step depend on the data, so the host cannot know
in advance at which step the budget ends. Rather than have it wait for every step, a step does nothing from a
given moment on.

With layer dropping, the step draws which layers are on, passes that to the loss and is charged accordingly.
With example selection, the batch that goes in holds candidates; if too few are kept, no update is made.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optimiz import numerics
from optimiz.hyperparams import hyperparams
from optimiz.training import micro_batches
from optimiz.training.at_rate import Factory
from optimiz.training.budget.clock import Clock
from optimiz.training.budget.step_cost import FORWARD, charge, charge_step
from optimiz.training.divergence import sound
from optimiz.training.methods.layer_drop import LayerDrop
from optimiz.training.methods.methods import PLAIN, Methods
from optimiz.training.methods.recorded_calls import recorded
from optimiz.training.methods.selection import Selection
from optimiz.training.task import (
    Task,
    batch_size,
    losses_and_state,
    mean_loss,
    per_example,
    untrained_arguments,
    weighted_logits,
)
from optimiz.training.train_state import TrainState, on_clock, run_key

SELECTION_FORWARDS = "looks"
"""The name in ``metrics.jsonl`` of the forward passes over candidates so far, as passes over a step's batch."""

# Folded into a step's key: far from what a model would fold in, so dropout is the same with and without them.
_PATTERN, _SELECTION = 2**32 - 1, 2**32 - 2


class StepMetrics(NamedTuple):
    """What is measured at every step.

    Args:
        loss: the loss at the parameters before the update.
        gradient_norm: the norm of its gradient there.
        fraction: the share of the budget spent before the update; None without a budget.
        logged_scalars: scalars of the optimizer's state, by name.
        sound: whether the parameters are finite after the update; None if that is not tested, see
            ``optimiz.training.divergence``.
        noise: how noisy the gradient is; None if the batch is computed as a whole, or is a selection.
    """

    loss: jax.Array
    gradient_norm: jax.Array
    fraction: jax.Array | None
    logged_scalars: Mapping[str, jax.Array]
    sound: jax.Array | None
    noise: micro_batches.Noise | None = None


@dataclasses.dataclass(frozen=True)
class StepSpec:
    """Everything a step is compiled from; equal specifications share a compiled step.

    Functions are compared by identity, arrays by shape and dtype. Runs that differ in nothing but their seed
    have equal specifications if they share the loss, the optimizer and the prices; so do runs at different
    learning rates, if they share the function that makes the optimizer.

    Args:
        loss: the task's ``loss``.
        logits: the task's ``logits``, or None.
        tx: the optimizer; None if it is made from the learning rate.
        price: (work, depth=, batch=) → seconds of reference time; None without a budget.
        depth: number of layers, if the task has ``depth``.
        layer_drop: which layers are on; None for all.
        selection: which examples of the batch are trained on; None for all.
        grows: whether the model is grown during the run.
        steps: number of steps of the run, if layer dropping depends on it.
        structure: the tree structure of the pair of state and batch.
        leaves: the shapes and dtypes of the pair's arrays.
        make: learning rate → optimizer; the rate is then an argument of the step. None if ``tx`` is given.
        micro_batches: number of parts in which the batch is computed, see ``optimiz.training.micro_batches``.
    """

    loss: Callable[..., Any]
    logits: Callable[..., Any] | None
    tx: optax.GradientTransformation | None
    price: Callable[..., float] | None
    depth: int | None
    layer_drop: LayerDrop | None
    selection: Selection | None
    grows: bool
    steps: int | None
    structure: Any
    leaves: tuple[jax.ShapeDtypeStruct, ...]
    make: Factory | None = None
    micro_batches: int = 1

    @classmethod
    def of(
        cls,
        task: Task,
        tx: optax.GradientTransformation,
        state: TrainState,
        batch: Any,
        price: Callable[..., float] | None = None,
        methods: Methods = PLAIN,
        steps: int | None = None,
        micro_batches: int = 1,
    ) -> "StepSpec":
        """The step of a task and an optimizer.

        Args:
            task: the task, for its loss, logits and depth.
            tx: the optimizer.
            state: arrays or ``jax.ShapeDtypeStruct``.
            batch: likewise.
            price: (work, depth=, batch=) → seconds of reference time, such as ``Reference.seconds``; None if
                the state has no clock.
            methods: which layers and which examples are trained.
            steps: number of steps of the run; None if only a budget limits it.
            micro_batches: number of parts in which the batch is computed.

        Raises:
            ValueError: layers are to be dropped, and the task has no ``depth``.
        """
        leaves, structure = jax.tree.flatten(jax.eval_shape(numerics.on_device, (state, batch)))
        depth = None if task.depth is None else task.depth(state.params)
        if methods.layer_drop is not None and depth is None:
            raise ValueError("to drop layers, the task needs a depth, got Task(depth=None)")
        return cls(
            loss=task.loss,
            logits=task.logits,
            tx=tx,
            price=price,
            depth=depth,
            layer_drop=methods.layer_drop,
            selection=methods.selection,
            grows=methods.growth is not None,
            steps=None if methods.layer_drop is None or state.clock is not None else steps,
            structure=structure,
            leaves=tuple(leaves),
            micro_batches=micro_batches,
        )

    def of_any_rate(self, make: Factory) -> "StepSpec":
        """The specification for any learning rate, which is then an argument of the step.

        Args:
            make: learning rate → optimizer.
        """
        return dataclasses.replace(self, tx=None, make=make)

    def at(self, rate: jax.typing.ArrayLike) -> "StepSpec":
        """The specification at a learning rate, which may be traced."""
        assert self.make is not None
        return dataclasses.replace(self, tx=self.make(rate), make=None)

    @property
    def shapes(self) -> tuple[TrainState, Any]:
        """The state and the batch, as ``jax.ShapeDtypeStruct``."""
        return jax.tree.unflatten(self.structure, self.leaves)


def train_step(
    spec: StepSpec, called: set[str], state: TrainState, batch: Any, shardings: TrainState | None = None
) -> tuple[TrainState, StepMetrics]:
    """The state after a step, and what was measured; traceable.

    Args:
        spec: the specification of the step.
        called: a set to which the names of the functions that the optimizer calls are added.
        state: the state before the step.
        batch: the batch to train on, or the candidates to choose from.
        shardings: how a mesh splits the state, of ``NamedSharding``; None on one device.

    Raises:
        ValueError: the loss does not return one value per example, or the optimizer calls a function with
            arguments that a run does not support.
    """
    if spec.selection is None:
        return _update(spec, called, state, batch, state.clock, shardings=shardings)
    return _update_on_selection(spec, called, state, batch, shardings)


def _update_on_selection(
    spec: StepSpec, called: set[str], state: TrainState, candidates: Any, shardings: TrainState | None
) -> tuple[TrainState, StepMetrics]:
    """Evaluate candidates, and make an update on some of them, if enough are kept."""
    selection, before, size = spec.selection, state.clock, batch_size(candidates)
    assert selection is not None
    drawn = state.selection.drawn if selection.waits else state.step
    key = jax.random.fold_in(jax.random.fold_in(run_key(state), _SELECTION), drawn)
    returned = spec.loss(state.params, candidates, None, **untrained_arguments(state.model_state, state.frozen))
    losses = per_example(losses_and_state(returned, state.model_state)[0], candidates)
    chosen = selection.choose(state.selection, losses, candidates, key)
    clock = before
    if spec.price is not None:
        assert before is not None
        clock = charge(before, spec.price, FORWARD, batch=size, depth=spec.depth)
    state = state._replace(selection=chosen.state, clock=clock)
    # Counted as passes over the batch of a step.
    forwards = (drawn + 1) * jnp.float32(size / selection.batch)

    update = functools.partial(_update, spec, called, shardings=shardings)
    arguments = state, chosen.batch, before, forwards
    if not selection.waits:
        return update(*arguments)
    nothing = no_metrics(jax.eval_shape(update, *arguments)[1])
    return jax.lax.cond(chosen.full, update, lambda state, *_: (state, nothing), *arguments)


def _update(
    spec: StepSpec,
    called: set[str],
    state: TrainState,
    batch: Any,
    before: Clock | None,
    selection_forwards: jax.Array | None = None,
    shardings: TrainState | None = None,
) -> tuple[TrainState, StepMetrics]:
    """Make an update.

    Args:
        spec: the specification of the step.
        called: a set to which the names of the functions that the optimizer calls are added.
        state: the state before the update; its clock may have been charged for candidates.
        batch: the batch to train on.
        before: the clock before the step.
        selection_forwards: forward passes over candidates so far.
        shardings: how a mesh splits the state; None on one device.
    """
    key = jax.random.fold_in(run_key(state), state.step)
    layers = _layers_on(spec, state, before, key)
    pattern = () if layers is None else (layers,)
    active = None if layers is None else jnp.sum(layers, dtype=jnp.int32)

    # Made in each call: NNX's variables must belong to the trace in which the call sets them.
    others = lambda: untrained_arguments(state.model_state, state.frozen)  # noqa: E731
    loss = lambda params, batch, key: spec.loss(params, batch, key, *pattern, **others())  # noqa: E731
    cut = batch, key, spec.micro_batches

    def value_and_state(params: Any) -> tuple[jax.Array, Any]:
        losses, model_state = losses_and_state(loss(params, batch, key), state.model_state)
        return mean_loss(losses, batch), model_state

    def value_fn(params: Any) -> jax.Array:
        return (
            value_and_state(params)[0] if spec.micro_batches == 1 else micro_batches.value(loss, params, *cut)
        )

    def logits_fn(params: Any) -> Any:
        logits, whole = spec.logits, spec.micro_batches == 1
        assert logits is not None
        of = lambda params, batch, key: logits(params, batch, key, *pattern, **others())  # noqa: E731
        found = of(params, batch, key) if whole else micro_batches.each(of, params, *cut)
        return weighted_logits(found, batch)

    noise = None
    if spec.micro_batches == 1:
        (value, model_state), grads = jax.value_and_grad(value_and_state, has_aux=True)(state.params)
    else:
        micro_batches.check(batch, spec.micro_batches)
        value, grads, noise = micro_batches.value_and_grad(loss, state.params, *cut)
        noise = None if spec.selection is not None else noise  # a selection is not drawn at random
        model_state = None  # see fit
    norm = _norm(grads)
    functions = (
        {"value_fn": value_fn} if spec.logits is None else {"value_fn": value_fn, "logits_fn": logits_fn}
    )
    offered = {name: recorded(called, name, _of_params(name, f)) for name, f in functions.items()}
    assert spec.tx is not None  # see StepSpec.at
    with on_clock(before):
        params, opt_state = numerics.update_and_apply(
            spec.tx,
            grads,
            state.opt_state,
            state.params,
            shardings=None if shardings is None else (shardings.params, shardings.opt_state),
            value=value,
            grad=grads,
            **offered,
        )
    clock, fraction = None, None
    if spec.price is not None:
        assert state.clock is not None and before is not None
        size = batch_size(batch)
        clock = charge_step(
            state.clock, state.opt_state, opt_state, spec.price, batch=size, depth=spec.depth, on=active
        )
        fraction = before.fraction
    if spec.grows and active is None and spec.depth is not None:
        active = jnp.asarray(spec.depth, jnp.int32)
    counts = {"active_layers": active, SELECTION_FORWARDS: selection_forwards}
    logged = _logged_scalars(opt_state) | {name: x for name, x in counts.items() if x is not None}
    # A bad batch must not change the statistics for good where the optimizer skips the step.
    good = jnp.isfinite(value) & jnp.isfinite(norm)
    model_state = jax.tree.map(lambda new, old: jnp.where(good, new, old), model_state, state.model_state)
    next_state = state._replace(
        step=state.step + 1, params=params, opt_state=opt_state, clock=clock, model_state=model_state
    )
    return next_state, StepMetrics(value, norm, fraction, logged, sound(opt_state, params), noise)


def _layers_on(spec: StepSpec, state: TrainState, before: Clock | None, key: jax.Array) -> jax.Array | None:
    """Which layers are on at a step, bool [L]; None if layers are never dropped."""
    if spec.layer_drop is None:
        return None
    assert spec.depth is not None
    if before is not None:
        progress = before.fraction
    else:
        assert spec.steps is not None  # a run without a budget has a number of steps
        progress = state.step / spec.steps
    return spec.layer_drop.pattern(jax.random.fold_in(key, _PATTERN), progress, spec.depth)


def no_metrics(metrics: StepMetrics) -> StepMetrics:
    """The metrics of a step that does nothing, from the shapes of those of a step that does."""
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), metrics)


def _logged_scalars(opt_state: Any) -> dict[str, jax.Array]:
    """The logged parts of an optimizer's state: its scalars, except counts of updates, and its step sizes."""
    scalars = {
        name: jnp.asarray(value, jnp.result_type(value))
        for name, value in hyperparams(opt_state).items()
        if name.rpartition("/")[2] != "count"
    }
    searches = jax.tree.leaves(opt_state, is_leaf=lambda node: hasattr(node, "step_size"))
    sizes = [search.step_size for search in searches if jnp.ndim(getattr(search, "step_size", 0)) == 1]
    return scalars | ({"step_size": jnp.concatenate(sizes)} if sizes else {})


def _of_params(name: str, function: Callable[[Any], Any]) -> Callable[..., Any]:
    """A function of the parameters that refuses the index of a micro-batch."""

    def of_params(params: Any, *index: Any) -> Any:
        if index:
            raise ValueError(
                f"the optimizer calls {name} with the index of a micro-batch, but a run has none; make it with "
                "microbatches=None"
            )
        return function(params)

    return of_params


def _norm(tree: Any) -> jax.Array:
    # optax.tree.norm sums in each leaf's own dtype, which overflows in float16 and stalls in bfloat16.
    squares = (jnp.sum(jnp.square(x.astype(jnp.float32))) for x in jax.tree.leaves(tree))
    return jnp.sqrt(sum(squares, start=jnp.zeros((), jnp.float32)))
