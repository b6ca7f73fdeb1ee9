"""Two numbers of four bits in a byte.

The bytes of two blocks are the numbers of one and, in their upper halves, those of the next. So a device whose
part of a row is whole pairs of blocks holds their bytes, and blocks of 128 keep their place in the tiles of a
TPU. In a row that is no whole pairs of blocks, the first half of the entries share bytes with the second.
"""

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from optimiz.numerics.tiles import padded, shards_of_rows, whole_rows


def paired(numbers: jax.Array, block: int) -> jax.Array:
    """Pack each row of an array.

    Args:
        numbers: uint8 in [0, 16), [..., n].
        block: entries of a block.

    Returns:
        uint8, [..., ⌈n / 2⌉], laid out on an explicit mesh as the array where its length permits.

    Example:
        >>> paired(jnp.arange(8, dtype=jnp.uint8), block=2).tolist()  # 0 and 2, 1 and 3, …
        [32, 49, 100, 117]
    """
    *outer, n = numbers.shape
    apart = _apart(n, block)
    pairs = padded(whole_rows(numbers, 2 * apart), 2 * apart).reshape(*outer, -1, 2, apart)
    # Reduced, not sliced: XLA holds in memory what two slices need.
    packed = jax.lax.reduce_or(pairs << _shift(pairs), (pairs.ndim - 2,))
    return _laid_out(packed.reshape(*outer, -1), jax.typeof(numbers).sharding)


def unpaired(packed: jax.Array, like: jax.ShapeDtypeStruct, block: int) -> jax.Array:
    """Unpack what :func:`paired` packed.

    Args:
        packed: uint8, [..., ⌈n / 2⌉].
        like: of the shape of the array, [..., n], and laid out as it.
        block: entries of a block.

    Returns:
        uint8 in [0, 16), [..., n].

    Example:
        >>> packed = paired(jnp.array([1, 2, 3], jnp.uint8), block=2)
        >>> unpaired(packed, jax.ShapeDtypeStruct((3,), jnp.uint8), block=2).tolist()
        [1, 2, 3]
    """
    *outer, n = like.shape
    apart = _apart(n, block)
    halves = whole_rows(packed, apart).reshape(*outer, -1, 1, apart)
    halves = jnp.broadcast_to(halves, (*halves.shape[:-2], 2, apart))
    numbers = ((halves >> _shift(halves)) & 15).reshape(*outer, -1)[..., :n]
    return numbers if like.sharding is None else _laid_out(numbers, like.sharding)


def _shift(pairs: jax.Array) -> jax.Array:
    """By how many bits each number of a pair is shifted; pairs lie along the last axis but one."""
    return 4 * jax.lax.broadcasted_iota(jnp.uint8, pairs.shape, pairs.ndim - 2)


def _apart(n: int, block: int) -> int:
    """How far apart the entries of a row of n lie that share a byte."""
    return block if n % (2 * block) == 0 else -(-n // 2)


def _laid_out(x: jax.Array, sharding: jax.sharding.NamedSharding) -> jax.Array:
    """As a sharding of an explicit mesh has it, or with whole rows where it cannot split them evenly."""
    spec = sharding.spec
    if x.shape[-1] % shards_of_rows(sharding, x.ndim):
        spec = PartitionSpec(*spec[:-1], None)
    return x if jax.typeof(x).sharding.spec == spec else jax.sharding.reshard(x, spec)
