r"""Average the parameters that an optimizer passes through, for evaluation; training is not affected.

.. math::
    w_t = d\, w_{t-1} + 1, \qquad a_t = a_{t-1} + (\theta_t - a_{t-1}) / w_t, \qquad w_0 = 0

This is the mean of the parameters after each update with weights :math:`d^{t-i}`: for d < 1 the exponential
moving average without its bias to the beginning, for d = 1 the uniform average of Polyak and Ruppert. With
``power`` p the decay warms up, so that a long average forgets the beginning of a run:

.. math::
    w_t = \min\left(t^p, \frac{1}{1 - d}\right)

An average is nearly a schedule: for SGD at a constant rate on given gradients, the uniform average is the last
iterate of a run whose rate decays linearly to zero. It helps a run at a constant rate or before the decay, and
lags behind the last iterate of a run whose rate has reached zero.

Source: Polyak and Juditsky (SIAM J. Control Optim. 30, 1992); averages of weights in deep learning,
arXiv 1803.05407 (Izmailov et al.); the warm-up is that of timm's ``ModelEmaV3``. Departures from
``torch.optim.swa_utils``: no bias, averages in float32 for parameters of fewer bits, in which they stall.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optimiz import checks, numerics
from optimiz.averaged_params import where_kept


class AverageState(NamedTuple):
    """State of :func:`average`."""

    steps: jax.Array  # int32 scalar: updates made so far
    weight: jax.Array  # float32 scalar: w, the sum of the weights so far
    average: optax.Params  # a; like the parameters, at least float32
    inner_state: Any  # state of the optimizer

    def averaged(self, params: optax.Params) -> optax.Params:
        """The average in the parameters' dtypes, see ``optimiz.averaged_params``."""
        return where_kept(lambda average, p: average.astype(p.dtype), self.average, params)


def average(
    tx: optax.GradientTransformation,
    decay: jax.typing.ArrayLike = 0.999,
    *,
    start: jax.typing.ArrayLike = 0,
    power: jax.typing.ArrayLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Keep an average of the parameters next to an optimizer; ``optimiz.averaged_params`` reads it.

    Put it around everything that changes the update, rounding included, and inside of ``optimiz.guard``,
    ``optimiz.accumulate`` or ``optax.MultiSteps``, which then leave it alone at a step that is none.

    Args:
        tx: any transformation that returns updates.
        decay: d in (0, 1], by which a weight shrinks at each update, such that 1 / (1 - d) updates count; 1 for
            the mean of all.
        start: number of updates ≥ 0 that are left out of the average, such as those of the warm-up, or the
            first part of a run for a tail average. Until then the average is the parameters.
        power: p in (0, 1], with which the parameters after the t-th update of the average have a share of at
            least t^-p of it. At timm's 2/3, d = 0.999 is reached after 31,600 updates; 1 is the mean of all
            until 1 / (1 - d) updates. None for no warm-up.

    Returns:
        A transformation with the updates of ``tx``, whose ``update`` needs the parameters. Its state has four
        more bytes per parameter.

    Raises:
        TypeError: ``tx`` is not a transformation, or an argument has the wrong type.
        ValueError: an argument is outside its domain; or, in ``update``, the parameters are missing, or another
            transformation comes after this one in a chain.

    Example:
        >>> tx = average(optax.sgd(1.0), decay=0.5)
        >>> params = jnp.array(0.0)
        >>> state = tx.init(params)
        >>> for g in (-2.0, -4.0):  # parameters 2, 6; weights 1/3, 2/3
        ...     updates, state = tx.update(jnp.array(g), state, params)
        ...     params = optax.apply_updates(params, updates)
        >>> round(float(state.averaged(params)), 4)  # optimiz.averaged_params finds it in any state
        4.6667
    """
    checks.transformation("tx", tx)
    checks.number("decay", decay, gt=0, le=1, typical=0.999)
    checks.integer("start", start, ge=0)
    if power is not None:
        checks.number("power", power, gt=0, le=1, typical=2 / 3)
    tx = optax.with_extra_args_support(tx)

    def weight_after(n: jax.Array, weight: jax.Array) -> jax.Array:
        """The sum of the weights at the n-th update of the average, from the sum before it."""
        if power is None:
            return jnp.asarray(decay * weight + 1)
        return jnp.minimum(jnp.maximum(n, 1).astype(jnp.float32) ** power, 1 / (1 - jnp.float32(decay)))

    def init_fn(params):
        copies = jax.tree.map(numerics.wide_copy, params)
        return AverageState(jnp.zeros([], jnp.int32), jnp.zeros([], jnp.float32), copies, tx.init(params))

    def update_fn(updates, state, params=None, **extra_args):
        checks.needs_params(params)
        checks.comes_last("average", params)
        updates, inner_state = tx.update(updates, state.inner_state, params, **extra_args)
        begun = state.steps >= start
        weight = weight_after(state.steps - start + 1, state.weight)
        weight = jnp.where(begun, weight, 0).astype(jnp.float32)

        def leaf(average, u, p):
            new = p.astype(average.dtype) + u.astype(average.dtype)
            # As optax.apply_updates rounds it; XLA may drop a conversion and back, but not this.
            new = numerics.nearest(new, p.dtype) if numerics.is_narrow(p.dtype) else new
            share = jnp.where(begun, 1 / weight, 1).astype(numerics.real_dtype(average.dtype))
            return average + share * (new - average)

        averages = numerics.map_leaves(leaf, state.average, updates, params)
        return updates, AverageState(numerics.increment(state.steps), weight, averages, inner_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
