"""The search: decrease the step size until it is accepted, or increase it while it is.

The loss and the rule are functions of the step size.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from optimiz.numerics.control_flow import while_loop


class Found(NamedTuple):
    """The result of a search."""

    step_size: jax.Array  # the accepted one; without one, the step size after the last rejection
    decrease: jax.Array  # averaged decrease at the accepted step size; 0 without one
    trials: jax.Array  # int32: number of trials
    accepted: jax.Array  # bool: whether a step size was accepted


@jax.custom_jvp
def multiple_of(start: jax.Array, step_size: jax.Array) -> jax.Array:
    """The step size that a search has found, differentiated as a constant multiple of its start.

    That is its derivative, except where a trial is at the boundary of acceptance. A loop with an unknown number
    of iterations has no reverse-mode derivative of its own.

    Args:
        start: step size η > 0 at which the search began.
        step_size: step size that it found.

    Example:
        >>> jax.grad(multiple_of)(2.0, 0.5).item()
        0.25
    """
    del start
    return step_size


@multiple_of.defjvp
def _(primals: Any, tangents: Any) -> Any:
    start, step_size = primals
    return step_size, step_size / start * tangents[0]


def untried(start: jax.Array) -> Found:
    """The result before the first trial."""
    return Found(start, jnp.zeros_like(start), jnp.zeros([], jnp.int32), jnp.zeros([], bool))


def line_search(
    average_decrease: Callable[[jax.Array], jax.Array],
    accepts: Callable[[jax.Array, jax.Array], jax.Array],
    start: jax.Array,
    *,
    max_trials: int,
    shrink: jax.typing.ArrayLike,
    expand: jax.typing.ArrayLike,
    expanding: jax.Array,
    min_step: float,
    max_step: float,
) -> Found:
    """Shrink the step size until it is accepted, or expand it until it is not.

    Args:
        average_decrease: function from a step size to the decrease of the loss, or an average of it; a trial.
        accepts: function from decrease and step size to whether the decrease is sufficient.
        start: first step size to try, η > 0, a scalar.
        max_trials: maximum number of trials, ≥ 1.
        shrink: factor in (0, 1) for a step size that is rejected.
        expand: factor ≥ 1 for a step size that is accepted, while ``expanding``.
        expanding: whether to continue after a trial is accepted.
        min_step: lower bound, ≥ 0, at which the search ends.
        max_step: upper bound, > 0, of an expansion.

    Returns:
        The last step size that was accepted, with the number of trials.

    Example:
        >>> def search(start, expanding):  # f = x² at x = 1 along its gradient falls by 4 η (1 - η)
        ...     return line_search(
        ...         lambda step_size: 4 * step_size * (1 - step_size),
        ...         lambda decrease, step_size: decrease >= 0.5 * step_size * 4,  # η ≤ 1/2
        ...         jnp.float32(start),
        ...         max_trials=10,
        ...         shrink=0.5,
        ...         expand=2.0,
        ...         expanding=jnp.array(expanding),
        ...         min_step=1e-10,
        ...         max_step=10.0,
        ...     )
        >>> [x.item() for x in search(1.0, False)]  # 1, and then 1/2
        [0.5, 1.0, 2, True]
        >>> [x.item() for x in search(0.125, True)]  # 1/8, 1/4, 1/2, and then 1
        [0.5, 1.0, 4, True]
    """

    def goes_on(carry):
        _, found, done = carry
        return ~done & (found.trials < max_trials)

    def trial(carry):
        step_size, best, _ = carry
        decrease = average_decrease(step_size)
        accepted = accepts(decrease, step_size)
        larger, smaller = step_size * expand, step_size * shrink
        found = Found(
            jnp.where(accepted, step_size, jnp.where(best.accepted, best.step_size, smaller)),
            jnp.where(accepted, decrease, best.decrease),
            best.trials + 1,
            accepted | best.accepted,
        )
        at_end = jnp.where(accepted, ~expanding | (larger > max_step), best.accepted | (smaller < min_step))
        return jnp.where(accepted, larger, smaller), found, at_end

    return while_loop(goes_on, trial, (start, untried(start), jnp.zeros([], bool)))[1]
