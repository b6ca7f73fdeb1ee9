r"""Adam-atan2: AdamW with a bounded function in place of the division, and without ε.

.. math::
    m &\leftarrow \beta_1 m + (1 - \beta_1) g, \qquad v \leftarrow \beta_2 v + (1 - \beta_2) |g|^2 \\
    \theta &\leftarrow \theta - \eta_t \left( a \operatorname{atan2}\!\left(\frac{m}{1 - \beta_1^t},\;
        b \sqrt{\frac{v}{1 - \beta_2^t}}\right) + \lambda\, \theta \right)

The direction does not change if all gradients are scaled, and no entry of it exceeds a π / 2; where m̂ is as
large as the root of v̂, it is a π / 4, which is 1 for a = 1.27.

Source: arXiv 2407.05872 (Everett et al.); a, b and the defaults are those of the package
``adam-atan2-pytorch``.

Departures from the package: complex entries, which keep their angle; those of ``optimiz.scale_by_adam`` (a
float32 second moment for bfloat16 parameters, and a huge gradient does no lasting harm).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optimiz import checks, numerics
from optimiz.primitives.decoupled_weight_decay import Coupling, decoupled_weight_decay
from optimiz.primitives.scale_by_learning_rate import scale_by_learning_rate


class ScaleByAdamAtan2State(NamedTuple):
    """State of :func:`scale_by_adam_atan2`."""

    count: jax.Array  # int32 scalar: number of updates so far
    mu: optax.Updates  # like the parameters
    nu: optax.Updates  # like the parameters, real


def scale_by_adam_atan2(
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.99,
    a: jax.typing.ArrayLike = 1.27,
    b: jax.typing.ArrayLike = 1.0,
) -> optax.GradientTransformationExtraArgs:
    """Rescale updates by Adam-atan2's rule.

    Args:
        b1: β₁ in [0, 1), decay rate of the first moment.
        b2: β₂ in [0, 1), decay rate of the second moment.
        a: a > 0, factor of the direction.
        b: b > 0, factor of the root of the second moment.

    Returns:
        A transformation that keeps the dtype of its updates.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is outside its domain, or the shape of a gradient differs from that of its
            parameter.

    Example:
        >>> tx = scale_by_adam_atan2(a=4 / jnp.pi)
        >>> updates, _ = tx.update(jnp.array([-3.0, 0.0, 1e-8]), tx.init(jnp.zeros(3)))
        >>> updates.round(4).tolist()  # the first direction is the gradient's sign
        [-1.0, 0.0, 1.0]
    """
    checks.number("b1", b1, ge=0, lt=1)
    checks.number("b2", b2, ge=0, lt=1, typical=0.99)
    checks.number("a", a, gt=0)
    checks.number("b", b, gt=0)

    def init_fn(params):
        mu = jax.tree.map(lambda p: numerics.zero_moment(p, None), params)
        nu = jax.tree.map(lambda p: numerics.real_moment(p, None), params)
        return ScaleByAdamAtan2State(jnp.zeros([], jnp.int32), mu, nu)

    def update_fn(updates, state, params=None, **extra_args):
        del params, extra_args
        checks.same_shapes("gradient", updates, "parameter", state.mu)
        count = numerics.increment(state.count)
        of_m, of_v = (numerics.bias_corrections(decay, count, updates) for decay in (b1, b2))

        def leaf(g, mu, nu):
            wide, real = numerics.widen(g), numerics.real_dtype(g.dtype)
            m = b1 * mu + (1 - b1) * numerics.squarable(wide)
            v = b2 * nu + (1 - b2) * numerics.limited_square(wide)
            angle = jnp.arctan2(jnp.abs(m) / of_m[real], b * jnp.sqrt(v / of_v[real]))
            return (a * jnp.sign(m) * angle).astype(g.dtype), m.astype(mu.dtype), v.astype(nu.dtype)

        direction, mu, nu = numerics.map_many(leaf, 3, updates, state.mu, state.nu)
        return direction, ScaleByAdamAtan2State(count, mu, nu)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def adam_atan2(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.99,
    a: jax.typing.ArrayLike = 1.27,
    b: jax.typing.ArrayLike = 1.0,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    mask: Any | Callable[[optax.Params], Any] | None = None,
    *,
    weight_decay_mask: Any | Callable[[optax.Params], Any] | None = None,
    decay_coupling: Coupling = "learning_rate",
) -> optax.GradientTransformationExtraArgs:
    """Adam with an arc tangent in place of the division, and without ε.

    Args:
        learning_rate: learning rate η ≥ 0, a number or a schedule of the 0-based update count; as for AdamW.
        b1: β₁ in [0, 1), decay rate of the first moment.
        b2: β₂ in [0, 1), decay rate of the second moment.
        a: a > 0, factor of the direction.
        b: b > 0, factor of the root of the second moment.
        weight_decay: decoupled weight decay λ ≥ 0, a number or a schedule.
        mask: mask of the parameters that decay, such as ``groups.no_decay()``; None for all.
        weight_decay_mask: alias of ``mask``, under the name that all optimizers share.
        decay_coupling: how the decay scales with the learning rate, see ``optimiz.decoupled_weight_decay``.

    Returns:
        A transformation whose ``update`` needs the parameters if there is weight decay.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is outside its domain, or the shape of a gradient differs from that of its
            parameter.

    Example:
        >>> tx = adam_atan2(0.5, a=4 / jnp.pi, weight_decay=0.5)
        >>> params = jnp.array([1.0])
        >>> updates, _ = tx.update(jnp.array([3.0]), tx.init(params), params)
        >>> updates.round(4).tolist()  # -0.5 × (1 + 0.5 × 1)
        [-0.75]
    """
    return optax.chain(
        scale_by_adam_atan2(b1, b2, a, b),
        decoupled_weight_decay(
            weight_decay,
            checks.either("mask", mask, "weight_decay_mask", weight_decay_mask),
            coupling=decay_coupling,
            learning_rate=learning_rate,
        ),
        scale_by_learning_rate(learning_rate, counted_elsewhere=True),
    )
