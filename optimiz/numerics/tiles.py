"""Rows in blocks: one number for each, and each entry's number, without moving the rows on a TPU.

A block is ``block`` consecutive entries of the last axis; the last one of a row may be shorter. A TPU holds a
matrix in tiles of 8 × 128, so that a row is not contiguous, and XLA copies the matrix to split its rows into
blocks. A split along the tiles, into 8 rows and 128 columns, is another name for the same memory, which becomes
part of the loop that makes or uses the entries. So on a TPU a block is some pieces of 128. This takes a matrix,
or a stack of them, with a multiple of 8 rows and of 128 columns, and blocks of a multiple of 128; XLA copies
the others.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

_ROWS, _COLUMNS = 8, 128  # of a tile


def signed_largest(arrays: Sequence[jax.Array], block: int) -> list[jax.Array]:
    """The largest magnitude of each block, negative where the block holds no negative number.

    Args:
        arrays: float32, all of one shape [..., n]; a TPU computes them in one loop.
        block: entries of a block.

    Returns:
        For each array float32 [..., ⌈n / block⌉]; NaN where the block holds one.

    Example:
        >>> [largest] = signed_largest([jnp.array([1.0, -3.0, 2.0, 0.5, 4.0])], block=2)
        >>> largest.tolist()
        [3.0, -2.0, -4.0]
    """
    of_blocks = functools.partial(_of_blocks, block=block)
    if not _in_whole_tiles(arrays[0], block):
        return of_blocks(*arrays)
    return jax.lax.platform_dependent(*arrays, tpu=functools.partial(_of_tiles, block=block), default=of_blocks)


def spread(numbers: jax.Array, like: jax.Array, block: int) -> jax.Array:
    """Each entry's number: in the shape and the sharding of ``like``.

    Args:
        numbers: [..., ⌈n / block⌉].
        like: [..., n].
        block: entries of a block.

    Example:
        >>> spread(jnp.array([1.0, 2.0]), jnp.zeros(3), block=2).tolist()
        [1.0, 1.0, 2.0]
    """
    over_blocks = functools.partial(_over_blocks, shape=like.shape, block=block)
    if _in_whole_tiles(like, block):
        over_tiles = functools.partial(_over_tiles, shape=like.shape, block=block)
        return jax.lax.platform_dependent(numbers, tpu=over_tiles, default=over_blocks)
    entries, sharding = over_blocks(numbers), jax.typeof(like).sharding
    return entries if jax.typeof(entries).sharding == sharding else jax.sharding.reshard(entries, sharding)


def _of_blocks(*arrays: jax.Array, block: int) -> list[jax.Array]:
    def of(x):
        x = _padded(_whole_rows(x, block), block)
        return _signed(*_least_and_most([x.reshape(*x.shape[:-1], -1, block)])[0])

    return [of(x) for x in arrays]


def _over_blocks(numbers: jax.Array, shape: tuple[int, ...], block: int) -> jax.Array:
    *outer, n = shape
    entries = jnp.broadcast_to(numbers[..., None], (*numbers.shape, block))
    return entries.reshape(*outer, -1)[..., :n]


def _of_tiles(*arrays: jax.Array, block: int) -> list[jax.Array]:
    outer, pieces = arrays[0].shape[:-1], block // _COLUMNS

    def of_blocks(least, most):
        # Of the pieces, then of these with the opposite sign, as one without a negative number is negative.
        signed = _padded(-_signed(least, most), pieces)
        ends = [functools.reduce(f, [signed[..., i::pieces] for i in range(pieces)]) for f in _ENDS]
        return _signed(*ends).reshape(*outer, -1)

    return [of_blocks(*ends) for ends in _least_and_most([_in_tiles(x, _COLUMNS) for x in arrays])]


def _over_tiles(numbers: jax.Array, shape: tuple[int, ...], block: int) -> jax.Array:
    of_pieces = jnp.repeat(_in_tiles(numbers, 1), block // _COLUMNS, axis=-2)[..., : shape[-1] // _COLUMNS, :]
    return jnp.broadcast_to(of_pieces, (*of_pieces.shape[:-1], _COLUMNS)).reshape(shape)


def _in_tiles(x: jax.Array, columns: int) -> jax.Array:
    """[..., r, n] as [..., r / 8, 8, n / columns, columns]."""
    *outer, rows, n = x.shape
    return x.reshape(*outer, rows // _ROWS, _ROWS, n // columns, columns)


def _in_whole_tiles(x: jax.Array, block: int) -> bool:
    """Whether tiles and blocks end together, and no explicit mesh splits the array."""
    if x.ndim < 2 or x.shape[-2] % _ROWS or x.shape[-1] % _COLUMNS or block % _COLUMNS:
        return False
    return all(name is None for name in jax.typeof(x).sharding.spec)


_ENDS = (jnp.minimum, jnp.maximum)


def _signed(least: jax.Array, most: jax.Array) -> jax.Array:
    largest = jnp.maximum(-least, most)
    return jnp.where(least >= 0, -largest, largest) + 0.0  # -0 + 0 = 0


def _least_and_most(arrays: Sequence[jax.Array]) -> list[tuple[jax.Array, jax.Array]]:
    """Minima and maxima over the last axis, in one loop that XLA can fuse with what made the numbers."""

    def both(a, b):
        return [f(x, y) for f, x, y in zip(_ENDS * len(arrays), a, b, strict=True)]

    infinity = jnp.float32(jnp.inf)
    twice = [x for x in arrays for _ in _ENDS]
    ends = jax.lax.reduce(twice, [infinity, -infinity] * len(arrays), both, (arrays[0].ndim - 1,))
    return list(zip(ends[::2], ends[1::2], strict=True))


def _padded(x: jax.Array, multiple: int) -> jax.Array:
    """An array with zeros at the end of its rows; they change neither the largest magnitude nor its sign."""
    missing = -x.shape[-1] % multiple
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, missing)]) if missing else x


def _whole_rows(x: jax.Array, block: int) -> jax.Array:
    """x, gathered along its last axis where a shard of an explicit mesh does not hold whole blocks."""
    spec = jax.typeof(x).sharding.spec
    names = spec[-1] if len(spec) == x.ndim else None
    if names is None:
        return x
    sizes = jax.typeof(x).sharding.mesh.shape
    shards = 1
    for name in names if isinstance(names, tuple) else (names,):
        shards *= sizes[name]
    return (
        x if x.shape[-1] % (shards * block) == 0 else jax.sharding.reshard(x, PartitionSpec(*spec[:-1], None))
    )
