r"""SGD with a step size from a line search.

.. math:: f(w) - f(w - \eta g) \ge c\, \eta\, \|g\|^2, \qquad w \leftarrow w - \eta\, g

Before each search η grows by :math:`\gamma^{1/n}`, with n updates per epoch; it then shrinks until the rule
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
    """Gradient descent with a step size searched at every update.

    Args:
        c: c in (0, 1), fraction of the predicted decrease that an accepted step must achieve.
        init_step: initial step size η > 0.
        shrink: factor in (0, 1) for a step size that is rejected.
        growth: factor ≥ 1 for the step size before each search; in the source, 2 to the power of 1 / (updates
            per epoch).
        max_trials: maximum number of forward passes per search, ≥ 1.
        max_step: largest step size, > 0.
        tolerance: rounding error of the loss that the search allows for, ≥ 0, in units in the last place.
        on_failure: what follows a failed search, see ``optimiz.scale_by_armijo``.
        weight_decay: decoupled weight decay λ ≥ 0, a number or a schedule, multiplied by the step size. It is
            part of the search direction.
        weight_decay_mask: mask of the parameters that decay, such as ``groups.no_decay()``; None for all.

    Returns:
        A transformation whose ``update`` needs ``params``, ``value``, ``grad`` and ``value_fn``, see
        ``optimiz.scale_by_armijo``.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is outside its domain, or a gradient has another shape than its parameter.

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
