r"""PLASLS: Adam with a step size for each unit of a network, from line searches in turn.

Like ``adam_sls``, with a step size η_u for each unit u (embeddings, groups of layers, head). Each update
searches one unit, round robin, while the others stand still, and then moves all:

.. math::
    f(w) - f(w - \eta_u d_{s,u}) \ge c\, \eta_u \langle g_u, d_{s,u} \rangle, \qquad
    w_v \leftarrow w_v - \eta_v d_v \text{ for all } v

The first updates search one step size for all units.

Source: Kenneweg, Galli, Kenneweg and Hammer, arXiv 2403.18506, and their code.

Departures from the code: the other units are frozen in a search, as in the paper; ``others="prefix"`` is the
code. The joint searches measure the slope of all units, where the code takes the last one's. Step sizes are
bounded; a search that fails goes back to the last step size; the rule allows for the rounding of the loss.
Units are not merged when their step sizes become small.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jax
import optax

from optimiz import checks, numerics
from optimiz.primitives.decoupled_weight_decay import decoupled_weight_decay
from optimiz.primitives.on_step import on_step
from optimiz.primitives.scale_by_adam import scale_by_adam
from optimiz.primitives.scale_by_armijo import scale_by_armijo


def pla_sls(
    units: Callable[[optax.Params], Any],
    c: jax.typing.ArrayLike = 0.1,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
    *,
    init_step: jax.typing.ArrayLike = 0.1,
    shrink: jax.typing.ArrayLike = 0.9,
    growth: float = 2 ** (1 / 500),
    max_trials: int = 100,
    max_step: float = 10.0,
    tolerance: float = 4.0,
    others: Literal["frozen", "prefix"] = "frozen",
    together: int = 6,
    on_failure: Literal["revert", "keep"] = "revert",
    weight_decay: optax.ScalarOrSchedule = 0.0,
    weight_decay_mask: Any | Callable[[optax.Params], Any] | None = None,
    mu_dtype: jax.typing.DTypeLike | None = None,
    nu_dtype: jax.typing.DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Adam with a step size per unit, one of which is searched at every update.

    Args:
        units: function from the parameters to the unit of each, see ``optimiz.groups.search_units``.
        c: c in (0, 1), fraction of the predicted decrease that an accepted step must achieve.
        b1: β₁ in [0, 1), decay rate of the first moment.
        b2: β₂ in [0, 1), decay rate of the second moment.
        eps: ε ≥ 0, added to the root of the second moment.
        init_step: initial step size η > 0.
        shrink: factor in (0, 1) for a step size that is rejected.
        growth: factor ≥ 1 for the step size before each search.
        max_trials: maximum number of forward passes per search, ≥ 1. From 0.1 down to a step size for
            fine-tuning takes about 60.
        max_step: largest step size, > 0.
        tolerance: rounding error of the loss that the search allows for, ≥ 0, in units in the last place.
        others: position of the other units during a search: ``"frozen"``, unmoved (the paper), or ``"prefix"``,
            with the units before this one moved by their own step sizes (the code).
        together: number of searches at the start, ≥ 0, in which all units share one step size.
        on_failure: what follows a failed search, see ``optimiz.scale_by_armijo``.
        weight_decay: decoupled weight decay λ ≥ 0, a number or a schedule, multiplied by the step size. The
            search leaves it out.
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
        >>> from optimiz import groups
        >>> units = groups.units_by(groups.path("x"))
        >>> tx = pla_sls(units, 0.5, init_step=2.0, shrink=0.5, growth=1.0, together=0)
        >>> f = lambda p: 2 * p["x"] ** 2 + p["y"] ** 2
        >>> p = {"x": jnp.array(1.0), "y": jnp.array(1.0)}
        >>> extra = {"value": f(p), "grad": jax.grad(f)(p), "value_fn": f}
        >>> updates, state = tx.update(jax.grad(f)(p), tx.init(p), p, **extra)
        >>> state[-1].step_size.tolist()  # x was searched; it is y's turn next
        [1.0, 2.0]
    """
    checks.number("growth", growth, ge=1)
    return optax.chain(
        scale_by_adam(b1, b2, eps, mu_dtype=mu_dtype, nu_dtype=nu_dtype, for_search=True),
        on_step(decoupled_weight_decay(weight_decay, weight_decay_mask)),
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
            units=units,
            others=others,
            together=together,
        ),
    )
