r"""The step, found by a line search: minus the first step size tried that decreases the loss enough.

It comes last in a chain, instead of a learning rate. Parameters are divided into *units* u, each with a step
size η_u. A search tries step sizes along the *search direction* until Armijo's rule holds, that is until the
loss falls by at least a share c of what its slope predicts. Then the parameters move along the *step
direction* d:

.. math:: w_u \leftarrow w_u - \eta_u\, d_u

The two directions come as a pair, as :func:`scale_by_adam` returns it; a single tree of updates is both. Every
trial calls ``value_fn``, which must be the loss of one mini-batch under one random key; a trial is one forward
pass and holds one more set of parameters. When an update is differentiated, a step size is a constant multiple
of the one with which its search began, and trials are not differentiated.

Sharded arrays under ``jit`` need nothing special. Under ``shard_map`` and ``pmap`` every device must take the
same decision, so ``value`` and ``value_fn`` must be reduced over devices (``jax.lax.pmean``) and ``grad`` must
be the gradient of the reduced loss. With ``check_vma=True``, arguments that are not reduced are refused, except
for the gradient of a device's own loss, which JAX sums there, so that it looks reduced and is too large.
Without it the mistake cannot be detected, and replicas drift apart or deadlock.

Source: arXiv 1905.09997, 2403.18506 and 2407.20650.

Departures from ``optax.scale_by_backtracking_linesearch``: directions keep the sign of the gradient, and the
minus is here; there is a step size per unit; a failed search shrinks the last step size instead of setting it
to zero; a direction that does not descend is replaced; unrelated extra arguments are ignored; it compiles once.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optimiz import checks, numerics
from optimiz.numerics import Directions


class ScaleByArmijoState(NamedTuple):
    """State of :func:`scale_by_armijo`; U units, floats in float32, or float64 for float64 parameters."""

    count: jax.Array  # int32 scalar: number of updates so far
    step_size: jax.Array  # [U]
    decrease: jax.Array  # [U]: moving average of accepted decreases
    slope: jax.Array  # [U]: moving average of slopes
    last_search: jax.Array  # int32 scalar: the count at the last search
    fast: jax.Array  # scalar: moving average over searches of the first step size, over about 10
    slow: jax.Array  # scalar: the same, over about 100
    searches: jax.Array  # int32 scalar: number of searches so far
    evaluations: jax.Array  # int32 scalar: number of trials so far, each one forward pass
    failures: jax.Array  # int32 scalar: searches in which no trial was accepted
    ascents: jax.Array  # int32 scalar: updates whose direction did not descend and was replaced
    voids: jax.Array  # int32 scalar: updates that moved nothing because value or slope was not finite


def scale_by_armijo(
    c: jax.typing.ArrayLike,
    *,
    init_step: jax.typing.ArrayLike,
    shrink: jax.typing.ArrayLike,
    growth: Callable[[jax.Array, jax.Array], jax.Array],
    search_due: Callable[[ScaleByArmijoState], jax.Array],
    max_trials: int,
    beta: jax.typing.ArrayLike = 0.0,
    expand: float | None = None,
    min_step: float = 1e-10,
    max_step: float = 10.0,
    tolerance: float = 4.0,
    keep_untested: bool = True,
    on_failure: str = "revert",
    on_ascent: str = "steepest",
    move_along: str = "step",
    units: Callable[[optax.Params], Any] | None = None,
    others: str = "frozen",
    together: int = 0,
    together_slope: Callable[[jax.Array], jax.Array] = jnp.sum,
) -> optax.GradientTransformationExtraArgs:
    r"""Multiply by minus the step size that a line search finds.

    Args:
        c: c in (0, 1), fraction of the predicted decrease that an accepted step must achieve.
        init_step: initial step size η > 0.
        shrink: factor in (0, 1) for a step size that is rejected.
        growth: function of the step sizes [U] and whether this update is searched, to the step sizes at which
            the search begins, or which apply without one.
        search_due: function from the state to whether to search; see ``optimiz.search_every`` and
            ``optimiz.search_when_changing``.
        max_trials: maximum number of forward passes per search, ≥ 1.
        beta: β in [0, 1), decay rate of the averages of slope and decrease; 0 for no averaging.
        expand: factor > 1 for the step size in the very first search, applied while trials are accepted; None
            to take the first that is accepted.
        min_step: smallest step size, ≥ 0; a search that reaches it has failed.
        max_step: largest step size, > 0.
        tolerance: rounding error of the loss that the search allows for, ≥ 0, in units in the last place.
        keep_untested: whether growth between searches is kept, not only for one update.
        on_failure: ``"revert"`` to go back to the last step size, shrunk once, and reset the averages;
            ``"keep"`` to keep the last step size tried. Either way, this update moves by the last one tried.
        on_ascent: what to do with updates that do not descend: ``"steepest"`` to take the gradient at the same
            length, ``"search"`` to search along them nevertheless.
        move_along: direction along which the searched unit moves: ``"step"``, or ``"search"``, so that it ends
            at the point that was tested.
        units: function from the parameters to the unit of each, see ``groups.search_units``; None for one unit.
            Units are searched one at a time, in turn.
        others: position of the other units during trials: ``"frozen"``, unmoved, or ``"prefix"``, with the
            units before this one moved by their own step sizes.
        together: number of searches at the start, ≥ 0, in which all units share one step size.
        together_slope: function from the slopes [U] to the slope of these searches.

    Returns:
        A transformation whose ``update`` needs ``params`` and the extra arguments ``value``, ``grad`` and
        ``value_fn``: the loss, its gradient, and the loss as a function of the parameters, which may also
        return a tuple that begins with the loss. Updates have the parameters' dtype. The state has no array of
        a parameter's size.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is outside its domain; or, in ``update``, an extra argument is missing or not
            reduced over devices, or parameters are masked and ``value_fn`` does not fill them in.

    Example:
        >>> from functools import partial
        >>> growth, always = partial(numerics.grow_each_step, factor=1.0), numerics.search_every(1)
        >>> tx = scale_by_armijo(
        ...     0.5, init_step=1.0, shrink=0.5, growth=growth, search_due=always, max_trials=10
        ... )
        >>> f = lambda x: 2 * x**2  # curvature 4: c = 1/2 accepts step sizes up to 1/4
        >>> x = jnp.array(1.0)
        >>> extra = {"value": f(x), "grad": jax.grad(f)(x), "value_fn": f}
        >>> updates, state = tx.update(jax.grad(f)(x), tx.init(x), x, **extra)
        >>> float(updates), float(state.step_size[0]), int(state.evaluations)
        (-1.0, 0.25, 3)
    """
    checks.number("c", c, gt=0, lt=1)
    checks.number("init_step", init_step, gt=0)
    checks.number("shrink", shrink, gt=0, lt=1)
    checks.integer("max_trials", max_trials, ge=1)
    checks.number("beta", beta, ge=0, lt=1)
    if expand is not None:
        checks.number("expand", expand, gt=1)
    checks.number("min_step", min_step, ge=0)
    if not (isinstance(max_step, float) and max_step == math.inf):
        checks.number("max_step", max_step, gt=0)
    checks.number("tolerance", tolerance, ge=0)
    checks.one_of("on_failure", on_failure, ("revert", "keep"))
    checks.one_of("on_ascent", on_ascent, ("steepest", "search"))
    checks.one_of("move_along", move_along, ("step", "search"))
    checks.one_of("others", others, ("frozen", "prefix"))
    checks.integer("together", together, ge=0)
    checks.static("units", units)
    if units is not None and not callable(units) and jax.tree_util.all_leaves([units]):
        raise TypeError(
            f"units must be a function from parameters to the unit of each, or a tree, got {units!r}"
        )
    checks.uncalled("search_due", search_due)
    label = (
        (lambda params: jax.tree.map(lambda _: 0, params))
        if units is None
        else checks.per_parameter("units", units)
    )

    def init_fn(params):
        dtype = jnp.result_type(jnp.float32, *(numerics.real_dtype(p.dtype) for p in jax.tree.leaves(params)))
        number = numerics.number_of_units(label(params))

        def zero():  # one buffer each, so that the state can be donated
            return jnp.zeros([], jnp.int32)

        return ScaleByArmijoState(
            count=zero(),
            step_size=jnp.full(number, init_step, dtype),
            decrease=jnp.zeros(number, dtype),
            slope=jnp.zeros(number, dtype),
            last_search=jnp.zeros([], jnp.int32),
            fast=jnp.full([], 1e-8, dtype),
            slow=jnp.full([], 1e-8, dtype),
            searches=zero(),
            evaluations=zero(),
            failures=zero(),
            ascents=zero(),
            voids=zero(),
        )

    def update_fn(
        updates, state, params: Any = None, *, value: Any = None, grad=None, value_fn: Any = None, **extra_args
    ):
        del extra_args
        checks.needs_params(params)
        checks.only_step("scale_by_armijo", updates, "a second minus goes uphill")
        checks.needs_loss(params, value, grad, value_fn)
        for tree in (grad, *(updates if isinstance(updates, Directions) else (updates,))):
            checks.same_shapes("gradient", tree, "parameter", params)
        dtype, number = state.step_size.dtype, state.step_size.size
        labels, value = label(params), jnp.asarray(value).astype(dtype)

        steepest = on_ascent == "steepest"
        directions, slopes, ascends = numerics.directions_of(updates, grad, labels, dtype, steepest=steepest)
        checks.same_on_devices("value", value)
        checks.same_on_devices("grad", slopes)
        finite = jnp.isfinite(value) & jnp.all(jnp.isfinite(slopes))
        due = search_due(state)
        proposed = jnp.clip(growth(state.step_size, due), min_step, max_step)

        # Whose turn it is: all units in the first searches, then one after the other.
        jointly = (state.searches < together) | (number == 1)
        turn = jnp.where(jointly, 0, (state.searches - together) % number)
        searched = jointly | (jnp.arange(number) == turn)
        ahead = (jnp.arange(number) < turn) & (others == "prefix")

        slope_now = jnp.where(jointly, together_slope(slopes), slopes[turn])
        slope = numerics.smoothed(state.slope[turn], slope_now, beta)
        searching = due & finite & (slope > 0)

        def average_decrease(step_size):
            sizes = Directions(jnp.where(searched, step_size, 0), jnp.where(ahead, proposed, 0))
            with checks.calling("value_fn"):
                trial = value_fn(optax.apply_updates(params, numerics.moves(labels, sizes, directions, params)))
            trial = trial[0] if isinstance(trial, tuple) else trial
            if not jax.tree_util.all_leaves([trial]):
                raise TypeError(f"value_fn must return a scalar, or a tuple that begins so, got {trial!r}")
            trial = jnp.asarray(trial).astype(dtype)
            if trial.shape != ():
                raise ValueError(f"value_fn must return a scalar, got shape {trial.shape}; reduce it to a mean")
            checks.same_on_devices("value_fn", trial)
            return jax.lax.stop_gradient(numerics.smoothed(state.decrease[turn], value - trial, beta))

        def accepts(decrease, step_size):
            rounding = tolerance * jnp.finfo(dtype).eps * jnp.abs(value)
            return numerics.sufficient_decrease(decrease, slope, step_size, c, rounding)

        def search(start):
            return numerics.line_search(
                average_decrease,
                accepts,
                start,
                max_trials=max_trials,
                shrink=shrink,
                expand=1 if expand is None else expand,
                expanding=(state.searches == 0) & (expand is not None),
                min_step=min_step,
                max_step=max_step,
            )

        start = proposed[turn]
        found = numerics.cond(searching, search, numerics.untried, jax.lax.stop_gradient(start))
        found = found._replace(step_size=numerics.multiple_of(start, found.step_size))
        failed = searching & ~found.accepted

        tested = searching & searched
        step_size = jnp.where(tested, found.step_size, proposed)
        restart = failed & (on_failure == "revert")
        kept = jnp.where(tested & restart, state.step_size * shrink, step_size)
        if not keep_untested:
            kept = jnp.where(due, kept, state.step_size)

        moved = jnp.where(finite, step_size, 0)  # 0 · NaN is NaN: what is not finite shows
        tried = tested & (move_along == "search")
        sizes = Directions(jnp.where(tried, moved, 0), jnp.where(tried, 0, moved))
        return numerics.moves(labels, sizes, directions, params), ScaleByArmijoState(
            count=_increment(state.count, True),
            step_size=jnp.where(finite, kept, state.step_size),
            decrease=jnp.where(tested & (found.accepted | restart), found.decrease, state.decrease),
            slope=jnp.where(searched & due & finite, jnp.where(restart, 0, slope), state.slope),
            last_search=jnp.where(searching, state.count, state.last_search),
            fast=jnp.where(searching, numerics.smoothed(state.fast, kept[0], 0.9), state.fast),
            slow=jnp.where(searching, numerics.smoothed(state.slow, kept[0], 0.99), state.slow),
            searches=_increment(state.searches, searching),
            evaluations=_increment(state.evaluations, found.trials),
            failures=_increment(state.failures, failed),
            ascents=_increment(state.ascents, ascends),
            voids=_increment(state.voids, ~finite),
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _increment(count, by):
    limit = jnp.iinfo(jnp.int32).max
    return jnp.minimum(count, limit - by) + by
