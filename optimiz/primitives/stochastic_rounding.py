r"""Round low-precision parameters at random and without bias, so that steps below their resolution count.

.. math:: \theta \leftarrow \operatorname{SR}(\theta + u)

The neighbours of a bfloat16 parameter of 1 are 2⁻⁷ above and 2⁻⁸ below. Rounded to nearest, it never moves by
steps of 1e-4, and with weight decay and a small rate most of a network stands still. Rounded at random, it
moves to a neighbour about once in forty steps, and on average it is where it would be in float32.

This must come last in a chain, because a later transformation would undo it; tracing fails otherwise. It
replaces the update by the step from θ to the chosen number, so that ``optax.apply_updates``, in the parameters'
dtype, arrives exactly there. Where θ and θ + u differ so much in size that the step itself is rounded, the
choice is between numbers that a step can reach.

The key is part of the state, so that a resumed run rounds as an uninterrupted one does, and replicas of the
same state round alike, whatever the layout of devices.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from optimiz import checks, numerics


class StochasticRoundingState(NamedTuple):
    """State of :func:`stochastic_rounding`."""

    count: jax.Array  # int32 scalar: updates made so far
    key: jax.Array  # uint32: data of the random key, which stays the same; each update folds its count in


def stochastic_rounding(key: jax.Array | int) -> optax.GradientTransformationExtraArgs:
    """Replace updates by steps to a random neighbour of their target, as the last transformation of a chain.

    Args:
        key: random key, or an integer seed.

    Returns:
        A transformation whose ``update`` needs the parameters. Its updates are in their dtype. Updates of
        parameters with 32 bits or more, and of complex or integer ones, are not rounded.

    Raises:
        TypeError: ``key`` is neither a key nor an integer.
        ValueError: ``key`` is a negative seed; or, in ``update``, the parameters are missing, an update's shape
            is not its parameter's, or another transformation comes after this one.

    Example:
        >>> tx = optax.chain(optax.sgd(1.0), stochastic_rounding(0))
        >>> params = jnp.ones(10_000, jnp.bfloat16)
        >>> updates, _ = tx.update(jnp.full(10_000, 1e-4, jnp.bfloat16), tx.init(params), params)
        >>> sorted(set(optax.apply_updates(params, updates).tolist()))
        [0.99609375, 1.0]
        >>> round(float(updates.astype(jnp.float32).mean()), 4)
        -0.0001
    """
    checks.key("key", key)

    def init_fn(params):
        del params
        # A copy, because the caller's key must not be donated with the state.
        data = jnp.array(jax.random.key_data(numerics.typed_key(key)), copy=True)
        return StochasticRoundingState(jnp.zeros([], jnp.int32), data)

    def update_fn(updates, state, params=None, **extra_args):
        del extra_args
        checks.needs_params(params)
        checks.comes_last("stochastic_rounding", params)
        checks.same_shapes("update", updates, "parameter", params)
        base = jax.random.wrap_key_data(state.key, impl=jax.random.key_impl(numerics.typed_key(key)))
        drawn = jax.random.fold_in(base, state.count)

        leaves, structure = jax.tree.flatten(updates)
        # One random number for each array, hashed with each entry's position: a kernel computes the noise where
        # it is used, where it would read random bits from memory.
        salts = jax.random.bits(drawn, (len(leaves),), jnp.uint32)

        def step(u, p, salt):
            if not numerics.is_narrow(p.dtype):
                return u.astype(p.dtype)
            return numerics.stochastic_step(p, u, numerics.hashed_noise(p.shape, salt)).astype(p.dtype)

        rows = zip(leaves, structure.flatten_up_to(params), salts, strict=True)
        updates = structure.unflatten([step(*row) for row in rows])
        count = numerics.increment(state.count)
        return updates, StochasticRoundingState(count, state.key)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
