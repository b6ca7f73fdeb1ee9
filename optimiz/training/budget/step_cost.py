"""The price of a step: its own, that of its optimizer's extra work, and that of a pass over candidates."""

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

A wrapper that undoes a step restores the counts with the rest of the state; then only the step itself is
charged.
"""


def extra_work(opt_state: Any) -> dict[str, jax.Array]:
    """The extra work that an optimizer has counted in its state: number of units, by name."""
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
    """The clock after some work; traceable.

    Args:
        clock: the clock before the work.
        price: (work, depth=, batch=) → seconds, such as ``Reference.seconds``.
        work: name of the work.
        batch: number of examples.
        depth: number of layers, if work is charged by it.
        on: number of active layers, an int32 scalar from 1 to ``depth``; None for all.
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
    """The clock after a step between two optimizer states, ``before`` and ``after``; see :func:`charge`."""
    clock = charge(clock, price, STEP, batch=batch, depth=depth, on=on)
    done = extra_work(before)
    for work, count in extra_work(after).items():
        clock = charge(clock, price, work, batch=batch, depth=depth, on=on, times=count - done[work])
    return clock


def least_price(price: Callable[..., float], batch: int, depth: int | None, methods: Methods) -> float:
    """The least price of an update, in seconds: the price of every update, unless their work differs.

    Args:
        price: (work, depth=, batch=) → seconds, such as ``Reference.seconds``.
        batch: number of examples that go into the step.
        depth: number of layers, if work is charged by it.
        methods: which layers and which examples are trained.
    """
    selection = methods.selection
    least_depth = depth if methods.layer_drop is None else 1
    if selection is None:
        return price(STEP, batch=batch, depth=least_depth)
    return price(FORWARD, batch=batch, depth=depth) + price(STEP, batch=selection.batch, depth=least_depth)
