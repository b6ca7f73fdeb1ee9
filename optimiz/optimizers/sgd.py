r"""Stochastic gradient descent, plain, with heavy-ball momentum, or with Nesterov's.

.. math::
    m &\leftarrow \mu\, m + g \\
    d &= g \;\text{(plain)}, \quad m \;\text{(momentum)}, \quad g + \mu\, m \;\text{(Nesterov)} \\
    \theta &\leftarrow \theta - \eta_t (d + \lambda\, \theta)

Source: Polyak (1964); Sutskever et al. (ICML 2013) for the learning rate outside the buffer, as PyTorch and
Optax have it; the dampening is PyTorch's.

Departures from ``optax.sgd``: decoupled weight decay; and, as everywhere in this suite, float32 arithmetic for
bfloat16 parameters, updates in the parameter's dtype, and validation of arguments. For weight decay as an L2
penalty, put ``optax.add_decayed_weights`` in front.
"""

from collections.abc import Callable
from typing import Any

import jax
import optax

from optimiz import checks
from optimiz.primitives.decoupled_weight_decay import Coupling, decoupled_weight_decay
from optimiz.primitives.momentum import trace
from optimiz.primitives.scale_by_learning_rate import scale_by_learning_rate


def sgd(
    learning_rate: optax.ScalarOrSchedule,
    momentum: jax.typing.ArrayLike | None = None,
    nesterov: bool = False,
    accumulator_dtype: jax.typing.DTypeLike | None = None,
    *,
    dampening: jax.typing.ArrayLike | None = None,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    weight_decay_mask: Any | Callable[[optax.Params], Any] | None = None,
    decay_coupling: Coupling = "learning_rate",
) -> optax.GradientTransformationExtraArgs:
    """Stochastic gradient descent with optional momentum.

    Args:
        learning_rate: learning rate η ≥ 0, a number or a schedule of the 0-based update count.
        momentum: μ in [0, 1), decay rate of the momentum; None for no momentum and no state.
        nesterov: whether to use Nesterov's momentum: step along g + μ m, not along m.
        accumulator_dtype: dtype of the momentum; None for the parameters' dtype.
        dampening: τ in [0, 1], PyTorch's dampening: every gradient but the first enters the momentum with
            weight 1 - τ. None or 0 for no dampening.
        weight_decay: decoupled weight decay λ ≥ 0, a number or a schedule.
        weight_decay_mask: mask of the parameters that decay, such as ``groups.no_decay()``; None for all.
        decay_coupling: how the decay scales with the learning rate, see ``optimiz.decoupled_weight_decay``.

    Returns:
        A transformation whose ``update`` needs the parameters if there is weight decay.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is outside its domain; there is dampening without momentum, or with
            ``nesterov``; or a gradient has another shape than its parameter.

    Example:
        >>> import jax.numpy as jnp
        >>> tx = sgd(0.5, momentum=0.5)
        >>> state = tx.init(jnp.zeros(1))
        >>> for _ in range(2):  # 0.5 × (0.5 × 2 + 2) at the second step
        ...     updates, state = tx.update(jnp.array([2.0]), state)
        >>> updates.tolist()
        [-1.5]
    """
    dampens = dampening is not None and not checks.is_zero(dampening)
    if momentum is not None:
        checks.number("momentum", momentum, ge=0, lt=1)
    elif dampens:
        raise ValueError(f"dampening={dampening} dampens the momentum, and there is none: give a momentum too")
    return optax.chain(
        optax.identity()
        if momentum is None
        else trace(momentum, nesterov, accumulator_dtype, dampening=dampening),
        decoupled_weight_decay(
            weight_decay, weight_decay_mask, coupling=decay_coupling, learning_rate=learning_rate
        ),
        scale_by_learning_rate(learning_rate, counted_elsewhere=dampens),
    )
