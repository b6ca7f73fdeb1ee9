r"""Signum: step by the learning rate along the sign of the gradient's moving average.

.. math::
    m &\leftarrow \beta\, m + (1 - \beta)\, g, \qquad m_0 = 0 \\
    \theta &\leftarrow \theta - \eta_t (\operatorname{sign}(m) + \lambda\, \theta)

The step has the size of SignSGD's at the same rate. For real parameters.

Source: arXiv 1802.04434 (Bernstein et al.).

Departures from ``optax.signum``: weight decay; float32 momentum for bfloat16 parameters; updates in the
parameter's dtype; validation of arguments. Some published code adds λ θ to the gradient before the momentum,
where it can only flip signs: ``decay="l2"`` reproduces it.
"""

from collections.abc import Callable
from typing import Any, Literal

import jax
import optax

from optimiz import checks
from optimiz.primitives.decoupled_weight_decay import Coupling, decoupled_weight_decay
from optimiz.primitives.momentum import ema
from optimiz.primitives.scale_by_learning_rate import scale_by_learning_rate


def signum(
    learning_rate: optax.ScalarOrSchedule,
    beta: jax.typing.ArrayLike = 0.9,
    accumulator_dtype: jax.typing.DTypeLike | None = None,
    *,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    weight_decay_mask: Any | Callable[[optax.Params], Any] | None = None,
    decay_coupling: Coupling = "learning_rate",
    decay: Literal["decoupled", "l2"] = "decoupled",
) -> optax.GradientTransformationExtraArgs:
    """SGD along the sign of the momentum.

    Args:
        learning_rate: learning rate η ≥ 0, a number or a schedule of the 0-based update count.
        beta: β in [0, 1), decay rate of the momentum; 0 for SignSGD.
        accumulator_dtype: dtype of the momentum; None for the parameters' dtype, at least float32.
        weight_decay: decoupled weight decay λ ≥ 0, a number or a schedule; see ``decay``.
        weight_decay_mask: mask of the parameters that decay, such as ``groups.no_decay()``; None for all.
        decay_coupling: how the decay scales with the learning rate, see ``optimiz.decoupled_weight_decay``.
        decay: ``"decoupled"`` to shrink the parameters, ``"l2"`` to add λ θ to the gradient before the
            momentum.

    Returns:
        A transformation whose ``update`` needs the parameters if there is weight decay.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is outside its domain, or a gradient has another shape than its parameter.

    Example:
        >>> import jax.numpy as jnp
        >>> tx = signum(0.5)
        >>> state = tx.init(jnp.zeros(1))
        >>> for g in (3.0, -1.0):  # the average is still positive: 0.9 × 0.3 - 0.1 × 1
        ...     updates, state = tx.update(jnp.array([g]), state)
        >>> updates.tolist()
        [-0.5]
    """
    checks.number("beta", beta, ge=0, lt=1)
    checks.one_of("decay", decay, ("decoupled", "l2"))
    shrink = decoupled_weight_decay(
        weight_decay, weight_decay_mask, coupling=decay_coupling, learning_rate=learning_rate
    )
    direction = optax.chain(ema(beta, accumulator_dtype), optax.scale_by_sign())
    return optax.chain(
        *((shrink, direction) if decay == "l2" else (direction, shrink)),
        scale_by_learning_rate(learning_rate),
    )
