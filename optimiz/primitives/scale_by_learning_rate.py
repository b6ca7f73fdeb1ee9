"""The step: multiply by minus the learning rate. It comes last in a chain and holds its only minus sign.

Departures from ``optax.scale_by_learning_rate``: the update has the parameter's dtype whatever type of number
the learning rate is (a NumPy, JAX or traced float32 scalar turns Optax's bfloat16 updates into float32); a
gradient whose shape differs from its parameter's is refused, as is a rate that is NaN, infinite or negative;
the rate is kept in the state for logging.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from optimiz import checks, numerics


class ScaleByLearningRateState(NamedTuple):
    """State of :func:`scale_by_learning_rate` if the rate is a schedule, or nothing else counts updates."""

    count: jax.Array  # int32 scalar: updates made so far
    # Not named learning_rate, which optax.tree.get and tree.set look for in optax.inject_hyperparams.
    rate: jax.Array  # float32 scalar: the learning rate of the last update (before it: of the first)


class ScaleByConstantRateState(NamedTuple):
    """State of :func:`scale_by_learning_rate` if the rate is a number and something else counts updates."""

    steps: jax.Array  # int32 scalar: updates made so far
    rate: jax.Array  # float32 scalar: the learning rate


# In paths, and so in checkpoints, ``steps`` is called ``count``, so that both states have the same layout.
_PATHS = tuple(map(jax.tree_util.GetAttrKey, ScaleByLearningRateState._fields))
jax.tree_util.register_pytree_with_keys(
    ScaleByConstantRateState,
    lambda state: (tuple(zip(_PATHS, state, strict=True)), None),
    lambda _, leaves: ScaleByConstantRateState(*leaves),
    lambda state: (tuple(state), None),
)


def scale_by_learning_rate(
    learning_rate: optax.ScalarOrSchedule,
    *,
    counted_elsewhere: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Turn a direction of ascent into the update: minus the learning rate times it.

    Args:
        learning_rate: learning rate η ≥ 0, a number or a schedule of the 0-based update count.
        counted_elsewhere: whether another part of the chain, such as ``scale_by_adam``, has a ``count``. The
            count of a constant rate then has another name, so that ``optax.tree.get(state, "count")`` finds
            only one, as in Optax's optimizers.

    Returns:
        A transformation whose updates have the parameters' dtype, or, where ``update`` is not given the
        parameters, the dtype of the updates.

    Raises:
        TypeError: the learning rate is neither a number nor callable.
        ValueError: it is NaN, infinite or negative, or a schedule that is so at the first update; it is a
            schedule whose value is not a scalar; or, in ``update``, an update's shape is not its parameter's,
            another step comes before this one, or Optax's weight decay after it.

    Example:
        >>> tx = scale_by_learning_rate(0.5)
        >>> updates, state = tx.update(jnp.array([2.0, -4.0]), tx.init(jnp.zeros(2)))
        >>> updates.tolist(), float(state.rate)
        ([-1.0, 2.0], 0.5)
    """
    rate = checks.schedule("learning_rate", learning_rate)
    named = callable(learning_rate) or not counted_elsewhere
    make_state = ScaleByLearningRateState if named else ScaleByConstantRateState

    def init_fn(params):
        del params
        count = jnp.zeros([], jnp.int32)
        return make_state(count, checks.at_first("learning_rate", rate).astype(jnp.float32))

    def update_fn(updates, state, params=None, **extra_args):
        del extra_args
        checks.only_step(
            "scale_by_learning_rate", updates, "a second minus goes uphill; optax.scale makes a step shorter"
        )
        if params is not None:
            checks.same_shapes("gradient", updates, "parameter", params)
        count, _ = state
        eta = rate(count)

        updates = numerics.map_leaves(
            lambda u, like: _step(eta, u, like.dtype), updates, updates if params is None else params
        )
        return updates, make_state(*_next(count, eta))

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


@functools.partial(numerics.dispatched_once, static=("dtype",))
def _step(eta: jax.Array, u: jax.Array, dtype: jnp.dtype) -> jax.Array:
    wide = numerics.compute_dtype(u.dtype)
    return (-eta.astype(jnp.finfo(wide).dtype) * u.astype(wide)).astype(dtype)


@numerics.dispatched_once
def _next(count: jax.Array, eta: jax.Array) -> tuple[jax.Array, jax.Array]:
    return numerics.increment(count), eta.astype(jnp.float32)
