r"""Lion: the sign of an interpolation between momentum and gradient, found by symbolic search.

.. math::
    d &= \operatorname{sign}(\beta_1 m + (1 - \beta_1) g) \\
    \theta &\leftarrow \theta - \eta_t (d + \lambda\, \theta) \\
    m &\leftarrow \beta_2 m + (1 - \beta_2) g, \qquad m_0 = 0

The direction uses the momentum before its update. If β₁ ≤ β₂ it is computed from the new momentum, which is the
same up to rounding. For real parameters.

Source: arXiv 2302.06675 (Chen et al.). The scaling of the step by each parameter's root mean square is that of
the T5 experiments of arXiv 2307.06440.

Departures from ``optax.lion``: float32 momentum for bfloat16 parameters unless another dtype is given; updates
in the parameter's dtype; validation of arguments; smooth variants of the sign; scaling by the parameter.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optimiz import checks, numerics
from optimiz.primitives.decoupled_weight_decay import Coupling, decoupled_weight_decay
from optimiz.primitives.scale_by_learning_rate import scale_by_learning_rate


class ScaleByLionState(NamedTuple):
    """State of :func:`scale_by_lion`."""

    mu: optax.Updates  # like the parameters


def scale_by_lion(
    b1: jax.typing.ArrayLike,
    b2: jax.typing.ArrayLike,
    mu_dtype: jax.typing.DTypeLike | None = None,
    *,
    mode: Literal["hard", "smooth", "refined"] = "hard",
    smooth_beta: float = 1.0,
) -> optax.GradientTransformationExtraArgs:
    """Rescale updates by Lion's rule.

    Args:
        b1: β₁ in [0, 1), weight of the momentum in the direction.
        b2: β₂ in [0, 1), decay rate of the momentum.
        mu_dtype: dtype of the momentum; None for the parameters' dtype, at least float32.
        mode: function from the interpolation x to the direction: ``"hard"`` for its sign, ``"smooth"`` for
            tanh(smooth_beta x), ``"refined"`` for x inside (-1, 1) and its sign outside.
        smooth_beta: steepness of the smooth mode, > 0.

    Returns:
        A transformation that keeps the dtype of its updates.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is outside its domain, or a gradient has another shape than its parameter.

    Example:
        >>> tx = scale_by_lion(0.9, 0.5)
        >>> updates, state = tx.update(jnp.array([-4.0]), tx.init(jnp.zeros(1)))
        >>> updates.tolist(), state.mu.tolist()
        ([-1.0], [-2.0])
    """
    checks.number("b1", b1, ge=0, lt=1)
    checks.number("b2", b2, ge=0, lt=1)
    checks.number("smooth_beta", smooth_beta, gt=0)
    checks.one_of("mode", mode, ("hard", "smooth", "refined"))

    # β₁ m + (1 - β₁) g = w m' + (1 - w) g with the new momentum m' = β₂ m + (1 - β₂) g and w = β₁ / β₂.
    weight_of_new = None
    if isinstance(b1, float | int) and isinstance(b2, float | int) and b2 > 0 and b1 <= b2:
        weight_of_new = b1 / b2

    def squash(x):
        if mode == "smooth":
            return jnp.tanh(smooth_beta * x)
        if mode == "refined":
            return jnp.where(jnp.abs(x) < 1, x, jnp.sign(x))
        return jnp.sign(x)

    def init_fn(params):
        return ScaleByLionState(jax.tree.map(lambda p: numerics.zero_moment(p, mu_dtype), params))

    def update_fn(updates, state, params=None, **extra_args):
        del params, extra_args
        checks.same_shapes("gradient", updates, "parameter", state.mu)

        def mix(g, m, weight):
            return (1 - weight) * numerics.widen(g) + weight * numerics.widen(m)

        def leaf(g, m):
            new = mix(g, m, b2)
            # From the new momentum where that is possible; numerics.fusion, rule 3.
            mixed = mix(g, m, b1) if weight_of_new is None else mix(g, new, weight_of_new)
            return squash(mixed).astype(g.dtype), new.astype(m.dtype)

        direction, mu = numerics.map_many(leaf, 2, updates, state.mu)
        return direction, ScaleByLionState(mu)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def lion(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.99,
    mu_dtype: jax.typing.DTypeLike | None = None,
    weight_decay: optax.ScalarOrSchedule = 1e-3,
    mask: Any | Callable[[optax.Params], Any] | None = None,
    *,
    weight_decay_mask: Any | Callable[[optax.Params], Any] | None = None,
    decay_coupling: Coupling = "learning_rate",
    mode: Literal["hard", "smooth", "refined"] = "hard",
    smooth_beta: float = 1.0,
    scale_by_param_rms: bool = False,
    min_rms: float = 1e-3,
) -> optax.GradientTransformationExtraArgs:
    """Evolved sign momentum.

    Args:
        learning_rate: learning rate η ≥ 0, a number or a schedule of the 0-based update count. Rates of a third
            to a tenth of Adam's are usual, with a decay larger by the same factor.
        b1: β₁ in [0, 1), weight of the momentum in the direction.
        b2: β₂ in [0, 1), decay rate of the momentum.
        mu_dtype: dtype of the momentum; None for the parameters' dtype, at least float32.
        weight_decay: decoupled weight decay λ ≥ 0, a number or a schedule.
        mask: mask of the parameters that decay, such as ``groups.no_decay()``; None for all.
        weight_decay_mask: alias of ``mask``, under the name that all optimizers share.
        decay_coupling: how the decay scales with the learning rate, see ``optimiz.decoupled_weight_decay``.
        mode: sign function ``"hard"``, ``"smooth"`` or ``"refined"``; see :func:`scale_by_lion`.
        smooth_beta: steepness of the smooth mode, > 0.
        scale_by_param_rms: whether to multiply each parameter's step, decay included, by the parameter's root
            mean square.
        min_rms: lower bound of that factor, > 0.

    Returns:
        A transformation whose ``update`` needs the parameters, unless the decay is 0 and
        ``scale_by_param_rms`` is off.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is outside its domain, or a gradient has another shape than its parameter.

    Example:
        >>> tx = lion(0.5, weight_decay=0.5)
        >>> params = jnp.array([1.0])
        >>> updates, _ = tx.update(jnp.array([3.0]), tx.init(params), params)
        >>> updates.round(4).tolist()  # -0.5 × (1 + 0.5 × 1)
        [-0.75]
    """
    checks.number("min_rms", min_rms, gt=0)
    return optax.chain(
        scale_by_lion(b1, b2, mu_dtype, mode=mode, smooth_beta=smooth_beta),
        decoupled_weight_decay(
            weight_decay,
            checks.either("mask", mask, "weight_decay_mask", weight_decay_mask),
            coupling=decay_coupling,
            learning_rate=learning_rate,
        ),
        optax.scale_by_param_block_rms(min_rms) if scale_by_param_rms else optax.identity(),
        scale_by_learning_rate(learning_rate),
    )
