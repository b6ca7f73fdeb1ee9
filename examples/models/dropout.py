"""Dropout, whose key is an argument: a model has no hidden random state.

Every trial of a line search sees the dropout mask of its step.
"""

import jax
import jax.numpy as jnp

Key = jax.Array | None  # the random key of dropout; None for evaluation, without dropout


def dropout(x: jax.Array, rate: float, key: Key) -> jax.Array:
    """Zero each entry of `x` with probability `rate` and divide the others by 1 - rate."""
    if key is None or rate == 0:
        return x
    kept = random_bits(key, x.shape) < jnp.uint32(min(round((1 - rate) * 2**32), 2**32 - 1))
    return jnp.where(kept, x / (1 - rate), 0)


def random_bits(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Random uint32 of a shape: a hash of each entry's position and of the key.

    It takes a fraction of the time of `jax.random.bits`, whose bits a CPU holds until the backward pass.

    Source:
        The mixing function is ``lowbias32`` of Chris Wellons' hash prospector (public domain).
    """
    position = jnp.zeros(shape, jnp.uint32)
    for axis, size in enumerate(shape):
        position = position * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, shape, axis)

    words = jax.random.key_data(key)
    return _mixed(_mixed(position ^ words[-2]) ^ words[-1])


def _mixed(bits: jax.Array) -> jax.Array:
    bits = (bits ^ (bits >> 16)) * jnp.uint32(0x7FEB352D)
    bits = (bits ^ (bits >> 15)) * jnp.uint32(0x846CA68B)
    return bits ^ (bits >> 16)


def split(key: Key, n: int) -> list[Key]:
    """Split a key into n keys; None gives n times None."""
    return [None] * n if key is None else list(jax.random.split(key, n))
