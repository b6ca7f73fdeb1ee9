r"""RMSprop: the gradient over the root of its recent mean square, optionally centered or with momentum.

.. math::
    v &\leftarrow a v + (1 - a) |g|^2, \qquad
        \sigma^2 = v \;\text{(plain)}, \quad v - |m|^2 \;\text{(centered)}, \quad
        m \leftarrow a m + (1 - a) g \\
    d &= g \,/\, (\sqrt{\sigma^2} + \epsilon), \qquad b \leftarrow \mu b + d \\
    \theta &\leftarrow \theta - \eta_t (b + \lambda\, \theta)

Source: Hinton's lecture 6e (2012), which has v alone, with a = 0.9; the place of ε and of the learning rate,
outside root and buffer, are PyTorch's, whose a is 0.99.

Departures from ``optax.rmsprop``: ε is added to the root, instead of under it (``eps_in_sqrt=True`` is
Optax's); the momentum gathers directions, so that a new learning rate acts at once, instead of steps
(``lr_in_momentum=True`` is Optax's); v is float32 for bfloat16 and float16 parameters unless another dtype is
given, and the state keeps its dtypes whatever the gradients'; a finite gradient too large to be squared enters
at the largest value that can be; a variance that rounding takes below 0 counts as 0, instead of NaN; with ε = 0
a coordinate that has never had a gradient does not move, instead of 0/0; decoupled weight decay; updates in the
parameter's dtype; validation of arguments.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optimiz import checks, numerics
from optimiz.primitives.decoupled_weight_decay import Coupling, decoupled_weight_decay
from optimiz.primitives.momentum import trace
from optimiz.primitives.scale_by_learning_rate import scale_by_learning_rate


class ScaleByRmsState(NamedTuple):
    """State of :func:`scale_by_rms`."""

    count: jax.Array  # int32 scalar: number of updates so far
    mu: optax.Updates  # like the parameters; empty unless centered
    nu: optax.Updates  # like the parameters, real


def scale_by_rms(
    decay: jax.typing.ArrayLike,
    eps: jax.typing.ArrayLike,
    initial_scale: jax.typing.ArrayLike = 0.0,
    eps_in_sqrt: bool = False,
    bias_correction: bool = False,
    *,
    centered: bool = False,
    nu_dtype: jax.typing.DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Rescale updates by the root of their recent mean square, or of their variance.

    Args:
        decay: a in [0, 1), decay rate of the averages.
        eps: ε ≥ 0, added to the root of the mean square.
        initial_scale: initial value of the mean square, ≥ 0.
        eps_in_sqrt: whether to add ε under the root, not to the root.
        bias_correction: whether to correct the averages for their start at zero.
        centered: whether to divide by the standard deviation, not by the root mean square.
        nu_dtype: dtype of the mean square; None for the parameters' dtype, at least float32.

    Returns:
        A transformation that keeps the dtype of its updates.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is outside its domain, or a gradient has another shape than its parameter.

    Example:
        >>> tx = scale_by_rms(0.75, 1.0)
        >>> updates, state = tx.update(jnp.array([6.0]), tx.init(jnp.zeros(1)))
        >>> updates.tolist(), state.nu.tolist()  # 6 / (√9 + 1)
        ([1.5], [9.0])
    """
    checks.number("decay", decay, ge=0, lt=1)
    checks.number("eps", eps, ge=0, typical=1e-8)
    checks.number("initial_scale", initial_scale, ge=0)

    def init_fn(params):
        # As wide as the mean square, because the variance is a small difference of the two.
        mu = jax.tree.map(lambda p: numerics.zero_moment(p, None), params) if centered else ()
        nu = jax.tree.map(lambda p: numerics.real_moment(p, nu_dtype, initial_scale), params)
        return ScaleByRmsState(jnp.zeros([], jnp.int32), mu, nu)

    def update_fn(updates, state, params=None, **extra_args):
        del params, extra_args
        checks.same_shapes("gradient", updates, "parameter", state.nu)
        count = numerics.increment(state.count)

        def average(x, old):
            return decay * old.astype(x.dtype) + (1 - decay) * x

        corrections = numerics.bias_corrections(decay, count, updates) if bias_correction else {}

        def corrected(x):
            return x / corrections[numerics.real_dtype(x.dtype)] if bias_correction else x

        def variance(v, m):
            # Rounding may make the variance of equal gradients negative.
            return jnp.maximum(corrected(v) - numerics.abs_sq(corrected(m)), 0)

        def limited(g):
            # Equal to numerics.squarable, by operations of its own; numerics.fusion, rule 2.
            return g * jnp.minimum(1, numerics.largest_square(g.dtype) ** 0.5 / jnp.abs(g))

        def rescale(g, like, square):
            root = jnp.sqrt(square + eps) if eps_in_sqrt else jnp.sqrt(square) + eps
            return (numerics.squarable(g) / numerics.nonzero_divisor(root, eps)).astype(like.dtype)

        wide = jax.tree.map(numerics.widen, updates)
        nu = numerics.map_leaves(lambda g, v: average(numerics.limited_square(g), v), wide, state.nu)
        mu = numerics.map_leaves(lambda g, m: average(limited(g), m), wide, state.mu) if centered else ()
        square = numerics.map_leaves(variance, nu, mu) if centered else numerics.map_leaves(corrected, nu)
        direction = numerics.map_leaves(rescale, wide, updates, square)
        mu, nu = jax.tree.map(lambda x, old: x.astype(old.dtype), (mu, nu), (state.mu, state.nu))
        return direction, ScaleByRmsState(count, mu, nu)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def rmsprop(
    learning_rate: optax.ScalarOrSchedule,
    decay: jax.typing.ArrayLike = 0.9,
    eps: jax.typing.ArrayLike = 1e-8,
    initial_scale: jax.typing.ArrayLike = 0.0,
    eps_in_sqrt: bool = False,
    centered: bool = False,
    momentum: jax.typing.ArrayLike | None = None,
    nesterov: bool = False,
    bias_correction: bool = False,
    *,
    lr_in_momentum: bool = False,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    weight_decay_mask: Any | Callable[[optax.Params], Any] | None = None,
    decay_coupling: Coupling = "learning_rate",
    nu_dtype: jax.typing.DTypeLike | None = None,
    accumulator_dtype: jax.typing.DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Gradient over its recent root mean square.

    ε and the learning rate are where PyTorch has them; ``eps_in_sqrt=True, lr_in_momentum=True`` is Optax's
    form.

    Args:
        learning_rate: learning rate η ≥ 0, a number or a schedule of the 0-based update count.
        decay: a in [0, 1), decay rate of the mean square.
        eps: ε ≥ 0, added to the root of the mean square.
        initial_scale: initial value of the mean square, ≥ 0; 1 in TensorFlow.
        eps_in_sqrt: whether to add ε under the root, as Optax does, not to the root.
        centered: whether to divide by the standard deviation, not by the root mean square.
        momentum: μ in [0, 1), decay rate of the momentum; None for no momentum and no state.
        nesterov: whether to use Nesterov's momentum.
        bias_correction: whether to correct the averages for their start at zero. With ``centered`` the first
            variance is then 0, and the first step g / ε, unless ``initial_scale`` is positive.
        lr_in_momentum: whether the momentum accumulates steps, each with the learning rate of its time, as in
            Optax, or directions. The weight decay is part of a step and is then accumulated too.
        weight_decay: decoupled weight decay λ ≥ 0, a number or a schedule.
        weight_decay_mask: mask of the parameters that decay, such as ``groups.no_decay()``; None for all.
        decay_coupling: how the decay scales with the learning rate, see ``optimiz.decoupled_weight_decay``.
        nu_dtype: dtype of the mean square; None for the parameters' dtype, at least float32.
        accumulator_dtype: dtype of the momentum; None for the parameters' dtype.

    Returns:
        A transformation whose ``update`` needs the parameters if there is weight decay.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is outside its domain, or a gradient has another shape than its parameter.

    Example:
        >>> tx = rmsprop(0.5, decay=0.75, eps=1.0)
        >>> updates, _ = tx.update(jnp.array([6.0]), tx.init(jnp.zeros(1)))
        >>> updates.tolist()  # -0.5 × 6 / (√(0.25 × 36) + 1)
        [-0.75]
    """
    if momentum is not None:
        checks.number("momentum", momentum, ge=0, lt=1)
    buffer = optax.identity() if momentum is None else trace(momentum, nesterov, accumulator_dtype)
    return optax.chain(
        scale_by_rms(
            decay, eps, initial_scale, eps_in_sqrt, bias_correction, centered=centered, nu_dtype=nu_dtype
        ),
        optax.identity() if lr_in_momentum else buffer,
        decoupled_weight_decay(
            weight_decay, weight_decay_mask, coupling=decay_coupling, learning_rate=learning_rate
        ),
        scale_by_learning_rate(learning_rate, counted_elsewhere=True),
        buffer if lr_in_momentum else optax.identity(),
    )
