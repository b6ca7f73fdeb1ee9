r"""Two blocks of chosen gradient and curvature, and the steps that gradient and sign descent need.

.. math::
    f(x) = \tfrac12 \sum_b \lambda_b x_b^2, \qquad x_b = n_b / \lambda_b \text{ at the start}

so that block b, of one parameter, starts with a gradient of norm n_b and always has curvature λ_b. The rate
decays linearly to zero. The steps needed are the smallest number of a grid for which f ends at no more than a
hundredth of its start, at the best peak rate of another grid.
"""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optimiz
from optimiz import schedules

STEPS = sorted({round(2 ** (i / 2)) for i in range(23)})  # up to 2048, by factors of √2
RATES = np.logspace(-5, 2, 141, dtype=np.float32)  # twenty per decade
TARGET = 0.01
CELLS = list(itertools.product((0.1, 1.0, 10.0, 100.0), (1.0, 10.0, 100.0)))  # norm and curvature


@functools.partial(jax.jit, static_argnames="optimizer")
def _ends(norms: jax.Array, curvatures: jax.Array, steps: jax.Array, *, optimizer: Any) -> jax.Array:
    """The smallest ratio of the final f to the initial f, over the grid of rates."""

    def loss(x: jax.Array) -> jax.Array:
        return jnp.sum(curvatures * x**2) / 2

    def end(rate: jax.Array) -> jax.Array:
        tx = optimizer(lambda step: rate * schedules.linear(1.0)(step / steps))

        def step(_: int, carry: tuple[jax.Array, Any]) -> tuple[jax.Array, Any]:
            x, state = carry
            updates, state = tx.update(jax.grad(loss)(x), state, x)
            return optax.apply_updates(x, updates), state

        start = norms / curvatures
        x, _ = jax.lax.fori_loop(0, steps, step, (start, tx.init(start)))
        return loss(x) / loss(start)

    return jnp.nanmin(jax.vmap(end)(jnp.asarray(RATES)))


def steps_needed(norms: tuple[float, float], curvatures: tuple[float, float], optimizer: Any) -> int | None:
    """Count the steps that an optimizer needs.

    Args:
        norms: initial gradient norms n_b > 0.
        curvatures: curvatures λ_b > 0.
        optimizer: schedule → transformation.

    Returns:
        The smallest of ``STEPS`` that suffices; None if none does.
    """
    for steps in STEPS:
        end = _ends(jnp.array(norms), jnp.array(curvatures), jnp.array(steps), optimizer=optimizer)
        if end <= TARGET:
            return steps
    return None


def measure(norm: float, curvature: float) -> dict[str, float | None]:
    """Compare the two methods on a block of norm 1 and curvature 1 next to one with the given values.

    Returns:
        The values, the steps of each method, and the curvature weighted by squared gradients and by sizes.
    """
    norms, curvatures = (1.0, norm), (1.0, curvature)
    return {
        "norm": norm,
        "curvature": curvature,
        "gradient_weighted": (1 + norm**2 * curvature) / (1 + norm**2),
        "size_weighted": (1 + curvature) / 2,
        "sgd": steps_needed(norms, curvatures, optimiz.sgd),
        "sign_sgd": steps_needed(norms, curvatures, optimiz.sign_sgd),
    }
