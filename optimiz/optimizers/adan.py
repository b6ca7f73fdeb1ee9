r"""Adan: Nesterov's momentum with a moving average of the gradients' differences, over an adaptive scale.

With :math:`\delta_t = g_t - g_{t-1}` and :math:`\delta_1 = 0`:

.. math::
    m &\leftarrow \beta_1 m + (1 - \beta_1)\, g, \qquad v \leftarrow \beta_2 v + (1 - \beta_2)\, \delta \\
    n &\leftarrow \beta_3 n + (1 - \beta_3)\, (g + \beta_2 \delta)^2 \\
    \theta &\leftarrow \theta - \eta_t \left( \frac{m / (1 - \beta_1^t) + \beta_2\, v / (1 - \beta_2^t)}
        {\sqrt{n / (1 - \beta_3^t) + \epsilon_\text{root}} + \epsilon} + \lambda\, \theta \right)

Source: arXiv 2208.06677 (Xie et al.), Algorithm 1, and the authors' code, which has the bias corrections. The
paper writes 1 - β for each β here.

Departures from the authors' code: decoupled weight decay, which is their option ``no_prox``, instead of the
proximal step θ / (1 + η λ); clipping by the global norm is left to ``optimiz.clip_by_global_norm`` in front.

Departures from ``optax.adan``: the weight of the difference is β₂, as in the paper and in the authors' code,
where Optax's is 1 - β₂; ``eps_root`` is 0 by default, as in both; the state is at least float32; a finite
gradient too large to be squared enters at the largest value that can be; updates in the parameter's dtype;
validation of arguments.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optimiz import checks, numerics
from optimiz.primitives.decoupled_weight_decay import Coupling, decoupled_weight_decay
from optimiz.primitives.scale_by_learning_rate import scale_by_learning_rate


class ScaleByAdanState(NamedTuple):
    """State of :func:`scale_by_adan`."""

    count: jax.Array  # int32 scalar: number of updates so far
    mu: optax.Updates  # m; like the parameters
    delta: optax.Updates  # v; like the parameters
    nu: optax.Updates  # n; like the parameters, real
    grad: optax.Updates  # the last gradient; like the parameters


def scale_by_adan(
    b1: jax.typing.ArrayLike = 0.98,
    b2: jax.typing.ArrayLike = 0.92,
    b3: jax.typing.ArrayLike = 0.99,
    eps: jax.typing.ArrayLike = 1e-8,
    eps_root: jax.typing.ArrayLike = 0.0,
) -> optax.GradientTransformationExtraArgs:
    """Rescale updates by Adan's rule.

    Args:
        b1: β₁ in [0, 1), decay rate of the first moment.
        b2: β₂ in [0, 1), decay rate of the differences' average, and the weight of a difference.
        b3: β₃ in [0, 1), decay rate of the second moment.
        eps: ε ≥ 0, added to the root of the second moment.
        eps_root: ε_root ≥ 0, added to the second moment under the root.

    Returns:
        A transformation that keeps the dtype of its updates.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is outside its domain, or the shape of a gradient differs from that of its
            parameter.

    Example:
        >>> tx = scale_by_adan(0.5, 0.5, 0.0, 0.0)
        >>> updates, state = tx.update(jnp.array([-4.0]), tx.init(jnp.zeros(1)))
        >>> updates.tolist()  # the first direction is the gradient's sign
        [-1.0]
        >>> updates, _ = tx.update(jnp.array([2.0]), state)
        >>> round(float(updates[0]), 4)  # m̂ 0 and δ 6: (0 + 0.5 × 3 / 0.75) / |2 + 0.5 × 6|
        0.4
    """
    checks.number("b1", b1, ge=0, lt=1)
    checks.number("b2", b2, ge=0, lt=1)
    checks.number("b3", b3, ge=0, lt=1, typical=0.99)
    checks.number("eps", eps, ge=0, typical=1e-8)
    checks.number("eps_root", eps_root, ge=0)

    def init_fn(params):
        mu, delta, grad = (jax.tree.map(lambda p: numerics.zero_moment(p, None), params) for _ in range(3))
        nu = jax.tree.map(lambda p: numerics.real_moment(p, None), params)
        return ScaleByAdanState(jnp.zeros([], jnp.int32), mu, delta, nu, grad)

    def update_fn(updates, state, params=None, **extra_args):
        del params, extra_args
        checks.same_shapes("gradient", updates, "parameter", state.mu)
        count = numerics.increment(state.count)
        of_m, of_v, of_n = (numerics.bias_corrections(b, count, updates) for b in (b1, b2, b3))
        has_last = jnp.minimum(state.count, 1)  # 0 at the first update, whose difference is 0

        def leaf(g, mu, delta, nu, last):
            wide = numerics.widen(g)
            real = numerics.real_dtype(g.dtype)
            limited = numerics.squarable(wide)
            difference = has_last.astype(real) * (limited - last)
            m = b1 * mu + (1 - b1) * limited
            v = b2 * delta + (1 - b2) * difference
            n = b3 * nu + (1 - b3) * numerics.limited_square(limited + b2 * difference)
            root = jnp.sqrt(n / of_n[real] + eps_root) + eps
            # Where the root is 0, all gradients were 0, and so are m and v.
            direction = (m / of_m[real] + b2 * v / of_v[real]) / numerics.nonzero_divisor(root, eps)
            state = (new.astype(old.dtype) for new, old in ((m, mu), (v, delta), (n, nu), (limited, last)))
            return direction.astype(g.dtype), *state

        direction, *moments = numerics.map_many(leaf, 5, updates, state.mu, state.delta, state.nu, state.grad)
        return direction, ScaleByAdanState(count, *moments)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def adan(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.98,
    b2: jax.typing.ArrayLike = 0.92,
    b3: jax.typing.ArrayLike = 0.99,
    eps: jax.typing.ArrayLike = 1e-8,
    eps_root: jax.typing.ArrayLike = 0.0,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    mask: Any | Callable[[optax.Params], Any] | None = None,
    *,
    weight_decay_mask: Any | Callable[[optax.Params], Any] | None = None,
    decay_coupling: Coupling = "learning_rate",
) -> optax.GradientTransformationExtraArgs:
    """Adaptive Nesterov momentum.

    Args:
        learning_rate: learning rate η ≥ 0, a number or a schedule of the 0-based update count.
        b1: β₁ in [0, 1), decay rate of the first moment.
        b2: β₂ in [0, 1), decay rate of the differences' average, and the weight of a difference.
        b3: β₃ in [0, 1), decay rate of the second moment.
        eps: ε ≥ 0, added to the root of the second moment.
        eps_root: ε_root ≥ 0, added to the second moment under the root.
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
        >>> tx = adan(0.5, weight_decay=0.5)
        >>> params = jnp.array([1.0])
        >>> updates, _ = tx.update(jnp.array([3.0]), tx.init(params), params)
        >>> updates.round(4).tolist()  # -0.5 × (1 + 0.5 × 1)
        [-0.75]
    """
    return optax.chain(
        scale_by_adan(b1, b2, b3, eps, eps_root),
        decoupled_weight_decay(
            weight_decay,
            checks.either("mask", mask, "weight_decay_mask", weight_decay_mask),
            coupling=decay_coupling,
            learning_rate=learning_rate,
        ),
        scale_by_learning_rate(learning_rate, counted_elsewhere=True),
    )
