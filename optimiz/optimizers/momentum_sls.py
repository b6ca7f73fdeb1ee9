r"""Adam with a line search along its own direction, momentum included.

.. math::
    H \leftarrow \beta H + (1 - \beta) (f(w) - f(w - \eta d)), \qquad
    S \leftarrow \beta S + (1 - \beta) \langle g, d \rangle \\
    H \ge c\, \eta\, S, \qquad w \leftarrow w - \eta\, d

where d is Adam's direction; the parameters move to the point that was tested.

Source: Kenneweg, Kenneweg and Hammer, arXiv 2403.18519, and their code.

Departures from the code: the slope is the exact ⟨g, d⟩ and not a difference quotient over 5e-9, which float32
cannot resolve and which costs at least one more forward pass; a direction that does not descend on this batch
is replaced by the gradient at the same length, where the code asks for a rise of at most c; step sizes are
bounded; a search that fails goes back to the last step size; the rule allows for the rounding of the loss.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jax
import optax

from optimiz import checks, numerics
from optimiz.primitives.decoupled_weight_decay import decoupled_weight_decay
from optimiz.primitives.scale_by_adam import scale_by_adam
from optimiz.primitives.scale_by_armijo import scale_by_armijo


def momentum_sls(
    c: jax.typing.ArrayLike = 0.3,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
    *,
    init_step: jax.typing.ArrayLike = 0.1,
    beta: jax.typing.ArrayLike = 0.99,
    shrink: jax.typing.ArrayLike = 0.9,
    growth: float = 1 / 0.999,
    max_trials: int = 100,
    max_step: float = 10.0,
    tolerance: float = 4.0,
    on_failure: Literal["revert", "keep"] = "revert",
    weight_decay: optax.ScalarOrSchedule = 0.0,
    weight_decay_mask: Any | Callable[[optax.Params], Any] | None = None,
    mu_dtype: jax.typing.DTypeLike | None = None,
    nu_dtype: jax.typing.DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Adam with a step size searched along its own direction.

    Args:
        c: c in (0, 1), fraction of the predicted decrease that an accepted step must achieve.
        b1: β₁ in [0, 1), decay rate of the first moment.
        b2: β₂ in [0, 1), decay rate of the second moment.
        eps: ε ≥ 0, added to the root of the second moment.
        init_step: initial step size η > 0.
        beta: β in [0, 1), decay rate of the averages H and S.
        shrink: factor in (0, 1) for a step size that is rejected.
        growth: factor ≥ 1 for the step size before each search.
        max_trials: maximum number of forward passes per search, ≥ 1. From 0.1 down to a step size for
            fine-tuning takes about 60.
        max_step: largest step size, > 0.
        tolerance: rounding error of the loss that the search allows for, ≥ 0, in units in the last place.
        on_failure: what follows a failed search, see ``optimiz.scale_by_armijo``.
        weight_decay: decoupled weight decay λ ≥ 0, a number or a schedule, multiplied by the step size. It is
            part of the search direction.
        weight_decay_mask: mask of the parameters that decay, such as ``groups.no_decay()``; None for all.
        mu_dtype: dtype of the first moment; None for the parameters' dtype.
        nu_dtype: dtype of the second moment; None for the parameters' dtype, at least float32.

    Returns:
        A transformation whose ``update`` needs ``params``, ``value``, ``grad`` and ``value_fn``, see
        ``optimiz.scale_by_armijo``.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is outside its domain, or a gradient has another shape than its parameter.

    Example:
        >>> import jax.numpy as jnp
        >>> tx = momentum_sls(0.5, init_step=2.0, shrink=0.5, growth=1.0)
        >>> f = lambda x: 2 * x**2  # along the sign of the gradient, c = 1/2 accepts up to |x|
        >>> x = jnp.array(1.0)
        >>> extra = {"value": f(x), "grad": jax.grad(f)(x), "value_fn": f}
        >>> updates, state = tx.update(jax.grad(f)(x), tx.init(x), x, **extra)
        >>> round(float(updates), 4), int(state[-1].evaluations)
        (-1.0, 2)
    """
    checks.number("growth", growth, ge=1)
    return optax.chain(
        scale_by_adam(b1, b2, eps, mu_dtype=mu_dtype, nu_dtype=nu_dtype),
        decoupled_weight_decay(weight_decay, weight_decay_mask),
        scale_by_armijo(
            c,
            init_step=init_step,
            shrink=shrink,
            growth=partial(numerics.grow_each_step, factor=growth),
            search_due=numerics.search_every(1),
            beta=beta,
            max_trials=max_trials,
            max_step=max_step,
            tolerance=tolerance,
            on_failure=on_failure,
        ),
    )
