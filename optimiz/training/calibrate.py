"""Calibration: measure how long each unit of work takes on this machine, which becomes the reference system.

A unit of work is timed with a monotonic clock from its dispatch until its results are available, after a few
warm-up rounds that compile it. Units take turns, so a machine that slows down affects all of them alike.
"""

import collections
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optimiz import checks, schedules
from optimiz.training import preemption
from optimiz.training.budget.energy import Meter, energy_of
from optimiz.training.budget.price_table import Energy, Reference, Timing, Work
from optimiz.training.budget.step_cost import FORWARD, HESSIAN, STEP, extra_work
from optimiz.training.compiled_step import compile_step
from optimiz.training.methods.layer_drop import LayerDrop
from optimiz.training.methods.methods import PLAIN, Methods
from optimiz.training.step import StepSpec
from optimiz.training.task import (
    Task,
    batch_shapes,
    batch_size,
    losses_and_state,
    mean_loss,
    untrained_arguments,
)
from optimiz.training.train_state import TrainState, check_state, initial_state

_WARM_UP = 3  # rounds: the first compiles, and the next may still allocate
_EVERY = 10  # steps, among which what an optimizer does only now and then has its share
_WINDOWS, _WINDOW = 5, 20.0  # in which energy is read, of each work; seconds


def measure(works: Mapping[Work, Callable[[], Any]], *, about: Mapping[str, Any], n: int = 200) -> Reference:
    """Time units of work.

    Args:
        works: for each unit, a function that performs it once and returns the arrays to wait for.
        about: what is timed, such as model, sizes and data, by name; plain JSON.
        n: number of measurements of each unit, ≥ 1.

    Returns:
        The median of each unit, with its spread.

    Raises:
        TypeError: ``n`` is not an integer.
        ValueError: ``n`` is less than 1, or the times cannot be a reference because more work was faster than
            less.

    Example:
        >>> square = jax.jit(lambda x: x @ x)
        >>> work = Work("square", batch=8)
        >>> reference = measure({work: lambda: square(np.ones((8, 8)))}, about={}, n=5)
        >>> reference.times[work].n
        5
    """
    checks.integer("n", n, ge=1)
    samples: dict[Work, list[float]] = {work: [] for work in works}
    for _ in range(_WARM_UP + n):
        for work, function in works.items():
            samples[work].append(_timed(function)[1])
    return Reference(times={work: _timing(taken[_WARM_UP:]) for work, taken in samples.items()}, about=about)


def calibrate(
    task: Task,
    tx: optax.GradientTransformation,
    *,
    about: Mapping[str, Any],
    n: int = 200,
    methods: Methods = PLAIN,
    meter: Meter | None = None,
) -> Reference:
    """Time all work that ``fit`` charges for a task and an optimizer.

    That is ``step`` and ``forward``, and ``hessian`` if the optimizer counts estimates of the Hessian. A step
    is timed together with the extra work that the optimizer counts in its state. The price of the evaluations
    is then subtracted; what a step with estimates takes beyond a step without any is the price of the
    estimates. Other work that an optimizer does only every few steps, such as that on SOAP's bases, is in the
    price of a step: the median, over every ten steps, of their mean. With less than 20 steps it may be missed.

    Args:
        task: the learning problem. The batch size, and the depth if it has one, are those of the work.
        tx: the optimizer.
        about: what is timed, such as model, sizes and data, by name; plain JSON.
        n: number of steps to time at each depth, ≥ 1.
        methods: the methods of the runs. Every depth of a model that grows is timed; if layers are dropped,
            every number of active layers; if examples are selected, also ``forward`` over the candidates.
        meter: what reads the energy of ``step`` and ``forward`` (:class:`Rapl`, :class:`Nvml` or
            :class:`StatedPower`), in 5 windows of 20 seconds for each; None if energy is not asked for.

    Raises:
        TypeError: ``n`` is not an integer.
        ValueError: ``n`` is less than 1; the task cannot be trained by the optimizer; or every timed step
            contains an estimate, so that the price of a step alone cannot be measured; or energy is asked for
            with methods or estimates, whose share in it cannot be told.
        OSError: the meter cannot be read, or does not move.
        Preempted: SIGTERM, SIGINT or SIGHUP was received; there is nothing to save.
    """
    checks.integer("n", n, ge=1)
    if meter is not None and methods != PLAIN:
        raise ValueError(
            "meter must be None with methods, as the energy of each depth and size is not measured"
        )
    times: dict[Work, Timing] = {}
    energy: dict[Work, Energy] = {}
    with preemption.deferred() as request:
        for stage in _stages(task, methods):
            times |= _times(stage, tx, methods, n, request)
        if meter is not None:
            energy = _energy(task, tx, meter, request)
    return Reference(times=times, about=about, energy=energy, meter={} if meter is None else meter.about)


def _stages(task: Task, methods: Methods) -> list[Task]:
    """The task at every depth of its model."""
    plan = methods.growth
    stages = [task]
    for _ in () if plan is None else plan.at:
        assert plan is not None
        shallow, double = stages[-1].init, plan.stack.doubled
        stages.append(
            dataclasses.replace(task, init=lambda key, shallow=shallow, double=double: double(shallow(key)))
        )
    return stages


class _Sample(NamedTuple):
    """One step, timed."""

    work: Work
    seconds: float
    extra: dict[str, int]  # number of units of extra work that the optimizer did, by name


def _times(
    task: Task, tx: optax.GradientTransformation, methods: Methods, n: int, request: preemption.Request
) -> dict[Work, Timing]:
    """How long units of work take at one depth of the model."""
    forwards, steps = _samples(task, tx, methods, n, request)
    times = {work: _timing(taken) for work, taken in forwards.items()}
    without: dict[Work, list[float]] = collections.defaultdict(list)
    estimates = []
    for work, seconds, extra in steps:
        seconds -= extra.get(FORWARD, 0) * times[work._replace(name=FORWARD)].seconds
        refreshes = extra.get(HESSIAN, 0)
        if refreshes:
            estimates.append((work, seconds, refreshes))
        else:
            without[work].append(seconds)
    times |= {work: _timing(taken, _EVERY) for work, taken in without.items()}
    above: dict[Work, list[float]] = collections.defaultdict(list)
    for work, seconds, refreshes in estimates:
        if work not in times:
            raise ValueError(
                f"n must reach a step without an estimate of the Hessian, got {n} steps that each have one"
            )
        above[work._replace(name=HESSIAN)].append((seconds - times[work].seconds) / refreshes)
    return times | {work: _timing(taken) for work, taken in above.items()}


def _samples(
    task: Task, tx: optax.GradientTransformation, methods: Methods, n: int, request: preemption.Request
) -> tuple[dict[Work, list[float]], list[_Sample]]:
    """The seconds of forward passes and of steps."""
    candidates = task.batches(0)
    batch_shapes(candidates, "batches(0)")
    selection, turns, rounds = methods.selection, None, _WARM_UP + n
    size = batch_size(candidates) if selection is None else selection.batch
    if methods.layer_drop is not None and task.depth is not None:
        layers = task.depth(jax.eval_shape(task.init, jax.random.key(0)))
        # One extra round, because the first may have begun before the warm-up ended.
        rounds = _WARM_UP + (n + 1) * layers
        turns = _Turns(steps=rounds, layers=layers)
    programs = _programs(task, tx, _resized(candidates, size), Methods(layer_drop=turns), rounds)
    state, layers = programs.state, programs.layers
    forwards: dict[Work, list[float]] = collections.defaultdict(list)
    steps: list[_Sample] = []
    for index in range(rounds):
        request.honour()
        if index == _WARM_UP:
            forwards.clear()
            steps.clear()
        candidates = task.batches(index)
        batch = jax.block_until_ready(jax.device_put(_resized(candidates, size)))
        depth, on = layers, ()
        if turns is not None:
            depth = turns.depth(index)
            on = (np.arange(turns.layers) < depth,)
        passes = [(Work(FORWARD, depth, size), (batch, *on))]
        if selection is not None:
            work = Work(FORWARD, layers, batch_size(candidates))
            passes.append((work, (jax.block_until_ready(jax.device_put(candidates)),)))
        for work, arguments in passes:
            forwards[work].append(_timed(programs.forward, state, *arguments)[1])
        before = _extra_work(state.opt_state)
        (state, _), seconds = _timed(programs.step, state, batch)
        after = _extra_work(state.opt_state)
        extra = {work: count - before[work] for work, count in after.items()}
        steps.append(_Sample(Work(STEP, depth, size), seconds, extra))
    return forwards, steps


def _energy(
    task: Task, tx: optax.GradientTransformation, meter: Meter, request: preemption.Request
) -> dict[Work, Energy]:
    """The energy of a step and of a forward pass, without the passes that the optimizer counts in its state."""
    batch = jax.block_until_ready(jax.device_put(task.batches(0)))
    programs = _programs(task, tx, batch, PLAIN, _WARM_UP)
    state, begun, steps = programs.state, _extra_work(programs.state.opt_state), 0
    if HESSIAN in begun:
        raise ValueError(
            "tx must not estimate a Hessian with a meter, which cannot tell its energy from the steps'"
        )

    def forward() -> int:
        request.honour()
        jax.block_until_ready(programs.forward(state, batch))
        return 1

    def step() -> int:
        nonlocal state, steps
        request.honour()
        state, _ = jax.block_until_ready(programs.step(state, batch))
        steps += 1
        return 1

    size = batch_size(batch)
    works = {Work(FORWARD, programs.layers, size): forward, Work(STEP, programs.layers, size): step}
    energy = energy_of(works, meter, n=_WINDOWS, seconds=_WINDOW)
    passes = (_extra_work(state.opt_state).get(FORWARD, 0) - begun.get(FORWARD, 0)) / steps
    of_forward, of_step = energy.values()
    alone = of_step._replace(joules=of_step.joules - passes * of_forward.joules)
    return dict(zip(works, (of_forward, alone), strict=True))


class _Programs(NamedTuple):
    """A step and a forward pass, compiled, and where they begin."""

    step: Callable[..., Any]
    forward: Callable[..., Any]
    state: TrainState
    layers: int | None


def _programs(
    task: Task, tx: optax.GradientTransformation, batch: Any, methods: Methods, steps: int
) -> _Programs:
    with schedules.spending(0.0):  # the rate makes no difference to the work
        like = jax.eval_shape(lambda: initial_state(task, tx, seed=0))
        check_state(like)
        step = compile_step(StepSpec.of(task, tx, like, batch, methods=methods, steps=steps)).executable
        state = initial_state(task, tx, seed=0)
    key = jax.random.key(0)

    @jax.jit
    def forward(state: TrainState, batch: Any, *on: Any) -> jax.Array:
        others = untrained_arguments(state.model_state, state.frozen)
        returned = task.loss(state.params, batch, key, *on, **others)
        return mean_loss(losses_and_state(returned, state.model_state)[0], batch)

    return _Programs(step, forward, state, None if task.depth is None else task.depth(like.params))


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Turns(LayerDrop):
    """Every number of active layers in turn."""

    steps: int
    layers: int

    def depth(self, step: Any) -> Any:
        """How many layers are active at a step."""
        # Shifted every round, so that an optimizer's periodic work meets every number of layers.
        return 1 + (step + step // self.layers) % self.layers

    def pattern(self, key: jax.Array, progress: jax.typing.ArrayLike, layers: int) -> jax.Array:
        del key
        step = jnp.round(jnp.asarray(progress) * self.steps).astype(jnp.int32)
        return jnp.arange(layers) < self.depth(step)


def _resized(batch: Mapping[str, Any], size: int) -> dict[str, Any]:
    """A batch of another size, made by repeating the same examples."""
    return {name: x[np.arange(size) % x.shape[0]] for name, x in batch.items()}


def _timed(function: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    started = time.perf_counter()
    result = jax.block_until_ready(function(*arguments))
    return result, time.perf_counter() - started


def _timing(samples: Sequence[float], window: int = 1) -> Timing:
    """The median over windows of their means, or of the samples if they fill no window."""
    first, third = np.quantile(samples, [0.25, 0.75]).tolist()
    windows = np.array_split(samples, len(samples) // window or len(samples))
    median = float(np.median([np.mean(taken) for taken in windows]))
    # Rounded to the nanosecond, as a clock counts time, so that a budget of n prices pays for n units.
    return Timing(round(median, 9), round(third - first, 9), len(samples))


def _extra_work(opt_state: Any) -> dict[str, int]:
    return {work: int(count) for work, count in extra_work(opt_state).items()}
