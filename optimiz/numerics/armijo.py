r"""Armijo's rule: a step is long enough to be worth it if the loss falls by a share of what the slope promises.

With loss f, gradient g and a direction of descent -d, the slope is s = ⟨g, d⟩ and a step η is accepted if

.. math:: f(w) - f(w - \eta d) \ge c \, \eta \, s

On mini-batches both sides are noisy. SaLSa smooths them, H over the decreases of accepted steps and S over the
slopes, and asks for :math:`\beta H + (1 - \beta)\,(f(w) - f(w - \eta d)) \ge c\,\eta\,S`; β = 0 is Armijo's rule.

Source: Armijo (1966); arXiv 1905.09997 (stochastic); arXiv 2407.20650 (smoothed).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Directions(NamedTuple):
    """What a line search is given in place of one tree of updates, both with the sign of the gradient.

    Attributes:
        search: along which step sizes are tried; a direction whose negative descends.
        step: along which the parameters move, once a step size is found.
    """

    search: Any
    step: Any


def smoothed(average: jax.Array, value: jax.Array, beta: jax.typing.ArrayLike) -> jax.Array:
    """One step of an exponential moving average from zero, without correction of its start.

    The correction would divide both sides of the rule by the same number.

    Example:
        >>> float(smoothed(jnp.float32(2.0), jnp.float32(4.0), 0.5))
        3.0
    """
    return beta * average + (1 - beta) * value


def sufficient_decrease(
    decrease: jax.Array,
    slope: jax.Array,
    step_size: jax.Array,
    c: jax.typing.ArrayLike,
    tolerance: jax.typing.ArrayLike = 0.0,
) -> jax.Array:
    """Whether a step's decrease is at least the share c of what the slope promises.

    Args:
        decrease: f(w) - f(w - η d), or its moving average; a decrease that is not finite is refused.
        slope: s = ⟨g, d⟩, or its moving average.
        step_size: η.
        c: in (0, 1).
        tolerance: how far rounding may have moved the decrease.

    Returns:
        A bool of the arguments' shape.

    Example:
        >>> # f = x² at x = 1 along its gradient 2: f falls by 0.75 with η = 1/4, and by 0 with η = 1.
        >>> sufficient_decrease(jnp.array([0.75, 0.0]), jnp.array(4.0), jnp.array([0.25, 1.0]), 0.5).tolist()
        [True, False]
    """
    return jnp.isfinite(decrease) & (decrease + tolerance >= c * step_size * slope)


def largest_on_parabola(decrease: jax.Array, slope: jax.Array, step_size: jax.Array, c: float) -> jax.Array:
    r"""The largest step that Armijo's rule accepts on the parabola through what is known of the loss.

    The parabola has the slope -s at 0 and has fallen by h at η, so that its curvature is
    :math:`\kappa = 2 (\eta s - h) / \eta^2`; the rule holds up to :math:`2 (1 - c)\, s / \kappa`.

    Args:
        decrease: h at the tried step.
        slope: s > 0.
        step_size: η > 0, the tried step.
        c: in (0, 1).

    Returns:
        The step size: infinite where the parabola is not convex, NaN where ``decrease`` is.

    Example:
        >>> # f = 2 x² at x = 1, tried with η = 1: f rises by 16, and 2 (1 - c) / 4 = 0.375 is the largest.
        >>> float(largest_on_parabola(jnp.array(-16.0), jnp.array(16.0), jnp.array(1.0), 0.25))
        0.375
    """
    excess = step_size * slope - decrease
    return jnp.where(excess > 0, (1 - c) * slope * jnp.square(step_size) / excess, jnp.where(jnp.isnan(excess), excess, jnp.inf))
