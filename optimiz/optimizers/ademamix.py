r"""AdEMAMix: AdamW with a second, much slower moving average of the gradients.

.. math::
    m &\leftarrow \beta_1 m + (1 - \beta_1)\, g, \qquad s \leftarrow \beta_3 s + (1 - \beta_3)\, g, \qquad
        v \leftarrow \beta_2 v + (1 - \beta_2) |g|^2 \\
    \theta &\leftarrow \theta - \eta_t \left( \frac{m / (1 - \beta_1^t) + \alpha\, s}
        {\sqrt{v / (1 - \beta_2^t) + \epsilon_\text{root}} + \epsilon} + \lambda\, \theta \right)

s has no bias correction. Over a warm-up of W steps, α rises in proportion to t, and β₃ from β₁ such that its
half-life rises in proportion to t; a slow average at full strength from the beginning can diverge. W is the
length of the run in the paper.

Source: arXiv 2409.03137 (Pagliardini, Ablin and Grangier) and the authors' code.

Departures from the authors' code: one warm-up for both; those of ``optimiz.scale_by_adam`` (float32 averages
for bfloat16 parameters; a huge gradient does no lasting harm; with ε = 0 a coordinate without gradients does
not move).

Departures from ``optax.contrib.ademamix``: the warm-up, for which Optax takes schedules; α is 2 by default, as
in the authors' code; averages in float32; updates in the parameter's dtype; validation of arguments.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optimiz import checks, numerics
from optimiz.primitives.decoupled_weight_decay import Coupling, decoupled_weight_decay
from optimiz.primitives.scale_by_learning_rate import scale_by_learning_rate


class ScaleByAdemamixState(NamedTuple):
    """State of :func:`scale_by_ademamix`."""

    count: jax.Array  # int32 scalar: number of updates so far
    mu: optax.Updates  # m; like the parameters, at least float32
    slow: optax.Updates  # s; likewise
    nu: optax.Updates  # v; likewise, real


def scale_by_ademamix(
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    b3: jax.typing.ArrayLike = 0.9999,
    alpha: jax.typing.ArrayLike = 2.0,
    eps: jax.typing.ArrayLike = 1e-8,
    eps_root: jax.typing.ArrayLike = 0.0,
    *,
    warmup_steps: int = 0,
) -> optax.GradientTransformationExtraArgs:
    """Rescale updates by AdEMAMix's rule.

    Args:
        b1: β₁ in [0, 1), decay rate of the first moment.
        b2: β₂ in [0, 1), decay rate of the second moment.
        b3: β₃ in [0, 1), decay rate of the slow average.
        alpha: α ≥ 0, weight of the slow average.
        eps: ε ≥ 0, added to the root of the second moment.
        eps_root: ε_root ≥ 0, added to the second moment under the root.
        warmup_steps: number W ≥ 0 of updates over which α and β₃ rise to their values.

    Returns:
        A transformation that keeps the dtype of its updates.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is outside its domain, or the shape of a gradient differs from that of its
            parameter.

    Example:
        >>> tx = scale_by_ademamix(b3=0.5, alpha=3.0, eps=0.0)
        >>> updates, _ = tx.update(jnp.array([-4.0]), tx.init(jnp.zeros(1)))
        >>> updates.round(4).tolist()  # -1 of Adam, and 3 × 0.5 × -1
        [-2.5]
    """
    checks.number("b1", b1, ge=0, lt=1)
    checks.number("b2", b2, ge=0, lt=1, typical=0.999)
    checks.number("b3", b3, ge=0, lt=1, typical=0.9999)
    checks.number("alpha", alpha, ge=0)
    checks.number("eps", eps, ge=0, typical=1e-8)
    checks.number("eps_root", eps_root, ge=0)
    checks.integer("warmup_steps", warmup_steps, ge=0)

    def init_fn(params):
        mu, slow = (jax.tree.map(lambda p: numerics.zero_moment(p, None), params) for _ in range(2))
        nu = jax.tree.map(lambda p: numerics.real_moment(p, None), params)
        return ScaleByAdemamixState(jnp.zeros([], jnp.int32), mu, slow, nu)

    def slow_average(count, dtype):
        """α, and the logarithm of β₃, at an update."""
        if not warmup_steps:
            return jnp.asarray(alpha, dtype), jnp.log(jnp.asarray(b3, dtype))
        share = jnp.minimum(count.astype(dtype) / warmup_steps, 1)
        begin, end = (_half_life(b, dtype) for b in (b1, b3))
        rising = math.log(0.5) / (begin + share * (end - begin) + 1)
        # The last value is exact.
        return share * alpha, jnp.where(share < 1, rising, jnp.log(jnp.asarray(b3, dtype)))

    def update_fn(updates, state, params=None, **extra_args):
        del params, extra_args
        checks.same_shapes("gradient", updates, "parameter", state.mu)
        count = numerics.increment(state.count)
        of_m, of_v = (numerics.bias_corrections(b, count, updates) for b in (b1, b2))

        def leaf(g, mu, slow, nu):
            wide, real = numerics.widen(g), numerics.real_dtype(g.dtype)
            limited = numerics.squarable(wide)
            weight, log_decay = slow_average(count, real)
            m = b1 * mu + (1 - b1) * limited
            s = jnp.exp(log_decay) * slow - jnp.expm1(log_decay) * limited
            v = b2 * nu + (1 - b2) * numerics.limited_square(wide)
            root = jnp.sqrt(v / of_v[real] + eps_root) + eps
            # Where the root is 0, all gradients were 0, and so are the averages.
            direction = (m / of_m[real] + weight * s) / numerics.nonzero_divisor(root, eps)
            state = (new.astype(old.dtype) for new, old in ((m, mu), (s, slow), (v, nu)))
            return direction.astype(g.dtype), *state

        direction, *moments = numerics.map_many(leaf, 4, updates, state.mu, state.slow, state.nu)
        return direction, ScaleByAdemamixState(count, *moments)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _half_life(b: jax.typing.ArrayLike, dtype: Any) -> jax.Array:
    """The half-life of an average, less one step; as in the authors' code, also of b = 0."""
    return math.log(0.5) / jnp.log(jnp.asarray(b, dtype) + jnp.asarray(1e-8, dtype)) - 1


def ademamix(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    b3: jax.typing.ArrayLike = 0.9999,
    alpha: jax.typing.ArrayLike = 2.0,
    eps: jax.typing.ArrayLike = 1e-8,
    eps_root: jax.typing.ArrayLike = 0.0,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    mask: Any | Callable[[optax.Params], Any] | None = None,
    *,
    warmup_steps: int = 0,
    weight_decay_mask: Any | Callable[[optax.Params], Any] | None = None,
    decay_coupling: Coupling = "learning_rate",
) -> optax.GradientTransformationExtraArgs:
    """AdamW with a second, slow average of the gradients.

    Args:
        learning_rate: learning rate η ≥ 0, a number or a schedule of the 0-based update count.
        b1: β₁ in [0, 1), decay rate of the first moment.
        b2: β₂ in [0, 1), decay rate of the second moment.
        b3: β₃ in [0, 1), decay rate of the slow average.
        alpha: α ≥ 0, weight of the slow average.
        eps: ε ≥ 0, added to the root of the second moment.
        eps_root: ε_root ≥ 0, added to the second moment under the root.
        weight_decay: decoupled weight decay λ ≥ 0, a number or a schedule.
        mask: mask of the parameters that decay, such as ``groups.no_decay()``; None for all.
        warmup_steps: number W ≥ 0 of updates over which α and β₃ rise to their values, in the paper all of the
            run; 0 for none.
        weight_decay_mask: alias of ``mask``, under the name that all optimizers share.
        decay_coupling: how the decay scales with the learning rate, see ``optimiz.decoupled_weight_decay``.

    Returns:
        A transformation whose ``update`` needs the parameters if there is weight decay.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is outside its domain, or the shape of a gradient differs from that of its
            parameter.

    Example:
        >>> tx = ademamix(0.5, alpha=0.0, weight_decay=0.5)
        >>> params = jnp.array([1.0])
        >>> updates, _ = tx.update(jnp.array([3.0]), tx.init(params), params)
        >>> updates.round(4).tolist()  # -0.5 × (1 + 0.5 × 1)
        [-0.75]
    """
    return optax.chain(
        scale_by_ademamix(b1, b2, b3, alpha, eps, eps_root, warmup_steps=warmup_steps),
        decoupled_weight_decay(
            weight_decay,
            checks.either("mask", mask, "weight_decay_mask", weight_decay_mask),
            coupling=decay_coupling,
            learning_rate=learning_rate,
        ),
        scale_by_learning_rate(learning_rate, counted_elsewhere=True),
    )
