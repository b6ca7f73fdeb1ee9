r"""SGD with the step size that a line search finds.

.. math:: f(w) - f(w - \eta g) \ge c\, \eta\, \|g\|^2, \qquad w \leftarrow w - \eta\, g

Before each search η grows by :math:`\gamma^{1/n}`, n updates being an epoch, and it shrinks until the rule
holds.

Source: Vaswani et al., arXiv 1905.09997, and their code.

Departures from the code: a search that fails goes back to the last step size, where the code takes a step of
1e-6 and keeps :math:`0.9^{100}\, \eta`; step sizes are bounded; the rule allows for the rounding of the loss.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jax
import optax

from optimiz import checks, numerics
from optimiz.primitives.decoupled_weight_decay import decoupled_weight_decay
from optimiz.primitives.scale_by_armijo import scale_by_armijo


def armijo_sgd(
    c: jax.typing.ArrayLike = 0.1,
    *,
    init_step: jax.typing.ArrayLike = 1.0,
    shrink: jax.typing.ArrayLike = 0.9,
    growth: float = 2 ** (1 / 500),
    max_trials: int = 100,
    max_step: float = 1000.0,
    tolerance: float = 4.0,
    on_failure: Literal["revert", "keep"] = "revert",
    weight_decay: optax.ScalarOrSchedule = 0.0,
    weight_decay_mask: Any | Callable[[optax.Params], Any] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Gradient descent whose step size is searched for at every update.

    Args:
        c: in (0, 1), the share of the promised decrease that is asked for.
        init_step: η > 0, the first step size to be tried.
        shrink: in (0, 1), multiplies a step size that was refused.
        growth: ≥ 1, multiplies the step size before each search; the source's is 2 to the power of one over the
            updates in an epoch.
        max_trials: forward passes in one search, ≥ 1.
        max_step: > 0; no step size grows beyond.
        tolerance: ≥ 0, the rounding error of the loss, in units in its last place.
        on_failure: see ``optimiz.scale_by_armijo``.
        weight_decay: λ ≥ 0, decoupled and multiplied by η; it is part of the direction of search.
        weight_decay_mask: which parameters decay; None for all of them.

    Returns:
        A transformation whose ``update`` needs ``params``, ``value``, ``grad`` and ``value_fn``, see
        ``optimiz.scale_by_armijo``.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: it is outside its domain, or a gradient's shape is not its parameter's.

    Example:
        >>> import jax.numpy as jnp
        >>> tx = armijo_sgd(0.5, shrink=0.5, growth=1.0)
        >>> f = lambda x: 2 * x**2  # curvature 4: c = 1/2 accepts step sizes up to 1/4
        >>> x = jnp.array(1.0)
        >>> extra = {"value": f(x), "grad": jax.grad(f)(x), "value_fn": f}
        >>> updates, state = tx.update(jax.grad(f)(x), tx.init(x), x, **extra)
        >>> float(updates), int(state[-1].evaluations)
        (-1.0, 3)
    """
    checks.number("growth", growth, ge=1)
    return optax.chain(
        decoupled_weight_decay(weight_decay, weight_decay_mask),
        scale_by_armijo(
            c,
            init_step=init_step,
            shrink=shrink,
            growth=partial(numerics.grow_each_step, factor=growth),
            search_due=numerics.search_every(1),
            max_trials=max_trials,
            max_step=max_step,
            tolerance=tolerance,
            on_failure=on_failure,
        ),
    )
