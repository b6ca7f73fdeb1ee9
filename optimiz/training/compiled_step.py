"""The step, traced, checked and compiled."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import use_abstract_mesh

from optimiz import schedules
from optimiz.training import micro_batches
from optimiz.training.at_rate import explained, traced_rate
from optimiz.training.budget.step_cost import EXTRA_WORK, extra_work
from optimiz.training.distributed.offload import offloaded
from optimiz.training.distributed.sharding import Layout
from optimiz.training.micro_batches import Noise
from optimiz.training.step import StepMetrics, StepSpec, no_metrics, train_step
from optimiz.training.storage.trace_digest import trace_digest
from optimiz.training.task import batch_size, untrained_arguments
from optimiz.training.train_state import TrainState, placed, run_key, state_shardings


class CompiledStep(NamedTuple):
    """A step that is ready to run.

    Args:
        executable: (state, batch) → (state, metrics). Under a budget it takes a third argument, the moment
            (int32 [2], like a clock's ``spent``) from which on the step does nothing. The learning rate, if it
            takes one, is the last argument. The state is donated.
        digest: the digest of the traced step, the same in every process.
        schedules: the schedules bound to steps that the optimizer calls.
    """

    executable: jax.stages.Compiled
    digest: str
    schedules: Sequence[Any]


# Only the last step is cached, because it keeps alive the data that the loss refers to.
@functools.lru_cache(maxsize=1)
def compile_step(spec: StepSpec, layout: Layout | None = None) -> CompiledStep:
    """Compile a step, or return the last one compiled if it is the same.

    Args:
        spec: the specification of the step.
        layout: where state and batch lie on a mesh; None for one device.

    Raises:
        ValueError: as for :func:`trace_step`.
    """
    with schedules.called() as called:
        traced = traced_step(spec, layout)
    return CompiledStep(traced.lower().compile(), trace_digest(traced.jaxpr), called)


# The seeds share it; as for the step, it keeps alive the data that the loss refers to.
@functools.lru_cache(maxsize=1)
def compile_noise(loss: Callable[..., Any]) -> Callable[[TrainState, Any], Noise]:
    """A function, (state, batch) → the noise of the gradient with which the batch will update the state.

    Args:
        loss: the task's ``loss``.

    Raises:
        ValueError: in the function, the batch has a single example.
    """

    @jax.jit
    def measured(params: Any, frozen: Any, key: jax.Array, batch: Any) -> Noise:
        def losses(params: Any, batch: Any, key: jax.Array) -> Any:
            return loss(params, batch, key, **untrained_arguments(None, frozen))

        if (size := batch_size(batch)) < 2:
            raise ValueError(f"Settings(noise_every=) needs batches of at least 2 examples, got {size}")
        return micro_batches.value_and_grad(losses, params, batch, key, micro_batches.to_measure(size))[2]

    def of_state(state: TrainState, batch: Any) -> Noise:
        return measured(state.params, state.frozen, jax.random.fold_in(run_key(state), state.step), batch)

    return of_state


def traced_step(spec: StepSpec, layout: Layout | None = None) -> jax.stages.Traced:
    """Trace and check a step.

    Args:
        spec: the specification of the step.
        layout: where state and batch lie on a mesh; None for one device.

    Raises:
        ValueError: as for :func:`trace_step`.
    """
    if layout is None:
        step, arguments = _checked_step(spec)
        return jax.jit(step, donate_argnums=0).trace(*arguments)
    with use_abstract_mesh(layout.mesh.abstract_mesh):  # for an optimizer that asks, as muon does
        state = state_shardings(spec.shapes[0], layout)
        step, arguments = _checked_step(spec, state)
        arguments = (jax.tree.map(placed, arguments[0], state), *arguments[1:])
        into, out = (state, layout.batch, *[layout.whole] * (len(arguments) - 2)), (state, layout.whole)
        step = jax.jit(offloaded(step), donate_argnums=0, in_shardings=into, out_shardings=out)
        return step.trace(*arguments)


def trace_step(spec: StepSpec) -> None:
    """Check that a step can be compiled, at the cost of tracing it.

    Args:
        spec: the specification of the step.

    Raises:
        ValueError: the loss does not return one value per example; the optimizer changes the type of its state;
            or, under a budget, the optimizer evaluates the loss or the logits without counting it.
    """
    _checked_step(spec)


def _checked_step(
    spec: StepSpec, shardings: TrainState | None = None
) -> tuple[Callable[..., tuple[TrainState, StepMetrics]], tuple[Any, ...]]:
    """The function to compile, checked, and the shapes of its arguments."""
    called: set[str] = set()

    @jax.jit  # for its cache: it is traced once
    def train(state: TrainState, batch: Any, *rate: jax.Array) -> tuple[TrainState, StepMetrics]:
        return train_step(spec.at(*rate) if rate else spec, called, state, batch, shardings)

    state, batch = spec.shapes
    rate = () if spec.make is None else (traced_rate(),)
    with explained(*rate):
        after, metrics = jax.eval_shape(train, state, batch, *rate)
    _check_same_types(state, after)
    counted = jax.eval_shape(extra_work, state.opt_state)
    if spec.price is not None and called and not counted:
        raise ValueError(
            f"the optimizer calls {min(called)}, but no {' or '.join(EXTRA_WORK)} in its state counts the "
            "calls: they cannot be charged to a budget"
        )
    if state.clock is None:
        return train, (state, batch, *rate)
    waits = spec.selection is not None and spec.selection.waits
    steps_differ_in_price = counted or spec.layer_drop is not None or waits

    def train_until(
        state: TrainState, batch: Any, moment: jax.Array, *rate: jax.Array
    ) -> tuple[TrainState, StepMetrics]:
        assert state.clock is not None
        if not steps_differ_in_price:  # the host knows without asking when to stop
            return train(state, batch, *rate)
        due = state.clock.before(moment).astype(jnp.int32)
        turn = lambda _, carry: train(carry[0], batch, *rate)  # noqa: E731
        # A loop of at most one iteration instead of a branch: what a loop carries is updated in place.
        return jax.lax.fori_loop(0, due, turn, (state, no_metrics(metrics)))

    return train_until, (state, batch, state.clock.spent, *rate)


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
