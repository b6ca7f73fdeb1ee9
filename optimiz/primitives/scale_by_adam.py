r"""Adam's direction: the first moment over the root of the second, both with bias correction.

.. math::
    m &\leftarrow \beta_1 m + (1 - \beta_1) g, \qquad \hat m = m / (1 - \beta_1^t) \\
    v &\leftarrow \beta_2 v + (1 - \beta_2) |g|^2, \qquad \hat v = v / (1 - \beta_2^t) \\
    d &= \hat m \,/\, (\sqrt{\hat v + \epsilon_\text{root}} + \epsilon)

Source: arXiv 1412.6980. With ``nesterov``, Dozat (2016): :math:`\hat m` is looked up one step ahead.

Departures from ``optax.scale_by_adam``: the arithmetic, and the second moment unless another dtype is given,
are float32 for bfloat16 and float16 parameters (in bfloat16 β₂ = 0.999 is 1, so that Optax's second moment
never decays); both moments keep their dtypes whatever the gradients'; a finite gradient too large to be squared
enters at the largest value that can be, instead of making v infinite for good; with ε = 0 a coordinate that has
never had a gradient does not move, instead of 0/0; a gradient of the wrong shape is refused.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from optimiz import checks, numerics


class ScaleByAdamState(NamedTuple):
    """State of :func:`scale_by_adam`."""

    count: jax.Array  # int32 scalar: updates made so far
    mu: optax.Updates  # like the parameters
    nu: optax.Updates  # like the parameters, real


def scale_by_adam(
    b1: jax.typing.ArrayLike,
    b2: jax.typing.ArrayLike,
    eps: jax.typing.ArrayLike,
    eps_root: jax.typing.ArrayLike = 0.0,
    mu_dtype: jax.typing.DTypeLike | None = None,
    *,
    nesterov: bool = False,
    nu_dtype: jax.typing.DTypeLike | None = None,
    for_search: bool = False,
) -> optax.GradientTransformationExtraArgs:
    r"""Rescale updates by Adam's moments.

    Args:
        b1: β₁ in [0, 1), decay rate of the first moment.
        b2: β₂ in [0, 1), decay rate of the second moment.
        eps: ε ≥ 0, added to the root of the second moment.
        eps_root: ε_root ≥ 0, added to the second moment under the root.
        mu_dtype: dtype of the first moment; None for the parameters' dtype.
        nesterov: whether to use Nesterov's momentum.
        nu_dtype: dtype of the second moment; None for the parameters' dtype, at least float32.
        for_search: whether to return two directions for :func:`scale_by_armijo`: next to the direction to
            move along, one to search along, with g instead of :math:`\hat m`, whose slope is never negative.

    Returns:
        A transformation that keeps its updates' dtype.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is outside its domain, or a gradient has another shape than its parameter.

    Example:
        >>> tx = scale_by_adam(0.9, 0.999, 0.0)
        >>> params = jnp.zeros(2)
        >>> updates, _ = tx.update(jnp.array([3.0, -0.5]), tx.init(params), params)
        >>> updates.round(6).tolist()  # the first direction is the gradient's sign
        [1.0, -1.0]
    """
    checks.floating("mu_dtype", mu_dtype)
    checks.number("b1", b1, ge=0, lt=1)
    checks.number("b2", b2, ge=0, lt=1, typical=0.999)
    checks.number("eps", eps, ge=0, typical=1e-8)
    checks.number("eps_root", eps_root, ge=0)

    def init_fn(params):
        mu = optax.tree.zeros_like(params, dtype=mu_dtype)
        nu = jax.tree.map(lambda p: numerics.real_moment(p, nu_dtype), params)
        return ScaleByAdamState(jnp.zeros([], jnp.int32), mu, nu)

    def update_fn(updates, state, params=None, **extra_args):
        del params, extra_args
        checks.same_shapes("gradient", updates, "parameter", state.mu)
        count = numerics.increment(state.count)

        of_m = numerics.bias_corrections(b1, count, updates)
        of_next = of_m
        if nesterov:
            of_next = numerics.bias_corrections(b1, numerics.increment(count), updates)
        of_v = numerics.bias_corrections(b2, count, updates)

        def leaf(g, mu, nu):
            wide = numerics.widen(g)
            limited = numerics.squarable(wide)
            real = numerics.real_dtype(g.dtype)
            m = b1 * mu.astype(wide.dtype) + (1 - b1) * limited
            v = b2 * nu.astype(real) + (1 - b2) * numerics.limited_square(wide)
            m_hat = b1 * m / of_next[real] + (1 - b1) * limited / of_m[real] if nesterov else m / of_m[real]
            root = jnp.sqrt(v / of_v[real] + eps_root) + eps
            # Where the root is 0, all gradients were 0, and so is m.
            scale = numerics.nonzero_divisor(root, eps)
            direction = (m_hat / scale).astype(g.dtype)
            search = (limited / scale).astype(g.dtype) if for_search else direction
            return direction, search, m.astype(mu.dtype), v.astype(nu.dtype)

        direction, search, mu, nu = numerics.map_many(leaf, 4, updates, state.mu, state.nu)
        directions = numerics.Directions(search, direction) if for_search else direction
        return directions, ScaleByAdamState(count, mu, nu)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
