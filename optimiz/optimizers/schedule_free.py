r"""Schedule-free SGD and AdamW: an average of the parameters in place of a decaying learning rate.

``optimiz.schedule_free`` states the rule, by which z walks along a direction d, x is the mean of z, and the
parameters are y, between the two. What ``optimiz.averaged_params`` returns is x. The directions are

.. math::
    d = g + \lambda\, y \qquad \text{and} \qquad
        d = \frac{g}{\sqrt{v / (1 - \beta_2^t)} + \epsilon} + \lambda\, y, \quad
        v \leftarrow \beta_2 v + (1 - \beta_2)\, g^2

Source: arXiv 2405.15682 (Defazio et al.) and the authors' package ``schedulefree``.

Departures from the authors' package: those of ``optimiz.schedule_free``.

Departures from ``optax.contrib.schedule_free_adamw``: those of ``optimiz.schedule_free``; a float32 second
moment for bfloat16 parameters; a huge gradient does no lasting harm; multipliers; validation of arguments.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optimiz import checks, numerics
from optimiz.primitives.decoupled_weight_decay import Coupling, decoupled_weight_decay
from optimiz.primitives.scale_by_groups import scale_by_groups
from optimiz.primitives.schedule_free import schedule_free, warmed


class ScaleBySecondMomentState(NamedTuple):
    """State of the direction of :func:`schedule_free_adamw`."""

    steps: jax.Array  # int32 scalar: number of updates so far
    nu: optax.Updates  # like the parameters, real


def _scale_by_second_moment(
    b2: jax.typing.ArrayLike, eps: jax.typing.ArrayLike
) -> optax.GradientTransformationExtraArgs:
    """Adam's direction without its first moment."""
    checks.number("b2", b2, ge=0, lt=1, typical=0.999)
    checks.number("eps", eps, ge=0, typical=1e-8)

    def init_fn(params):
        nu = jax.tree.map(lambda p: numerics.real_moment(p, None), params)
        return ScaleBySecondMomentState(jnp.zeros([], jnp.int32), nu)

    def update_fn(updates, state, params=None, **extra_args):
        del params, extra_args
        steps = numerics.increment(state.steps)
        correction = numerics.bias_corrections(b2, steps, updates)

        def leaf(g, nu):
            wide, real = numerics.widen(g), numerics.real_dtype(g.dtype)
            v = b2 * nu + (1 - b2) * numerics.limited_square(wide)
            root = jnp.sqrt(v / correction[real]) + eps
            # Where the root is 0, the gradient is 0.
            return numerics.squarable(wide) / numerics.nonzero_divisor(root, eps), v.astype(nu.dtype)

        directions, nu = numerics.map_many(leaf, 2, updates, state.nu)
        return directions, ScaleBySecondMomentState(steps, nu)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def schedule_free_sgd(
    learning_rate: optax.ScalarOrSchedule = 1.0,
    warmup_steps: int = 0,
    b1: jax.typing.ArrayLike = 0.9,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    weight_lr_power: float = 2.0,
    *,
    r: float = 0.0,
    mask: Any | Callable[[optax.Params], Any] | None = None,
    weight_decay_mask: Any | Callable[[optax.Params], Any] | None = None,
    decay_coupling: Coupling = "learning_rate",
    multipliers: Any | Callable[[optax.Params], Any] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Stochastic gradient descent without a schedule.

    Args:
        learning_rate: learning rate η ≥ 0, a number or a schedule of the 0-based update count; it needs no
            decay. Good rates are 10 to 50 times those of SGD with momentum.
        warmup_steps: number of updates ≥ 0 over which the learning rate rises from 0.
        b1: β₁ in (0, 1), the share of x in y.
        weight_decay: decoupled weight decay λ ≥ 0, a number or a schedule.
        weight_lr_power: power p ≥ 0 of the largest learning rate so far in the weights of the average.
        r: power ≥ 0 of the update count in those weights.
        mask: mask of the parameters that decay, such as ``groups.no_decay()``; None for all.
        weight_decay_mask: alias of ``mask``, under the name that all optimizers share.
        decay_coupling: how the decay scales with the learning rate, see ``optimiz.decoupled_weight_decay``.
        multipliers: multipliers of the step size, by parameter, see ``optimiz.scale_by_groups``; None for none.

    Returns:
        A transformation that comes last in a chain; its ``update`` needs the parameters.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is outside its domain; or, in ``update``, the parameters are missing, a gradient
            has another shape than its parameter, or something but rounding comes after it in a chain.

    Example:
        >>> tx = schedule_free_sgd(0.5, b1=0.5)
        >>> params = jnp.array([1.0])
        >>> updates, state = tx.update(jnp.array([3.0]), tx.init(params), params)
        >>> updates.tolist(), state.z.tolist()  # x = z = y after the first step
        ([-1.5], [-0.5])
    """
    mask = checks.either("mask", mask, "weight_decay_mask", weight_decay_mask)
    decay = _decay(weight_decay, mask, decay_coupling, learning_rate, warmup_steps)
    return schedule_free(
        optax.chain(decay, *_scaled(multipliers)),
        learning_rate,
        b1,
        warmup_steps=warmup_steps,
        r=r,
        weight_lr_power=weight_lr_power,
    )


def schedule_free_adamw(
    learning_rate: optax.ScalarOrSchedule = 0.0025,
    warmup_steps: int = 0,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    weight_lr_power: float = 2.0,
    *,
    r: float = 0.0,
    mask: Any | Callable[[optax.Params], Any] | None = None,
    weight_decay_mask: Any | Callable[[optax.Params], Any] | None = None,
    decay_coupling: Coupling = "learning_rate",
    multipliers: Any | Callable[[optax.Params], Any] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """AdamW without a schedule.

    Args:
        learning_rate: learning rate η ≥ 0, a number or a schedule of the 0-based update count; it needs no
            decay. Good rates are 1 to 10 times those of AdamW.
        warmup_steps: number of updates ≥ 0 over which the learning rate rises from 0.
        b1: β₁ in (0, 1), the share of x in y.
        b2: β₂ in [0, 1), decay rate of the second moment.
        eps: ε ≥ 0, added to the root of the second moment.
        weight_decay: decoupled weight decay λ ≥ 0, a number or a schedule.
        weight_lr_power: power p ≥ 0 of the largest learning rate so far in the weights of the average.
        r: power ≥ 0 of the update count in those weights.
        mask: mask of the parameters that decay, such as ``groups.no_decay()``; None for all.
        weight_decay_mask: alias of ``mask``, under the name that all optimizers share.
        decay_coupling: how the decay scales with the learning rate, see ``optimiz.decoupled_weight_decay``.
        multipliers: multipliers of the step size, by parameter, see ``optimiz.scale_by_groups``; None for none.

    Returns:
        A transformation that comes last in a chain; its ``update`` needs the parameters.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is outside its domain; or, in ``update``, the parameters are missing, a gradient
            has another shape than its parameter, or something but rounding comes after it in a chain.

    Example:
        >>> tx = schedule_free_adamw(0.5, eps=0.0)
        >>> params = jnp.array([1.0])
        >>> updates, state = tx.update(jnp.array([3.0]), tx.init(params), params)
        >>> updates.round(4).tolist()  # the sign of the first gradient
        [-0.5]
    """
    mask = checks.either("mask", mask, "weight_decay_mask", weight_decay_mask)
    decay = _decay(weight_decay, mask, decay_coupling, learning_rate, warmup_steps)
    return schedule_free(
        optax.chain(_scale_by_second_moment(b2, eps), decay, *_scaled(multipliers)),
        learning_rate,
        b1,
        warmup_steps=warmup_steps,
        r=r,
        weight_lr_power=weight_lr_power,
    )


def _decay(
    weight_decay: optax.ScalarOrSchedule,
    mask: Any,
    coupling: Coupling,
    learning_rate: optax.ScalarOrSchedule,
    warmup_steps: int,
) -> optax.GradientTransformation:
    # The warm-up is not in the peak of a schedule.
    warms = warmup_steps and coupling == "independent"
    rate = warmed(learning_rate, warmup_steps) if warms else learning_rate
    return decoupled_weight_decay(weight_decay, mask, coupling=coupling, learning_rate=rate)


def _scaled(multipliers: Any) -> list[optax.GradientTransformation]:
    return [] if multipliers is None else [scale_by_groups(multipliers)]
