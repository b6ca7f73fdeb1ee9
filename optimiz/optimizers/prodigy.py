r"""Prodigy: Adam with a step length that is estimated from the distance that the parameters have moved.

With one estimate d for all parameters, :math:`\theta_0` where they began, the schedule :math:`\eta_t`, and sums
over all parameters:

.. math::
    \gamma &= d\, \eta_t\, c_t \\
    r &\leftarrow \beta_3 r + \gamma\, d\, \langle g, \theta_0 - \theta \rangle, \qquad
        s \leftarrow \beta_3 s + \gamma\, d\, g \\
    m &\leftarrow \beta_1 m + (1 - \beta_1)\, d\, g, \qquad v \leftarrow \beta_2 v + (1 - \beta_2)\, d^2 g^2 \\
    \hat d &= \kappa\, r / \|s\|_1, \qquad
        d' = \min(\max(d_\max, \hat d), \, d\, G) \\
    \theta &\leftarrow \theta - \gamma \left( \frac{m}{\sqrt v + d' \epsilon} + \lambda\, \theta \right),
        \qquad d \leftarrow d'

:math:`c_t` is 1, or with ``bias_correction`` Adam's :math:`\sqrt{1 - \beta_2^t} / (1 - \beta_1^t)`. Until d
first grows, G does not limit it. With ``safeguard_warmup``, γ in s is d. A step with the rate 0 leaves the
parameters and all of the above as they are.

Source: arXiv 2306.06101 (Mishchenko and Defazio), and the authors' code, release 1.1.2, whose defaults these
are: β₃ is √β₂, and there is no bias correction.

Departures from the authors' code: with β₁ = 0 the direction is d g, as in the paper and their reference class,
not d' g; weight decay also acts before the first gradient that is not zero; a group's rate is a multiplier,
with which its parameters are optimized as if they were measured in units of it, where theirs must be equal or
0; an L2 penalty is left to ``optax.add_decayed_weights`` in front.

Departures from ``optax.contrib.prodigy``: the bias correction can be left out, and is; a first rate of 0, as of
a warm-up, and a first gradient of zero do no harm, where Optax's parameters are NaN from then on; a gradient
that is not finite leaves d as it was; d and its sums are at least float32, so that they grow for bfloat16
parameters; the distance that parameters have moved is kept, not where they began, so that the state can be
donated, made from shapes, and stored in few bits; growth can be limited.

With ``slice_p``, both sums are over every p-th entry of each parameter, flattened, from the first. So s and the
distance moved are kept for these alone, and d differs from that of all entries as a sample does. A parameter
that is split over axes of type ``Explicit`` is gathered to be flattened.

d, in the state as ``distance``, is one number for all parameters that the transformation is given: each group
of ``optax.partition`` has its own. The sums are over whole arrays, whatever their sharding; under
``jax.shard_map``, parameters must not be split. What changes the updates afterwards, except for rounding, is
not seen: give ``multipliers`` to the optimizer. Parameters in bfloat16 need ``optimiz.stochastic_rounding`` or
``optimiz.kahan`` behind it, or they stay where they are until steps are large enough.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer
from jax.sharding import PartitionSpec

from optimiz import checks, numerics
from optimiz.primitives.decoupled_weight_decay import Coupling, decoupled_weight_decay
from optimiz.primitives.scale_by_groups import scale_by_groups
from optimiz.primitives.scale_by_learning_rate import scale_by_learning_rate

# What may come after the estimate: the step, and what keeps it.
_AFTER = ("scale_by_learning_rate", "stochastic_rounding", "kahan")


class ScaleByProdigyState(NamedTuple):
    """State of :func:`scale_by_prodigy`; scalars in the widest real dtype of the parameters' computations."""

    count: jax.Array  # int32 scalar: steps taken so far, t
    updates: jax.Array  # int32 scalar: updates so far, with those whose rate was 0; counts the schedule
    distance: jax.Array  # scalar: d, the estimated distance to the solution
    distance_max: jax.Array  # scalar: the largest estimate, which d approaches if its growth is limited
    numerator: jax.Array  # scalar: r / d₀
    mu: optax.Updates  # m / d₀; like the parameters
    nu: optax.Updates  # v / d₀²; like the parameters, real
    grad_sum: optax.Updates  # s / d₀; like the parameters, or [n / p] of each with slice_p
    moved: optax.Updates  # θ - θ₀; likewise
    decay: Any  # state of the weight decay


def scale_by_prodigy(
    learning_rate: optax.ScalarOrSchedule = 1.0,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    b3: jax.typing.ArrayLike | None = None,
    eps: jax.typing.ArrayLike = 1e-8,
    *,
    d0: jax.typing.ArrayLike = 1e-6,
    d_coef: jax.typing.ArrayLike = 1.0,
    growth_rate: jax.typing.ArrayLike = math.inf,
    bias_correction: bool = False,
    safeguard_warmup: bool = False,
    slice_p: int | None = None,
    decay: optax.GradientTransformation | None = None,
    decay_by_distance: bool = True,
    multipliers: Any | Callable[[optax.Params], Any] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Rescale updates by Prodigy's rule, with the estimated step length in them.

    Args:
        learning_rate: η ≥ 0 of the step that follows, a number or a schedule of the 0-based update count; the
            estimate depends on it.
        b1: β₁ in [0, 1), decay rate of the first moment.
        b2: β₂ in [0, 1), decay rate of the second moment.
        b3: β₃ in [0, 1), decay rate of the sums that estimate the distance; None for √β₂.
        eps: ε ≥ 0, times the distance added to the root of the second moment.
        d0: d₀ > 0, the first estimate of the distance.
        d_coef: κ > 0, factor of the estimate.
        growth_rate: G ≥ 1, the largest factor by which the estimate grows in a step, after its first growth;
            infinite for no limit.
        bias_correction: whether to correct the bias of the moments, as Adam does.
        safeguard_warmup: whether the sum of gradients leaves the rate out, so that the small rates of a warm-up
            make no large estimate.
        slice_p: the distance is estimated from every p-th entry of a parameter, p ≥ 1; None for all. It
            determines shapes: name it in ``static_args`` of ``optax.inject_hyperparams``.
        decay: transformation that adds a multiple of each parameter to the direction, such as
            ``optimiz.decoupled_weight_decay``; None for no decay.
        decay_by_distance: whether the decay is scaled by d, as the direction is.
        multipliers: multipliers of the step by parameter, see ``optimiz.scale_by_groups``; None for 1.

    Returns:
        A transformation that keeps the dtype of its updates; ``scale_by_learning_rate`` with the same rate is
        to follow.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is outside its domain; the shape of a gradient differs from that of its
            parameter; or something changes the direction, after it in a chain or around it.

    Example:
        >>> tx = scale_by_prodigy(b1=0.0, b2=0.75, eps=0.0, d0=0.5)
        >>> updates, state = tx.update(jnp.array([3.0]), tx.init(jnp.zeros(1)))
        >>> updates.tolist(), float(state.distance)  # d₀ / √(1 - β₂)
        ([1.0], 0.5)
    """
    rate = checks.schedule("learning_rate", learning_rate)
    checks.number("b1", b1, ge=0, lt=1)
    checks.number("b2", b2, ge=0, lt=1, typical=0.999)
    if b3 is not None:
        checks.number("b3", b3, ge=0, lt=1, typical=0.9995)
    checks.number("eps", eps, ge=0, typical=1e-8)
    checks.number("d0", d0, gt=0, typical=1e-6)
    checks.number("d_coef", d_coef, gt=0)
    unlimited = isinstance(growth_rate, float) and growth_rate == math.inf
    if not unlimited:
        checks.number("growth_rate", growth_rate, ge=1)
    checks.one_of("bias_correction", bias_correction, (False, True))
    checks.one_of("safeguard_warmup", safeguard_warmup, (False, True))
    if isinstance(slice_p, Tracer):
        checks.static("slice_p", slice_p)
    if slice_p is not None:
        checks.integer("slice_p", slice_p, ge=1)
    decay = optax.identity() if decay is None else decay
    checks.transformation("decay", decay)
    scale = optax.identity() if multipliers is None else scale_by_groups(multipliers)

    def multiplied(tree):
        return scale.update(tree, optax.EmptyState())[0]

    def sampled(tree):
        return tree if slice_p is None else jax.tree.map(functools.partial(_every, slice_p), tree)

    def init_fn(params):
        scale.init(params)  # raises here, not at the first update, if a rule does not fit
        dtypes = (numerics.real_dtype(p.dtype) for p in jax.tree.leaves(params))
        dtype = functools.reduce(jnp.promote_types, dtypes, jnp.dtype(jnp.float32))
        zero = jnp.zeros([], jnp.int32)
        distance, distance_max = (jnp.full([], d0, dtype) for _ in range(2))
        mu = jax.tree.map(lambda p: numerics.zero_moment(p, None), params)
        some = params if slice_p is None else jax.eval_shape(sampled, params)
        grad_sum, moved = (jax.tree.map(lambda p: numerics.zero_moment(p, None), some) for _ in range(2))
        nu = jax.tree.map(lambda p: numerics.real_moment(p, None), params)
        numerator, counts = jnp.zeros([], dtype), (zero, jnp.zeros_like(zero))
        return ScaleByProdigyState(
            *counts, distance, distance_max, numerator, mu, nu, grad_sum, moved, decay.init(params)
        )

    def update_fn(updates, state, params=None, **extra_args):
        del extra_args
        checks.step_follows("scale_by_prodigy", params, but=_AFTER)
        checks.same_shapes("gradient", updates, "parameter", state.mu)
        d, scalar = state.distance, state.distance.dtype
        eta = rate(state.updates).astype(scalar)
        count = numerics.increment(state.count)
        correction = _correction(b1, b2, count.astype(scalar)) if bias_correction else jnp.ones([], scalar)
        moves = eta > 0
        relative = d / d0  # in place of d, which cancels, so that small numbers stay in range
        gamma = d * eta * correction

        def kept(b):  # the decay rate of a step, and what is left for the new term
            one, zero = jnp.ones([], scalar), jnp.zeros([], scalar)
            return (
                jnp.where(moves, jnp.asarray(b, scalar), one),
                jnp.where(moves, jnp.asarray(1 - b, scalar), zero),
            )

        keep, _ = kept(jnp.asarray(b2, scalar) ** 0.5 if b3 is None else b3)
        weight = jnp.where(moves, relative * (d if safeguard_warmup else gamma), 0)

        def summed(g, total):
            real = numerics.real_dtype(g.dtype)
            new = keep.astype(real) * total + weight.astype(real) * g
            return new.astype(total.dtype), jnp.sum(jnp.abs(new))

        def product(g, moved):
            # Not limited as in the moments, with which a sum would not be fused. Those above are not either, so
            # that the ratio is right. numerics.fusion, rule 1: a narrow gradient is widened for each.
            g = numerics.rematerialise(g) if numerics.is_narrow(g.dtype) else g
            return jnp.sum((numerics.widen(g).conj() * moved).real)

        wide = numerics.map_leaves(numerics.widen, updates)
        grad_sum, lengths = numerics.map_many(summed, 2, sampled(multiplied(wide)), state.grad_sum)
        products = numerics.map_leaves(product, sampled(updates), state.moved)
        length, slope = (_total(tree, scalar) for tree in (lengths, products))
        numerator = keep * state.numerator - relative * gamma * slope

        # Not so if there is no gradient yet, or one is not finite or too large to be summed.
        takes = moves & (length > 0) & jnp.isfinite(length) & jnp.isfinite(numerator)
        numerator = jnp.where(takes, numerator, state.numerator)
        estimate = d_coef * numerator / jnp.where(takes, length, 1)
        largest = jnp.where(takes, jnp.maximum(state.distance_max, estimate), state.distance_max).astype(scalar)
        before = jnp.where(d == jnp.asarray(d0, scalar), jnp.maximum(d, estimate), d)
        limited = (
            largest if unlimited else jnp.minimum(largest, before * growth_rate)
        )  # 0 × ∞ has no derivative
        new_d = jnp.where(takes, limited, d).astype(scalar)

        of_m, of_v = kept(b1), kept(b2)
        scalars = (relative, new_d / d0 * eps, d * correction, eta, of_m, of_v)
        relative, least, length_of_step, eta, of_m, of_v = numerics.rematerialise(scalars)

        def moments(g, mu, nu):
            wide, real = numerics.widen(g), numerics.real_dtype(g.dtype)
            (keep_m, new_m), (keep_v, new_v) = (tuple(x.astype(real) for x in of) for of in (of_m, of_v))
            m = keep_m * mu + new_m * (relative.astype(real) * numerics.squarable(wide))
            v = keep_v * nu + new_v * numerics.limited_square(relative.astype(real) * wide)
            return m.astype(mu.dtype), v.astype(nu.dtype)

        def direction(one):
            def unit(m, v):
                # Where the root is 0, all gradients were 0, and so is m.
                return m / numerics.nonzero_divisor(jnp.sqrt(one.astype(v.dtype) * v) + least.astype(v.dtype))

            def lengthened(tree):
                return numerics.map_leaves(lambda u: numerics.times(length_of_step, u), tree)

            found = numerics.map_leaves(unit, mu, nu)
            if decay_by_distance:
                found, decay_state = decay.update(found, state.decay, params)
                return multiplied(lengthened(found)), decay_state
            found, decay_state = decay.update(lengthened(found), state.decay, params)
            return multiplied(found), decay_state

        # numerics.fusion, rule 1: computed for what has moved, and again for the update. A factor that XLA does
        # not know to be 1 keeps the two apart, whatever is around the optimizer.
        one = jnp.ones([], scalar)
        mu, nu = numerics.map_many(moments, 2, updates, state.mu, state.nu)
        found, decay_state = direction(one)
        moved = numerics.map_leaves(
            lambda x, u: (x - numerics.times(eta, u)).astype(x.dtype), state.moved, sampled(found)
        )
        found, _ = direction(numerics.rematerialise(one))
        found = jax.tree.map(lambda u, g: u.astype(g.dtype), found, updates)
        counts = jnp.where(takes, count, state.count), numerics.increment(state.updates)
        return found, ScaleByProdigyState(
            *counts, new_d, largest, numerator, mu, nu, grad_sum, moved, decay_state
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _correction(b1: jax.typing.ArrayLike, b2: jax.typing.ArrayLike, count: jax.Array) -> jax.Array:
    return jnp.sqrt(numerics.bias_correction(b2, count)) / numerics.bias_correction(b1, count)


def _every(p: int, x: jax.Array) -> jax.Array:
    """Every p-th entry, in the order of rows."""
    if any(jax.typeof(x).sharding.spec):
        x = jax.sharding.reshard(x, PartitionSpec(*[None] * x.ndim))
    return x.reshape(-1)[::p]


def _total(tree: Any, dtype: jnp.dtype) -> jax.Array:
    return jnp.sum(numerics.stacked([jnp.zeros([], dtype), *(x.astype(dtype) for x in jax.tree.leaves(tree))]))


def prodigy(
    learning_rate: optax.ScalarOrSchedule = 1.0,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.999,
    b3: jax.typing.ArrayLike | None = None,
    eps: jax.typing.ArrayLike = 1e-8,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    mask: Any | Callable[[optax.Params], Any] | None = None,
    *,
    weight_decay_mask: Any | Callable[[optax.Params], Any] | None = None,
    decay_coupling: Coupling = "learning_rate",
    d0: jax.typing.ArrayLike = 1e-6,
    d_coef: jax.typing.ArrayLike = 1.0,
    growth_rate: jax.typing.ArrayLike = math.inf,
    bias_correction: bool = False,
    safeguard_warmup: bool = False,
    slice_p: int | None = None,
    multipliers: Any | Callable[[optax.Params], Any] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Adam without a learning rate: the step length is estimated.

    Args:
        learning_rate: η ≥ 0, a factor of the estimated step length: 1, or a schedule, of the 0-based update
            count, with the peak 1.
        b1: β₁ in [0, 1), decay rate of the first moment.
        b2: β₂ in [0, 1), decay rate of the second moment.
        b3: β₃ in [0, 1), decay rate of the sums that estimate the distance; None for √β₂.
        eps: ε ≥ 0, times the distance added to the root of the second moment.
        weight_decay: decoupled weight decay λ ≥ 0, a number or a schedule.
        mask: mask of the parameters that decay, such as ``groups.no_decay()``; None for all.
        weight_decay_mask: alias of ``mask``, under the name that all optimizers share.
        decay_coupling: how the decay scales with the step length, see ``optimiz.decoupled_weight_decay``:
            ``"learning_rate"`` for d η λ, ``"schedule"`` and ``"independent"`` for theirs, without d.
        d0: d₀ > 0, the first estimate of the distance; too small is better than too large.
        d_coef: κ > 0, factor of the estimate; to be tuned in place of a learning rate.
        growth_rate: G ≥ 1, the largest factor by which the estimate grows in a step, after its first growth;
            infinite for no limit.
        bias_correction: whether to correct the bias of the moments, as Adam does.
        safeguard_warmup: whether the sum of gradients leaves the rate out; for warm-ups.
        slice_p: the distance is estimated from every p-th entry of a parameter, p ≥ 1; None for all. The
            estimate then takes 8 / p bytes of float32 state for each parameter, not 8. The authors advise 11.
        multipliers: multipliers of the step by parameter, see ``optimiz.scale_by_groups``; None for 1.

    Returns:
        A transformation whose ``update`` needs the parameters if there is weight decay.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is outside its domain, or the shape of a gradient differs from that of its
            parameter.

    Example:
        >>> tx = prodigy(b1=0.0, b2=0.0, b3=0.0, d0=0.5, eps=0.0)
        >>> params = jnp.array([3.0, -1.0])
        >>> state = tx.init(params)
        >>> for _ in range(3):
        ...     updates, state = tx.update(params, state, params)
        ...     params = optax.apply_updates(params, updates)
        ...     print(params.tolist(), float(state[0].distance))
        [2.5, -0.5] 0.5
        [2.0, 0.0] 0.5
        [1.5, 0.0] 1.0
    """
    return optax.chain(
        scale_by_prodigy(
            learning_rate,
            b1,
            b2,
            b3,
            eps,
            d0=d0,
            d_coef=d_coef,
            growth_rate=growth_rate,
            bias_correction=bias_correction,
            safeguard_warmup=safeguard_warmup,
            slice_p=slice_p,
            decay=decoupled_weight_decay(
                weight_decay,
                checks.either("mask", mask, "weight_decay_mask", weight_decay_mask),
                coupling=decay_coupling,
                learning_rate=learning_rate,
            ),
            decay_by_distance=decay_coupling == "learning_rate",
            multipliers=multipliers,
        ),
        scale_by_learning_rate(learning_rate, counted_elsewhere=True),
    )
