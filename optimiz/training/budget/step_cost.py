"""What a step costs: itself, what its optimizer does beyond it, and the look at examples it may choose from."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from optimiz.hyperparams import hyperparams
from optimiz.training.budget.clock import Clock
from optimiz.training.methods.methods import Methods

STEP = "step"
"""The work of a training step: forward, backward and update."""

FORWARD = "forward"
"""The work of one evaluation of the loss."""

HESSIAN = "hessian"
"""The work of one estimate of a Hessian's diagonal."""

EXTRA_WORK = {"evaluations": FORWARD, "estimates": HESSIAN}
"""The cumulative counts that optimizers keep in their state, and the work that each counts.

A wrapper that undoes a step restores the counts with the rest of the state; then the step alone is charged.
"""


def extra_work(opt_state: Any) -> dict[str, jax.Array]:
    """What an optimizer has done beyond its steps, as it counts it in its state: number by unit of work."""
    counts: dict[str, jax.Array] = {}
    for name, count in hyperparams(opt_state).items():
        work = EXTRA_WORK.get(name.rpartition("/")[2])
        if work is not None:
            counts[work] = counts.get(work, jnp.zeros((), jnp.int32)) + jnp.asarray(count)
    return counts


def charge(
    clock: Clock,
    price: Callable[..., float],
    work: str,
    *,
    batch: int,
    depth: int | None,
    on: jax.Array | None = None,
    times: jax.typing.ArrayLike = 1,
) -> Clock:
    """The clock after work; traceable.

    Args:
        clock: before it.
        price: seconds of a unit of work, as ``Reference.seconds``.
        work: its name.
        batch: examples in it.
        depth: number of layers, where work is charged by it.
        on: how many of them are active, int32 scalar from 1 to depth; None for all.
        times: number of units, an integer scalar.

    Raises:
        ValueError: the work has no price.
    """
    if on is None:
        return clock.charge(price(work, batch=batch, depth=depth), times)
    assert depth is not None
    for active in range(1, depth + 1):
        clock = clock.charge(price(work, batch=batch, depth=active), jnp.where(on == active, times, 0))
    return clock


def charge_step(
    clock: Clock,
    before: Any,
    after: Any,
    price: Callable[..., float],
    *,
    batch: int,
    depth: int | None,
    on: jax.Array | None = None,
) -> Clock:
    """The clock after a step that took the optimizer from one state to another; the rest as :func:`charge`."""
    clock = charge(clock, price, STEP, batch=batch, depth=depth, on=on)
    done = extra_work(before)
    for work, count in extra_work(after).items():
        clock = charge(clock, price, work, batch=batch, depth=depth, on=on, times=count - done[work])
    return clock


def least_price(price: Callable[..., float], batch: int, depth: int | None, methods: Methods) -> float:
    """What an update costs at the least, in seconds; all of them cost that, unless their work differs.

    Args:
        price: seconds of a unit of work, as ``Reference.seconds``.
        batch: examples that go into the step.
        depth: number of layers, where work is charged by it.
        methods: which of the layers and examples are trained on.
    """
    selection = methods.selection
    least_depth = depth if methods.layer_drop is None else 1
    if selection is None:
        return price(STEP, batch=batch, depth=least_depth)
    return price(FORWARD, batch=batch, depth=depth) + price(STEP, batch=selection.batch, depth=least_depth)
