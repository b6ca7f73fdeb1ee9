r"""Schedule-free learning: an average in place of a decaying learning rate.

The optimizer walks along z, gradients are taken at y, which is what the parameters hold, and x, the average of
z, is what is evaluated and kept:

.. math::
    \eta_t &= \text{lr}_t \min(1, t / \text{warm-up}), \qquad
        w_t = t^r \max_{i \le t} \eta_i^p, \qquad c_t = w_t / \sum_{i \le t} w_i \\
    z &\leftarrow z - \eta_t\, d \\
    x &\leftarrow (1 - c_t)\, x + c_t\, z, \qquad y \leftarrow \beta_1 x + (1 - \beta_1)\, z

d is any direction of ascent without momentum: β₁ takes its place. Weight decay is part of it, and so is taken
at y. The learning rate needs no decay, and the length of the run need not be known; warm-up pays.

``optimiz.averaged_params`` reads x, and ``optimiz.training.fit`` evaluates, saves and returns it. Only z is
held next to the parameters, and x is computed from y and z. For parameters with fewer bits than float32, which
are too coarse for that, x is held too, and y is rounded from it: nothing drifts.

Source: arXiv 2405.15682 (Defazio et al.) and the authors' package ``schedulefree``.

Departures from the authors' package: x is held for parameters of low precision; a learning rate of zero at the
beginning moves nothing and has no weight.

Departures from ``optax.contrib.schedule_free``: it goes around a direction, where Optax's goes around an
optimizer that makes steps, which is refused here; steps and weights read the same learning rate, where Optax's
weights are one step ahead; the first step of the warm-up moves; weights in float32, where Optax sums them in
the parameters' dtype and stops at 256 in bfloat16; r; the average is found in any nested state; what would come
after it in a chain is refused; initialisation from shapes.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optimiz import checks, numerics
from optimiz.averaged_params import where_kept


class ScheduleFreeState(NamedTuple):
    """State of :func:`schedule_free`."""

    count: jax.Array  # int32 scalar: number of updates so far
    rate: jax.Array  # float32 scalar: η of the last update
    # Scalars in the widest dtype of the parameters, at least float32.
    largest: jax.Array  # the largest η so far
    weight_sum: jax.Array
    b1: jax.Array
    z: optax.Params  # like the parameters, at least float32
    x: optax.Params  # float32; an empty node for parameters that are not of low precision
    inner_state: Any  # state of the direction

    def averaged(self, params: optax.Params) -> optax.Params:
        """X in the parameters' dtypes, see ``optimiz.averaged_params``."""

        def leaf(z: jax.Array, y: jax.Array, x: Any) -> jax.Array:
            if isinstance(x, optax.MaskedNode):
                x = z + (y - z) / self.b1.astype(numerics.real_dtype(z.dtype))
            return x.astype(y.dtype)

        return where_kept(leaf, self.z, params, self.x)


def warmed(learning_rate: optax.ScalarOrSchedule, warmup_steps: int) -> Callable[..., jax.Array]:
    """The step size as a function of the 0-based update count, and of the dtype to compute it in.

    Args:
        learning_rate: η ≥ 0, a number or a schedule.
        warmup_steps: number of updates ≥ 0 over which the learning rate rises from 0.
    """
    rate = checks.schedule("learning_rate", learning_rate)
    checks.integer("warmup_steps", warmup_steps, ge=0)

    def step_size(count: jax.typing.ArrayLike, dtype: jax.typing.DTypeLike = jnp.float32) -> jax.Array:
        eta = jnp.asarray(rate(count), dtype)
        return eta * jnp.minimum(jnp.asarray(count + 1, dtype) / warmup_steps, 1) if warmup_steps else eta

    return step_size


def schedule_free(
    direction: optax.GradientTransformation,
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.9,
    *,
    warmup_steps: int = 0,
    r: float = 0.0,
    weight_lr_power: float = 2.0,
) -> optax.GradientTransformationExtraArgs:
    """Step along any direction of ascent by the schedule-free rule.

    Args:
        direction: transformation of gradients into a direction of ascent, without momentum and without a
            learning rate, such as ``optax.scale_by_rms()``, or ``optax.identity()`` for SGD. Weight decay, if
            any, is part of it.
        learning_rate: learning rate η ≥ 0, a number or a schedule of the 0-based update count; it needs no
            decay.
        b1: β₁ in (0, 1), the share of x in y.
        warmup_steps: number of updates ≥ 0 over which the learning rate rises from 0.
        r: power ≥ 0 of the update count in the weights of the average.
        weight_lr_power: power p ≥ 0 of the largest learning rate so far in those weights.

    Returns:
        A transformation that comes last in a chain; only rounding may come after it. Its ``update`` needs the
        parameters.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is outside its domain; in ``init``, ``direction`` makes steps, as a whole
            optimizer does; or, in ``update``, the parameters are missing, a gradient has another shape than its
            parameter, a step comes before it in a chain, or something comes after it.

    Example:
        >>> tx = schedule_free(optax.identity(), 1.0, b1=0.5)
        >>> params = jnp.array(0.0)
        >>> state = tx.init(params)
        >>> for g in (-2.0, -4.0):  # z = 2, 6; x = 2, 4; y = 2, 5
        ...     updates, state = tx.update(jnp.array(g), state, params)
        ...     params = optax.apply_updates(params, updates)
        >>> float(params), float(state.averaged(params))
        (5.0, 4.0)
    """
    checks.transformation("direction", direction)
    step_size = warmed(learning_rate, warmup_steps)
    checks.number("b1", b1, gt=0, lt=1)
    checks.number("r", r, ge=0)
    checks.number("weight_lr_power", weight_lr_power, ge=0)
    direction = optax.with_extra_args_support(direction)

    def init_fn(params):
        z = jax.tree.map(numerics.wide_copy, params)
        x = jax.tree.map(
            lambda p: numerics.wide_copy(p) if numerics.is_narrow(p.dtype) else optax.MaskedNode(), params
        )
        wide = functools.reduce(
            jnp.promote_types, (numerics.real_dtype(p.dtype) for p in jax.tree.leaves(params)), jnp.float32
        )
        count = jnp.zeros([], jnp.int32)
        eta = step_size(count, wide).astype(jnp.float32)
        largest, weight_sum, share = (jnp.array(scalar, wide, copy=True) for scalar in (0, 0, b1))
        inner_state = direction.init(params)
        checks.no_step_in("schedule_free", direction, inner_state, params)
        return ScheduleFreeState(count, eta, largest, weight_sum, share, z, x, inner_state)

    def update_fn(updates, state, params=None, **extra_args):
        checks.needs_params(params)
        checks.comes_last("schedule_free", params, but=("stochastic_rounding", "kahan"))
        checks.no_step_before("schedule_free", updates, "it is the step; a second minus goes uphill")
        checks.same_shapes("gradient", updates, "parameter", params)
        directions, inner_state = direction.update(updates, state.inner_state, params, **extra_args)
        count, wide = numerics.increment(state.count), state.weight_sum.dtype
        eta = step_size(state.count, wide)
        largest = jnp.maximum(state.largest, eta)
        weight = jnp.where(largest > 0, count.astype(wide) ** r * largest**weight_lr_power, 0)
        weight_sum = state.weight_sum + weight
        c = weight / jnp.where(weight_sum > 0, weight_sum, 1)

        def leaf(d, y, z, x):
            real = numerics.real_dtype(z.dtype)
            step, share, of_x = (s.astype(real) for s in (eta, c, jnp.asarray(b1, real)))
            d, p = d.astype(z.dtype), numerics.widen(y)
            new_z = z - step * d
            if isinstance(x, optax.MaskedNode):
                # From the difference, which may be far smaller than y; numerics.fusion, rule 3, for z.
                update = share * (new_z - p) + step * (of_x - 1) * (1 - share) * d
            else:
                x = x + share * (new_z - x)
                update = x + (1 - of_x) * (new_z - x) - p
            return update.astype(y.dtype), new_z, x

        updates, z, x = numerics.map_many(leaf, 3, directions, params, state.z, state.x)
        eta = eta.astype(jnp.float32)
        return updates, ScheduleFreeState(count, eta, largest, weight_sum, state.b1, z, x, inner_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
