r"""AMSGrad: Adam with a second moment that never decreases, so that step sizes never grow.

.. math::
    m &\leftarrow \beta_1 m + (1 - \beta_1) g, \qquad v \leftarrow \beta_2 v + (1 - \beta_2) |g|^2 \\
    \bar v &\leftarrow \max(\bar v,\; v / (1 - \beta_2^t)) \\
    \theta &\leftarrow \theta - \eta_t \left( \frac{m / (1 - \beta_1^t)}
        {\sqrt{\bar v + \epsilon_\text{root}} + \epsilon} + \lambda\, \theta \right)

Source: Reddi, Kale and Kumar (ICLR 2018), whose algorithm has no bias corrections (switch both off), no ε and
no λ. The corrections are Optax's. PyTorch takes the maximum of v as it is and corrects
:math:`\bar v / (1 - \beta_2^t)`, which weighs a large early gradient less (``max_before_correction``).

Departures from ``optax.amsgrad``: both second moments are float32 for bfloat16 and float16 parameters unless
another dtype is given (in bfloat16 β₂ = 0.999 is 1, so that Optax's v never decays), and all moments keep their
dtypes whatever the gradients'; a finite gradient too large to be squared enters at the largest value that can
be; with ε = 0 a coordinate that has never had a gradient does not move, instead of 0/0; PyTorch's order;
decoupled weight decay; updates in the parameter's dtype; validation of arguments.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optimiz import checks, numerics
from optimiz.primitives.decoupled_weight_decay import Coupling, decoupled_weight_decay
from optimiz.primitives.scale_by_learning_rate import scale_by_learning_rate


class ScaleByAmsgradState(NamedTuple):
    """State of :func:`scale_by_amsgrad`."""

    count: jax.Array  # int32 scalar: number of updates so far
    mu: optax.Updates  # like the parameters
    nu: optax.Updates  # like the parameters, real
    nu_max: optax.Updates  # like nu: the largest corrected second moment


class ScaleByUncorrectedAmsgradState(NamedTuple):
    """State of :func:`scale_by_amsgrad` with ``max_before_correction``."""

    count: jax.Array  # int32 scalar: number of updates so far
    mu: optax.Updates  # like the parameters
    nu: optax.Updates  # like the parameters, real
    nu_max: optax.Updates  # like nu: the largest second moment


def scale_by_amsgrad(
    b1: jax.typing.ArrayLike,
    b2: jax.typing.ArrayLike,
    eps: jax.typing.ArrayLike,
    eps_root: jax.typing.ArrayLike = 0.0,
    mu_dtype: jax.typing.DTypeLike | None = None,
    bias_correction_mu: bool = True,
    bias_correction_nu: bool = True,
    *,
    max_before_correction: bool = False,
    nu_dtype: jax.typing.DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Rescale updates by AMSGrad's moments.

    Args:
        b1: β₁ in [0, 1), decay rate of the first moment.
        b2: β₂ in [0, 1), decay rate of the second moment.
        eps: ε ≥ 0, added to the root of the second moment.
        eps_root: ε_root ≥ 0, added to the second moment under the root.
        mu_dtype: dtype of the first moment; None for the parameters' dtype.
        bias_correction_mu: whether to correct the first moment for its start at zero.
        bias_correction_nu: whether to correct the second moment for its start at zero.
        max_before_correction: whether to take the maximum of the second moments before that correction.
        nu_dtype: dtype of the second moment and its maximum; None for the parameters' dtype, at least float32.

    Returns:
        A transformation that keeps the dtype of its updates.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is outside its domain, or a gradient has another shape than its parameter.

    Example:
        >>> tx = scale_by_amsgrad(0.5, 0.75, 0.0, bias_correction_mu=False, bias_correction_nu=False)
        >>> state = tx.init(jnp.zeros(1))
        >>> for g in (4.0, 0.0):  # m 2, then 1; v 4, then 3, but its maximum stays
        ...     updates, state = tx.update(jnp.array([g]), state)
        >>> updates.tolist(), state.nu.tolist(), state.nu_max.tolist()
        ([0.5], [3.0], [4.0])
    """
    checks.floating("mu_dtype", mu_dtype)
    checks.number("b1", b1, ge=0, lt=1)
    checks.number("b2", b2, ge=0, lt=1, typical=0.999)
    checks.number("eps", eps, ge=0, typical=1e-8)
    checks.number("eps_root", eps_root, ge=0)
    make_state = ScaleByUncorrectedAmsgradState if max_before_correction else ScaleByAmsgradState

    def init_fn(params):
        def nu():
            return jax.tree.map(lambda p: numerics.real_moment(p, nu_dtype), params)

        mu = optax.tree.zeros_like(params, dtype=mu_dtype)
        return make_state(jnp.zeros([], jnp.int32), mu, nu(), nu())  # two buffers, for donation

    def update_fn(updates, state, params=None, **extra_args):
        del params, extra_args
        checks.same_shapes("gradient", updates, "parameter", state.mu)
        count = numerics.increment(state.count)

        of_m, of_v = (numerics.bias_corrections(b, count, updates) for b in (b1, b2))

        def leaf(g, mu, nu, nu_max):
            wide = numerics.widen(g)
            real = numerics.real_dtype(g.dtype)
            m = b1 * mu.astype(wide.dtype) + (1 - b1) * numerics.squarable(wide)
            v = b2 * nu.astype(real) + (1 - b2) * numerics.limited_square(wide)
            m_hat = m / of_m[real] if bias_correction_mu else m
            correction = of_v[real] if bias_correction_nu else 1
            before, after = (1, correction) if max_before_correction else (correction, 1)
            v_max = jnp.maximum(nu_max.astype(real), v / before)
            root = jnp.sqrt(v_max / after + eps_root) + eps
            # Where the root is 0, all gradients were 0, and so is m.
            direction = m_hat / numerics.nonzero_divisor(root, eps)
            return direction.astype(g.dtype), m.astype(mu.dtype), v.astype(nu.dtype), v_max.astype(nu_max.dtype)

        direction, mu, nu, nu_max = numerics.map_many(leaf, 4, updates, state.mu, state.nu, state.nu_max)
        return direction, make_state(count, mu, nu, nu_max)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def amsgrad(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
    eps_root: jax.typing.ArrayLike = 0.0,
    mu_dtype: jax.typing.DTypeLike | None = None,
    bias_correction_mu: bool = True,
    bias_correction_nu: bool = True,
    *,
    max_before_correction: bool = False,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    weight_decay_mask: Any | Callable[[optax.Params], Any] | None = None,
    decay_coupling: Coupling = "learning_rate",
    nu_dtype: jax.typing.DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Adam with the largest second moment so far.

    Args:
        learning_rate: learning rate η ≥ 0, a number or a schedule of the 0-based update count.
        b1: β₁ in [0, 1), decay rate of the first moment.
        b2: β₂ in [0, 1), decay rate of the second moment.
        eps: ε ≥ 0, added to the root of the second moment.
        eps_root: ε_root ≥ 0, added to the second moment under the root.
        mu_dtype: dtype of the first moment; None for the parameters' dtype.
        bias_correction_mu: whether to correct the first moment for its start at zero; not in the paper.
        bias_correction_nu: whether to correct the second moment for its start at zero; not in the paper.
        max_before_correction: whether to correct the maximum of the second moments, as PyTorch does, or to take
            the maximum of the corrected ones, as Optax does.
        weight_decay: decoupled weight decay λ ≥ 0, a number or a schedule.
        weight_decay_mask: mask of the parameters that decay, such as ``groups.no_decay()``; None for all.
        decay_coupling: how the decay scales with the learning rate, see ``optimiz.decoupled_weight_decay``.
        nu_dtype: dtype of the second moment and its maximum; None for the parameters' dtype, at least float32.

    Returns:
        A transformation whose ``update`` needs the parameters if there is weight decay.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is outside its domain, or a gradient has another shape than its parameter.

    Example:
        >>> tx = amsgrad(0.5, 0.5, 0.75, bias_correction_mu=False, bias_correction_nu=False)
        >>> state = tx.init(jnp.zeros(1))
        >>> for g in (4.0, 0.0):  # m 2, then 1; the root of the largest v stays 2
        ...     updates, state = tx.update(jnp.array([g]), state)
        >>> updates.round(4).tolist()
        [-0.25]
    """
    return optax.chain(
        scale_by_amsgrad(
            b1,
            b2,
            eps,
            eps_root,
            mu_dtype,
            bias_correction_mu,
            bias_correction_nu,
            max_before_correction=max_before_correction,
            nu_dtype=nu_dtype,
        ),
        decoupled_weight_decay(
            weight_decay, weight_decay_mask, coupling=decay_coupling, learning_rate=learning_rate
        ),
        scale_by_learning_rate(learning_rate, counted_elsewhere=True),
    )
