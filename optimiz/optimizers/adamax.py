r"""AdaMax: Adam with the decayed largest gradient instead of the root of the second moment.

.. math::
    m &\leftarrow \beta_1 m + (1 - \beta_1) g, \qquad u \leftarrow \max(\beta_2 u,\; |g| + \epsilon) \\
    \theta &\leftarrow \theta - \eta_t \left( \frac{m}{(1 - \beta_1^t)\, u} + \lambda\, \theta \right)

Source: arXiv 1412.6980, section 7.1, which has neither ε nor λ; ε as in PyTorch and Optax. The largest gradient
needs no bias correction.

Departures from ``optax.adamax`` and ``optax.adamaxw``: u is float32 for bfloat16 and float16 parameters unless
another dtype is given (in bfloat16 β₂ = 0.999 is 1, so that Optax's never decays), and both moments keep their
dtypes whatever the gradients'; with ε = 0 a coordinate that has never had a gradient does not move, instead of
0/0; decoupled weight decay in both; updates in the parameter's dtype; validation of arguments.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optimiz import checks, numerics
from optimiz.primitives.decoupled_weight_decay import Coupling, decoupled_weight_decay
from optimiz.primitives.scale_by_learning_rate import scale_by_learning_rate


class ScaleByAdamaxState(NamedTuple):
    """State of :func:`scale_by_adamax`."""

    count: jax.Array  # int32 scalar: number of updates so far
    mu: optax.Updates  # like the parameters
    nu: optax.Updates  # u; like the parameters, real


def scale_by_adamax(
    b1: jax.typing.ArrayLike,
    b2: jax.typing.ArrayLike,
    eps: jax.typing.ArrayLike,
    mu_dtype: jax.typing.DTypeLike | None = None,
    *,
    nu_dtype: jax.typing.DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Rescale updates by AdaMax's rule.

    Args:
        b1: β₁ in [0, 1), decay rate of the first moment.
        b2: β₂ in [0, 1), decay rate of the largest gradient.
        eps: ε ≥ 0, added to each gradient's magnitude.
        mu_dtype: dtype of the first moment; None for the parameters' dtype.
        nu_dtype: dtype of the largest gradient; None for the parameters' dtype, at least float32.

    Returns:
        A transformation that keeps the dtype of its updates.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is outside its domain, or a gradient has another shape than its parameter.

    Example:
        >>> tx = scale_by_adamax(0.5, 0.5, 0.0)
        >>> updates, state = tx.update(jnp.array([-4.0]), tx.init(jnp.zeros(1)))
        >>> updates.round(4).tolist(), state.nu.tolist()
        ([-1.0], [4.0])
    """
    checks.floating("mu_dtype", mu_dtype)
    checks.number("b1", b1, ge=0, lt=1)
    checks.number("b2", b2, ge=0, lt=1, typical=0.999)
    checks.number("eps", eps, ge=0, typical=1e-8)

    def init_fn(params):
        mu = optax.tree.zeros_like(params, dtype=mu_dtype)
        nu = jax.tree.map(lambda p: numerics.real_moment(p, nu_dtype), params)
        return ScaleByAdamaxState(jnp.zeros([], jnp.int32), mu, nu)

    def update_fn(updates, state, params=None, **extra_args):
        del params, extra_args
        checks.same_shapes("gradient", updates, "parameter", state.mu)
        count = numerics.increment(state.count)

        of_m = numerics.bias_corrections(b1, count, updates)

        def leaf(g, mu, nu):
            wide = numerics.widen(g)
            real = numerics.real_dtype(g.dtype)
            m = b1 * mu.astype(wide.dtype) + (1 - b1) * wide
            u = jnp.maximum(b2 * nu.astype(real), jnp.abs(wide) + eps)
            # Divided by u first: m divided by the correction alone may overflow.
            direction = m / numerics.nonzero_divisor(u) / of_m[real]
            return direction.astype(g.dtype), m.astype(mu.dtype), u.astype(nu.dtype)

        direction, mu, nu = numerics.map_many(leaf, 3, updates, state.mu, state.nu)
        return direction, ScaleByAdamaxState(count, mu, nu)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def adamax(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
    *,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    weight_decay_mask: Any | Callable[[optax.Params], Any] | None = None,
    decay_coupling: Coupling = "learning_rate",
    mu_dtype: jax.typing.DTypeLike | None = None,
    nu_dtype: jax.typing.DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Adam scaled by the largest recent gradient.

    Args:
        learning_rate: learning rate η ≥ 0, a number or a schedule of the 0-based update count.
        b1: β₁ in [0, 1), decay rate of the first moment.
        b2: β₂ in [0, 1), decay rate of the largest gradient.
        eps: ε ≥ 0, added to each gradient's magnitude.
        weight_decay: decoupled weight decay λ ≥ 0, a number or a schedule.
        weight_decay_mask: mask of the parameters that decay, such as ``groups.no_decay()``; None for all.
        decay_coupling: how the decay scales with the learning rate, see ``optimiz.decoupled_weight_decay``.
        mu_dtype: dtype of the first moment; None for the parameters' dtype.
        nu_dtype: dtype of the largest gradient; None for the parameters' dtype, at least float32.

    Returns:
        A transformation whose ``update`` needs the parameters if there is weight decay.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is outside its domain, or a gradient has another shape than its parameter.

    Example:
        >>> tx = adamax(0.75, b1=0.5, b2=0.5)
        >>> state = tx.init(jnp.zeros(1))
        >>> for g in (8.0, 0.0):  # m 4, then 2; u 8, then 4; -0.75 × 2 / (0.75 × 4)
        ...     updates, state = tx.update(jnp.array([g]), state)
        >>> updates.round(4).tolist()
        [-0.5]
    """
    return optax.chain(
        scale_by_adamax(b1, b2, eps, mu_dtype, nu_dtype=nu_dtype),
        decoupled_weight_decay(
            weight_decay, weight_decay_mask, coupling=decay_coupling, learning_rate=learning_rate
        ),
        scale_by_learning_rate(learning_rate, counted_elsewhere=True),
    )


def adamaxw(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
    weight_decay: optax.ScalarOrSchedule = 1e-4,
    mask: Any | Callable[[optax.Params], Any] | None = None,
    *,
    weight_decay_mask: Any | Callable[[optax.Params], Any] | None = None,
    decay_coupling: Coupling = "learning_rate",
    mu_dtype: jax.typing.DTypeLike | None = None,
    nu_dtype: jax.typing.DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """AdaMax with decoupled weight decay, with the signature of ``optax.adamaxw``.

    Args:
        learning_rate: learning rate η ≥ 0, a number or a schedule of the 0-based update count.
        b1: β₁ in [0, 1), decay rate of the first moment.
        b2: β₂ in [0, 1), decay rate of the largest gradient.
        eps: ε ≥ 0, added to each gradient's magnitude.
        weight_decay: decoupled weight decay λ ≥ 0, a number or a schedule.
        mask: mask of the parameters that decay, such as ``groups.no_decay()``; None for all.
        weight_decay_mask: alias of ``mask``, under the name that all optimizers share.
        decay_coupling: how the decay scales with the learning rate, see ``optimiz.decoupled_weight_decay``.
        mu_dtype: dtype of the first moment; None for the parameters' dtype.
        nu_dtype: dtype of the largest gradient; None for the parameters' dtype, at least float32.

    Returns:
        A transformation whose ``update`` needs the parameters if there is weight decay.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is outside its domain, or a gradient has another shape than its parameter.

    Example:
        >>> tx = adamaxw(0.5, weight_decay=0.5)
        >>> params = jnp.array([1.0])
        >>> updates, _ = tx.update(jnp.array([3.0]), tx.init(params), params)
        >>> updates.round(4).tolist()  # -0.5 × (1 + 0.5 × 1)
        [-0.75]
    """
    return adamax(
        learning_rate,
        b1,
        b2,
        eps,
        weight_decay=weight_decay,
        weight_decay_mask=checks.either("mask", mask, "weight_decay_mask", weight_decay_mask),
        decay_coupling=decay_coupling,
        mu_dtype=mu_dtype,
        nu_dtype=nu_dtype,
    )
