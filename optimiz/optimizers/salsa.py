r"""SaLSa: Adam with a line search whose rule is smoothed over mini-batches.

With D Adam's preconditioner, and m̂ its corrected first moment, the step size η is tried along d_s = D g, and
the parameters move along d = D m̂:

.. math::
    S \leftarrow \beta S + (1 - \beta) \langle g, d_s \rangle, \qquad
    H \leftarrow \beta H + (1 - \beta) \left( f(w) - f(w - \eta d_s) \right) \\
    H \ge c\, \eta\, S, \qquad w \leftarrow w - \eta\, d

H averages the decreases of accepted steps only. Searches are rare, and η is constant in between.

Use :func:`salsa`, whose defaults did best in ``examples/studies/line_search``. :func:`salsa_class` and
:func:`salsa_packaged` reproduce the authors' two implementations, which differ from each other.

Source: Kenneweg, Kenneweg and Hammer, arXiv 2407.20650, and their code.

Departures from the authors' class: the first search of ``salsa`` begins at a small step size and goes up, which
takes four to eight forward passes instead of sixty; there is a search every few updates, where the class
searches at each of the first 70; step sizes grow at searches, are halved when rejected, and are bounded; a
failed search restores η, shrunk once, and resets the averages, where the class keeps 0.9²⁰⁰ of η and takes
thousands of updates to regrow it; the rule allows for the rounding of the loss; the step may be decayed to zero
over a run; parameters may have multipliers of the step size.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax

from optimiz import checks, numerics
from optimiz.primitives.decoupled_weight_decay import decoupled_weight_decay
from optimiz.primitives.on_step import on_step
from optimiz.primitives.scale_by_adam import ScaleByAdamState, scale_by_adam
from optimiz.primitives.scale_by_armijo import scale_by_armijo
from optimiz.primitives.scale_by_groups import scale_by_groups


def salsa(
    decay: optax.Schedule | None = None,
    c: jax.typing.ArrayLike = 0.5,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
    *,
    beta: jax.typing.ArrayLike = 0.99,
    init_step: jax.typing.ArrayLike = 1e-4,
    expand: float | None = 3.0,
    shrink: jax.typing.ArrayLike = 0.5,
    growth: float = 1.44,
    every: int = 10,
    first: int = 5,
    max_trials: int = 20,
    max_step: float = 10.0,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    weight_decay_mask: Any | Callable[[optax.Params], Any] | None = None,
    multipliers: Any | Callable[[optax.Params], Any] = 1.0,
    mu_dtype: jax.typing.DTypeLike | None = None,
    nu_dtype: jax.typing.DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Adam without a learning rate to tune.

    Args:
        decay: schedule of multipliers of the step, from 1 to the fraction that is left at the end of the run,
            such as ``schedules.over_steps(schedules.linear(1.0), steps)``; None for no decay. The search does
            not see it.
        c: c in (0, 1), fraction of the predicted decrease that an accepted step must achieve.
        b1: β₁ in [0, 1), decay rate of the first moment.
        b2: β₂ in [0, 1), decay rate of the second moment.
        eps: ε ≥ 0, added to the root of the second moment.
        beta: β in [0, 1), decay rate of the averages H and S.
        init_step: initial step size η > 0. One that is too small costs a trial or two more.
        expand: factor > 1 for the step size in the first search, applied until a step size is rejected; None to
            take the first that is accepted.
        shrink: factor in (0, 1) for a step size that is rejected.
        growth: factor ≥ 1 for the step size before each search.
        every: number of updates from one search to the next, ≥ 1.
        first: number of updates at the start that are all searched, ≥ 1.
        max_trials: maximum number of forward passes per search, ≥ 1.
        max_step: largest step size, > 0.
        weight_decay: decoupled weight decay λ ≥ 0, a number or a schedule, multiplied by the step size. The
            search leaves it out.
        weight_decay_mask: mask of the parameters that decay, such as ``groups.no_decay()``; None for all.
        multipliers: multipliers of the step size by parameter, as in ``optimiz.scale_by_groups``; a new head on
            a trained network gains from one of 10 to 50. The search takes them into account.
        mu_dtype: dtype of the first moment; None for the parameters' dtype.
        nu_dtype: dtype of the second moment; None for the parameters' dtype, at least float32.

    Returns:
        A transformation whose ``update`` needs ``params``, ``value``, ``grad`` and ``value_fn``, see
        ``optimiz.scale_by_armijo``.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is outside its domain, or a gradient has another shape than its parameter.

    Example:
        >>> tx = salsa(c=0.5, init_step=0.25, expand=2.0)
        >>> f = lambda x: 2 * x**2  # along the sign of the gradient, c = 1/2 accepts up to |x|
        >>> x = jnp.array(1.0)
        >>> extra = {"value": f(x), "grad": jax.grad(f)(x), "value_fn": f}
        >>> updates, state = tx.update(jax.grad(f)(x), tx.init(x), x, **extra)
        >>> round(float(updates), 2), int(state[-1].evaluations)  # 0.36 and 0.72 are accepted, 1.44 is not
        (-0.72, 3)
    """
    checks.number("growth", growth, ge=1)
    checks.integer("every", every, ge=1)
    if decay is not None and not callable(decay):
        raise TypeError(
            f"decay must be a schedule, a function of the update count, or None, got {decay!r}; "
            'under optax.inject_hyperparams name it in static_args=("decay",)'
        )
    share = optax.identity() if decay is None else _scale_by_decay(decay)
    return optax.chain(
        scale_by_adam(b1, b2, eps, mu_dtype=mu_dtype, nu_dtype=nu_dtype, for_search=True),
        on_step(decoupled_weight_decay(weight_decay, weight_decay_mask)),
        scale_by_groups(multipliers),
        on_step(share),
        scale_by_armijo(
            c,
            init_step=init_step,
            expand=expand,
            shrink=shrink,
            growth=partial(numerics.grow_each_search, factor=growth),
            search_due=numerics.search_every(every, first),
            max_trials=max_trials,
            max_step=max_step,
            beta=beta,
        ),
    )


def _scale_by_decay(decay: optax.Schedule) -> optax.GradientTransformation:
    share = checks.schedule("decay", decay)
    tx = optax.scale_by_schedule(share)

    def init_fn(params):
        checks.at_first("decay", share)
        return tx.init(params)

    return optax.GradientTransformation(init_fn, tx.update)


def salsa_class(
    c: jax.typing.ArrayLike = 0.3,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
    *,
    beta: jax.typing.ArrayLike = 0.99,
    init_step: jax.typing.ArrayLike = 0.1,
    units: Callable[[optax.Params], Any] | None = None,
    every_update: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """SaLSa as the authors' class for experiments, with their experiments' c and β.

    Args:
        c: c in (0, 1), fraction of the predicted decrease that an accepted step must achieve.
        b1: β₁ in [0, 1), decay rate of the first moment.
        b2: β₂ in [0, 1), decay rate of the second moment.
        eps: ε ≥ 0, added to the root of the second moment.
        beta: β in [0, 1), decay rate of the averages H and S.
        init_step: initial step size η > 0.
        units: function from the parameters to the unit of each, see ``optimiz.groups.search_units``; None for
            one unit.
        every_update: whether to search at every update, not by the rule of ``optimiz.search_when_changing``.

    Returns:
        A transformation whose ``update`` needs ``params``, ``value``, ``grad`` and ``value_fn``.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is outside its domain, or a gradient has another shape than its parameter.

    Example:
        >>> tx = salsa_class(0.5, init_step=1.0)
        >>> f = lambda x: 2 * x**2
        >>> x = jnp.array(1.0)
        >>> extra = {"value": f(x), "grad": jax.grad(f)(x), "value_fn": f}
        >>> updates, state = tx.update(jax.grad(f)(x), tx.init(x), x, **extra)
        >>> round(float(updates), 4)  # 1.0014 grown is refused, 0.9 of it is not
        -0.9012
    """
    return optax.chain(
        scale_by_adam(b1, b2, eps, for_search=True),
        scale_by_armijo(
            c,
            init_step=init_step,
            shrink=0.9,
            growth=partial(numerics.grow_each_step, factor=2 ** (1 / 500)),
            search_due=numerics.search_every(1) if every_update else numerics.search_when_changing(first=10),
            max_trials=200,
            beta=beta,
            units=units,
            others="prefix",
            together=6,
            together_slope=lambda slopes: slopes[0],
            **_UNGUARDED,
        ),
    )


def salsa_packaged(
    c: jax.typing.ArrayLike = 0.5,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    eps: jax.typing.ArrayLike = 1e-8,
    *,
    beta: jax.typing.ArrayLike = 0.9,
    init_step: jax.typing.ArrayLike = 1.0,
    momentum_search: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """SaLSa as the authors' package ``SaLSa-Optimizer``.

    Its moments are corrected as if there had been one more update. A search moves the parameters to the point
    that was tested, without momentum; growth lasts for one update, unless that update is searched.

    Args:
        c: c in (0, 1), fraction of the predicted decrease that an accepted step must achieve.
        b1: β₁ in [0, 1), decay rate of the first moment.
        b2: β₂ in [0, 1), decay rate of the second moment.
        eps: ε ≥ 0, added to the root of the second moment.
        beta: β in [0, 1), decay rate of the averages H and S.
        init_step: initial step size η > 0.
        momentum_search: whether to search along the direction with momentum (``use_mv`` in the package).

    Returns:
        A transformation whose ``update`` needs ``params``, ``value``, ``grad`` and ``value_fn``.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is outside its domain, or a gradient has another shape than its parameter.

    Example:
        >>> tx = salsa_packaged()
        >>> f = lambda x: 2 * x**2
        >>> x = jnp.array(1.0)
        >>> extra = {"value": f(x), "grad": jax.grad(f)(x), "value_fn": f}
        >>> updates, state = tx.update(jax.grad(f)(x), tx.init(x), x, **extra)
        >>> round(float(state[-1].step_size[0]), 4), int(state[-1].evaluations)  # 1.1 is refused, 0.88 ...
        (0.704, 3)
    """
    adam = scale_by_adam(b1, b2, eps, for_search=not momentum_search)

    def init_fn(params):
        state = cast(ScaleByAdamState, adam.init(params))
        return state._replace(count=jnp.ones([], jnp.int32))

    return optax.chain(
        optax.GradientTransformationExtraArgs(init_fn, adam.update),
        scale_by_armijo(
            c,
            init_step=init_step,
            shrink=0.8,
            growth=partial(numerics.grow_each_step, factor=1.1),
            search_due=numerics.search_when_changing(first=9),
            max_trials=100,
            beta=beta,
            keep_untested=False,
            move_along="search",
            on_ascent="search",
            **_UNGUARDED,
        ),
    )


# Safeguards that the authors' code does not have.
_UNGUARDED: dict[str, Any] = {"min_step": 0.0, "max_step": jnp.inf, "tolerance": 0.0, "on_failure": "keep"}
