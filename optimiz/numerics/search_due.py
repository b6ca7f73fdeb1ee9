"""Rules for when a line search is due, given the searches so far."""

from collections.abc import Callable
from typing import Protocol

import jax
import jax.numpy as jnp

from optimiz import checks


class Searches(Protocol):
    """The searches so far, as in ``ScaleByArmijoState``."""

    @property
    def count(self) -> jax.Array:
        """Number of updates so far."""
        ...

    @property
    def last_search(self) -> jax.Array:
        """Count at the last search."""
        ...

    @property
    def fast(self) -> jax.Array:
        """Moving average over searches of the first step size, over about 10."""
        ...

    @property
    def slow(self) -> jax.Array:
        """The same, over about 100."""
        ...


def search_every(steps: int, first: int = 1) -> Callable[[Searches], jax.Array]:
    """Search at each of the first few updates, and then at every k-th.

    Args:
        steps: number k ≥ 1 of updates from one search to the next.
        first: number of updates at the start that are all searched, ≥ 1.

    Raises:
        TypeError: an argument is not an integer.
        ValueError: an argument is less than 1.

    Example:
        >>> from optimiz import scale_by_armijo
        >>> growth = lambda step_size, due: step_size
        >>> search = {"init_step": 1.0, "shrink": 0.5, "growth": growth, "max_trials": 10}
        >>> tx = scale_by_armijo(0.5, search_due=search_every(3), **search)
        >>> x, state, f = jnp.array(1.0), tx.init(jnp.array(1.0)), lambda x: x**2
        >>> for _ in range(7):
        ...     value, grad = jax.value_and_grad(f)(x)
        ...     _, state = tx.update(grad, state, x, value=value, grad=grad, value_fn=f)
        >>> int(state.searches)  # at updates 0, 3 and 6
        3
    """
    checks.integer("steps", steps, ge=1)
    checks.integer("first", first, ge=1)
    return lambda state: (state.count < first) | (state.count - state.last_search >= steps)


def search_when_changing(cap: float = 10.0, first: int = 10) -> Callable[[Searches], jax.Array]:
    """Search more often, the more the step size changes.

    With r ≥ 1 the ratio of the fast and the slow moving average of the step size, there are min(cap, 1/(r - 1))
    updates from one search to the next. Both averages start near zero, so that about 70 searches pass before r
    is close to 1.

    Args:
        cap: largest number of updates from one search to the next, ≥ 1.
        first: number of updates at the start that are all searched, ≥ 1.

    Raises:
        TypeError: an argument is not a number.
        ValueError: an argument is less than 1.

    Example:
        >>> from optimiz import scale_by_armijo
        >>> state = scale_by_armijo(
        ...     0.5, init_step=1.0, shrink=0.5, growth=max, search_due=max, max_trials=1
        ... ).init(jnp.array(1.0))
        >>> state = state._replace(last_search=jnp.array(10), fast=jnp.array(1.25), slow=jnp.array(1.0))
        >>> due = search_when_changing()
        >>> [bool(due(state._replace(count=jnp.array(count)))) for count in (13, 14)]  # 1 / (1.25 - 1) = 4
        [False, True]

    Source: arXiv 2407.20650.
    """
    checks.number("cap", cap, ge=1)
    checks.integer("first", first, ge=1)

    def due(state):
        ratio = jnp.maximum(state.fast / state.slow, state.slow / state.fast)
        return (state.count < first) | (
            state.count - state.last_search >= jnp.minimum(cap, 1 / (ratio - 1 + 1e-8))
        )

    return due
