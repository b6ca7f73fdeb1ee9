r"""Armijo's rule: a step is accepted if the loss falls by at least a fraction of what the slope predicts.

With loss f, gradient g and a direction of descent -d, the slope is s = ⟨g, d⟩, and a step size η is accepted if

.. math:: f(w) - f(w - \eta d) \ge c \, \eta \, s

On mini-batches both sides are noisy. SaLSa smooths them: with H an average over the decreases of accepted steps
and S one over slopes, it asks for :math:`\beta H + (1 - \beta)\,(f(w) - f(w - \eta d)) \ge c\,\eta\,S`.

Source: Armijo (1966); arXiv 1905.09997 (stochastic); arXiv 2407.20650 (smoothed).
"""

import jax
import jax.numpy as jnp


def smoothed(average: jax.Array, value: jax.Array, beta: jax.typing.ArrayLike) -> jax.Array:
    """One step of an exponential moving average from zero, without bias correction.

    The correction would multiply both sides of Armijo's rule by the same number.

    Example:
        >>> float(smoothed(jnp.float32(2.0), jnp.float32(4.0), 0.75))
        2.5
    """
    return jnp.asarray(beta * average + (1 - beta) * value)


def sufficient_decrease(
    decrease: jax.Array,
    slope: jax.Array,
    step_size: jax.Array,
    c: jax.typing.ArrayLike,
    tolerance: jax.typing.ArrayLike = 0.0,
) -> jax.Array:
    """Whether a decrease is at least the fraction c of what the slope predicts.

    Args:
        decrease: f(w) - f(w - η d), or its average; not sufficient if it is not finite.
        slope: s = ⟨g, d⟩, or its average.
        step_size: step size η.
        c: required fraction of the predicted decrease, in (0, 1).
        tolerance: largest rounding error of the decrease.

    Returns:
        A boolean array of the arguments' shape.

    Example:
        >>> # f = x² at x = 1 along its gradient: f falls by 3/4 with η = 1/4, and not at all with η = 1.
        >>> sufficient_decrease(jnp.array([0.75, 0.0]), jnp.array(4.0), jnp.array([0.25, 1.0]), 0.5).tolist()
        [True, False]
    """
    return jnp.isfinite(decrease) & (decrease + tolerance >= c * step_size * slope)


def grow_each_step(step_size: jax.Array, due: jax.Array, *, factor: float) -> jax.Array:
    """Propose the next step size: larger at every step, searched or not.

    Args:
        step_size: step size of the last step, any shape.
        due: whether this step is searched.
        factor: growth factor ≥ 1.
    """
    del due
    return step_size * factor


def grow_each_search(step_size: jax.Array, due: jax.Array, *, factor: float) -> jax.Array:
    """Propose the next step size: larger at a search, unchanged in between.

    Args:
        step_size: step size of the last step, any shape.
        due: whether this step is searched.
        factor: growth factor ≥ 1.

    Example:
        >>> grow_each_search(jnp.array(2.0), jnp.array([True, False]), factor=1.5).tolist()
        [3.0, 2.0]
    """
    return jnp.where(due, jnp.asarray(factor, step_size.dtype), 1) * step_size
