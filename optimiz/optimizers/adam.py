r"""Adam: the first moment of the gradient over the root of the second.

.. math::
    m &\leftarrow \beta_1 m + (1 - \beta_1) g, \qquad v \leftarrow \beta_2 v + (1 - \beta_2) g^2 \\
    \theta &\leftarrow \theta - \eta_t \left( \frac{m / (1 - \beta_1^t)}
        {\sqrt{v / (1 - \beta_2^t)} + \epsilon} + \lambda\, \theta \right)

Source: arXiv 1412.6980, which has no λ.

Departures from ``optax.adam``: those of ``optimiz.scale_by_adam`` (a float32 second moment for bfloat16
parameters, and a huge gradient does no lasting harm); decoupled weight decay; updates in the parameter's dtype;
validation of arguments. For weight decay as an L2 penalty, put ``optax.add_decayed_weights`` in front.
"""

from collections.abc import Callable
from typing import Any

import jax
import optax

from optimiz.primitives.decoupled_weight_decay import Coupling, decoupled_weight_decay
from optimiz.primitives.scale_by_adam import scale_by_adam
from optimiz.primitives.scale_by_learning_rate import scale_by_learning_rate


def adam(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
    eps_root: jax.typing.ArrayLike = 0.0,
    mu_dtype: jax.typing.DTypeLike | None = None,
    *,
    nesterov: bool = False,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    weight_decay_mask: Any | Callable[[optax.Params], Any] | None = None,
    decay_coupling: Coupling = "learning_rate",
    nu_dtype: jax.typing.DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Adaptive moment estimation.

    Args:
        learning_rate: learning rate η ≥ 0, a number or a schedule of the 0-based update count.
        b1: β₁ in [0, 1), decay rate of the first moment.
        b2: β₂ in [0, 1), decay rate of the second moment.
        eps: ε ≥ 0, added to the root of the second moment.
        eps_root: ε_root ≥ 0, added to the second moment under the root.
        mu_dtype: dtype of the first moment; None for the parameters' dtype.
        nesterov: whether to use Nesterov's momentum (NAdam).
        weight_decay: decoupled weight decay λ ≥ 0, a number or a schedule.
        weight_decay_mask: mask of the parameters that decay, such as ``groups.no_decay()``; None for all.
        decay_coupling: how the decay scales with the learning rate, see ``optimiz.decoupled_weight_decay``.
        nu_dtype: dtype of the second moment; None for the parameters' dtype, at least float32.

    Returns:
        A transformation whose ``update`` needs the parameters if there is weight decay.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is outside its domain, or a gradient has another shape than its parameter.

    Example:
        >>> import jax.numpy as jnp
        >>> tx = adam(0.5)
        >>> updates, _ = tx.update(jnp.array([3.0, -0.1]), tx.init(jnp.zeros(2)))
        >>> updates.round(4).tolist()  # the first direction is the gradient's sign
        [-0.5, 0.5]
    """
    return optax.chain(
        scale_by_adam(b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov, nu_dtype=nu_dtype),
        decoupled_weight_decay(
            weight_decay, weight_decay_mask, coupling=decay_coupling, learning_rate=learning_rate
        ),
        scale_by_learning_rate(learning_rate, counted_elsewhere=True),
    )
