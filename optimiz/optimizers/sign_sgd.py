r"""SignSGD: step by the learning rate along the sign of each gradient entry.

.. math:: \theta \leftarrow \theta - \eta_t (\operatorname{sign}(g) + \lambda\, \theta)

No state but the step's, and no effect of the gradient's scale, so that clipping by norm changes nothing. An
entry whose gradient is 0 only decays. For real parameters.

Source: arXiv 1802.04434 (Bernstein et al.).

Departures from ``optax.sign_sgd``: weight decay; updates in the parameter's dtype; validation of arguments.
"""

from collections.abc import Callable
from typing import Any

import optax

from optimiz.primitives.decoupled_weight_decay import Coupling, decoupled_weight_decay
from optimiz.primitives.scale_by_learning_rate import scale_by_learning_rate


def sign_sgd(
    learning_rate: optax.ScalarOrSchedule,
    *,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    weight_decay_mask: Any | Callable[[optax.Params], Any] | None = None,
    decay_coupling: Coupling = "learning_rate",
) -> optax.GradientTransformationExtraArgs:
    """SGD along the sign of the gradient.

    Args:
        learning_rate: learning rate η ≥ 0, a number or a schedule of the 0-based update count.
        weight_decay: decoupled weight decay λ ≥ 0, a number or a schedule.
        weight_decay_mask: mask of the parameters that decay, such as ``groups.no_decay()``; None for all.
        decay_coupling: how the decay scales with the learning rate, see ``optimiz.decoupled_weight_decay``.

    Returns:
        A transformation whose ``update`` needs the parameters if there is weight decay.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is outside its domain, or a gradient has another shape than its parameter.

    Example:
        >>> import jax.numpy as jnp
        >>> tx = sign_sgd(0.5)
        >>> updates, _ = tx.update(jnp.array([0.1, -7.0, 0.0]), tx.init(jnp.zeros(3)))
        >>> updates.tolist()
        [-0.5, 0.5, -0.0]
    """
    return optax.chain(
        optax.scale_by_sign(),
        decoupled_weight_decay(
            weight_decay, weight_decay_mask, coupling=decay_coupling, learning_rate=learning_rate
        ),
        scale_by_learning_rate(learning_rate),
    )
