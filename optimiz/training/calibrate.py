"""Calibration: what units of work take on this machine, which makes it the reference system.

A unit of work is timed from its dispatch until its results are there, by a monotonic clock, after a few rounds
that compile it and are not counted. Units take turns, so that a machine that slows down slows all of them.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax

from optimiz import checks, schedules
from optimiz.training.reference import Reference, Timing, Work
from optimiz.training.step import STEP, check_state, compile_step, extra_work, initial_state
from optimiz.training.task import Task, batch_shapes, batch_size, mean_loss

_WARM_UP = 3  # rounds: the first compiles, and the next may still allocate


def measure(works: Mapping[Work, Callable[[], Any]], *, about: Mapping[str, Any], n: int = 200) -> Reference:
    """Time units of work.

    Args:
        works: for each unit, a function that does it once and returns arrays to wait for.
        about: what is timed, by name: model, sizes, data; plain JSON.
        n: measurements of each, ≥ 1.

    Returns:
        The median of each, with its spread.

    Raises:
        TypeError: ``n`` is not an integer.
        ValueError: it is less than 1, or the times are no reference: more work was quicker than less.

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
    task: Task, tx: optax.GradientTransformation, *, about: Mapping[str, Any], n: int = 200
) -> Reference:
    """Time all that ``fit`` charges for a task and an optimizer.

    These are ``step`` and ``forward``, and ``hessian`` if the optimizer counts such estimates. A step is timed
    with what the optimizer does beyond it, and counts in its state; that is then taken off: the price of the
    evaluations from each step, and what is left above a plain step, per estimate, is the price of an estimate.

    Args:
        task: what to learn; its batches' size is that of the work.
        tx: the optimizer.
        about: what is timed, by name: model, sizes, data; plain JSON.
        n: steps to time, ≥ 1.

    Raises:
        TypeError: ``n`` is not an integer.
        ValueError: it is less than 1, the task or the optimizer cannot be trained, or every step timed has an
            estimate in it: the price of a step alone is not to be had.
    """
    checks.integer("n", n, ge=1)
    with schedules.spending(0.0):  # the rate makes no difference to the time
        like = jax.eval_shape(lambda: initial_state(task, tx, seed=0))
        check_state(like)
        batch = task.batches(0)
        batch_shapes(batch, "batches(0)")
        step = compile_step(task, tx, like, batch)
        state = initial_state(task, tx, seed=0)
    key = jax.random.key(0)
    forward = jax.jit(lambda params, batch: mean_loss(task.loss(params, batch, key), batch))

    forwards, steps = [], []
    for index in range(_WARM_UP + n):
        batch = jax.block_until_ready(jax.device_put(task.batches(index)))
        _, seconds = _timed(forward, state.params, batch)
        forwards.append(seconds)
        before = _extra_work(state.opt_state)
        (state, _), seconds = _timed(step, state, batch)
        after = _extra_work(state.opt_state)
        steps.append((seconds, {work: count - before[work] for work, count in after.items()}))

    evaluation = _timing(forwards[_WARM_UP:])
    without, estimates = [], []
    for seconds, extra in steps[_WARM_UP:]:
        seconds -= extra.get("forward", 0) * evaluation.seconds
        refreshes = extra.get("hessian", 0)
        (estimates if refreshes else without).append((seconds, refreshes))
    if not without:
        raise ValueError(f"n must reach a step without an estimate of the Hessian, got {n} steps with one each")
    plain = _timing([seconds for seconds, _ in without])
    size = batch_size(batch)
    times = {Work(STEP, batch=size): plain, Work("forward", batch=size): evaluation}
    if estimates:
        above = [(seconds - plain.seconds) / refreshes for seconds, refreshes in estimates]
        times[Work("hessian", batch=size)] = _timing(above)
    return Reference(times=times, about=about)


def _timed(function: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    started = time.perf_counter()
    result = jax.block_until_ready(function(*arguments))
    return result, time.perf_counter() - started


def _timing(samples: Sequence[float]) -> Timing:
    first, median, third = np.quantile(samples, [0.25, 0.5, 0.75]).tolist()
    # To the nanosecond, as a clock counts: a budget of so many prices then is one of so many units.
    return Timing(round(median, 9), round(third - first, 9), len(samples))


def _extra_work(opt_state: Any) -> dict[str, int]:
    return {work: int(count) for work, count in extra_work(opt_state).items()}
