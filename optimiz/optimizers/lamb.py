r"""LAMB: Adam's direction, scaled layer by layer to the norm of the parameters, for large batches.

.. math::
    m &\leftarrow \beta_1 m + (1 - \beta_1) g, \qquad v \leftarrow \beta_2 v + (1 - \beta_2) g^2 \\
    r &= \frac{m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + \epsilon} + \lambda\, \theta \\
    \theta &\leftarrow \theta - \eta_t\, \frac{\phi(\|\theta\|)}{\|r\|}\, r, \qquad
        \phi(z) = \min(\max(z, \gamma_l), \gamma_u)

A layer is one parameter tensor, or one layer of a tensor that ``nn.scan`` has stacked. Where φ(‖θ‖) or ‖r‖ is 0
the ratio is 1.

Source: arXiv 1904.00962, Algorithm 2.

Departures from ``optax.lamb``: the bounds γ on the norm; a mask for the ratio (common practice spares biases
and norms); stacked layers; norms in float32 that neither overflow nor underflow; those of
``optimiz.scale_by_adam`` (a float32 second moment for bfloat16 parameters, and a huge gradient does no lasting
harm); updates in the parameter's dtype; validation of arguments.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import optax

from optimiz import checks
from optimiz.primitives.decoupled_weight_decay import Coupling, decoupled_weight_decay
from optimiz.primitives.low_memory_update import low_memory_update
from optimiz.primitives.scale_by_adam import scale_by_adam
from optimiz.primitives.scale_by_learning_rate import scale_by_learning_rate
from optimiz.primitives.scale_by_trust_ratio import scale_by_trust_ratio


def lamb(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-6,
    eps_root: jax.typing.ArrayLike = 0.0,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    mask: Any | Callable[[optax.Params], Any] | None = None,
    *,
    weight_decay_mask: Any | Callable[[optax.Params], Any] | None = None,
    decay_coupling: Coupling = "learning_rate",
    trust_ratio_mask: Any | Callable[[optax.Params], Any] | None = None,
    min_norm: jax.typing.ArrayLike = 0.0,
    max_norm: jax.typing.ArrayLike | None = None,
    scanned: Mapping[str, int] | None = None,
    mu_dtype: jax.typing.DTypeLike | None = None,
    nu_dtype: jax.typing.DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Layer-wise adaptive moments.

    Args:
        learning_rate: learning rate η ≥ 0, a number or a schedule of the 0-based update count.
        b1: β₁ in [0, 1), decay rate of the first moment.
        b2: β₂ in [0, 1), decay rate of the second moment.
        eps: ε ≥ 0, added to the root of the second moment.
        eps_root: ε_root ≥ 0, added to the second moment under the root.
        weight_decay: decoupled weight decay λ ≥ 0, a number or a schedule, scaled by the trust ratio.
        mask: mask of the parameters that decay, such as ``groups.no_decay()``; None for all.
        weight_decay_mask: alias of ``mask``, under the name that all optimizers share.
        decay_coupling: how the decay scales with the learning rate, see ``optimiz.decoupled_weight_decay``.
        trust_ratio_mask: parameters that have a trust ratio, in the form of ``weight_decay_mask``; the others
            take Adam's step. None for all.
        min_norm: γ_l ≥ 0, lower bound of a layer's norm.
        max_norm: γ_u ≥ γ_l, upper bound of that norm; None for no bound.
        scanned: axis along which layers are stacked, by pattern of path, such as ``{"^layers/": 0}``; each
            layer has a ratio of its own.
        mu_dtype: dtype of the first moment; None for the parameters' dtype.
        nu_dtype: dtype of the second moment; None for the parameters' dtype, at least float32.

    Returns:
        A transformation whose ``update`` needs the parameters.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is outside its domain, or a gradient has another shape than its parameter.

    Example:
        >>> import jax.numpy as jnp
        >>> tx = lamb(0.5)
        >>> params = jnp.array([3.0, 4.0])
        >>> updates, _ = tx.update(jnp.array([2.0, 0.0]), tx.init(params), params)
        >>> updates.round(4).tolist()  # Adam's [1, 0], of norm 1, to the norm 5
        [-2.5, -0.0]
    """
    chain = optax.chain(
        scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nu_dtype=nu_dtype),
        decoupled_weight_decay(
            weight_decay,
            checks.either("mask", mask, "weight_decay_mask", weight_decay_mask),
            coupling=decay_coupling,
            learning_rate=learning_rate,
        ),
        scale_by_trust_ratio(min_norm, max_norm=max_norm, mask=trust_ratio_mask, scanned=scanned),
        scale_by_learning_rate(learning_rate, counted_elsewhere=True),
    )
    return low_memory_update(chain)  # numerics.fusion, rule 1, for the norm of r
