"""Rows in blocks: one number for each, and each entry's number, without moving the rows on a TPU.

A block is ``block`` consecutive entries of the last axis; the last one of a row may be shorter. A TPU holds a
matrix in tiles of 8 × 128, and XLA copies the matrix to split its rows into blocks, unless the split is another
name for the same memory, which becomes part of the loop that makes or uses the entries. There are three ways:

- XLA turns a matrix over where that pads its tiles less, as one of 6400 × 1600. Then its rows lie along the 8,
  and equal blocks of a multiple of 8, as of 200, are a split along the tiles: see :func:`block_size`.
- Other rows lie along the 128. If they have few blocks, each entry selects its number by its position.
- If they have many, a multiple of 8 rows, of a multiple of 128, is split along the tiles, and a block is some
  pieces of 128. Their numbers are spread in tiles that hold one number for 128 entries.

XLA copies what is left.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

_ROWS, _COLUMNS = 8, 128  # of a tile
_SELECTED = 8  # blocks of a row, at most, of which an entry selects its number


def block_size(n: int, most: int) -> int:
    """Entries of a block in rows of n, such that blocks end with the tiles of a TPU where they can.

    Args:
        n: entries of a row.
        most: entries of a block, at most.

    Returns:
        n, if it is one block; of a row that is no multiple of 128 the largest multiple of 8 that divides it,
        from half of ``most`` and from 16; otherwise ``most``.

    Example:
        >>> block_size(768, 256), block_size(1600, 256), block_size(50257, 256), block_size(64, 256)
        (256, 200, 256, 64)
    """
    if n <= most:
        return n
    least = max((most + 1) // 2, 2 * _ROWS)
    even = range(most - most % _ROWS, least - 1, -_ROWS) if n % _COLUMNS else ()
    return next((size for size in even if n % size == 0), most)


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
    if _is_selected(arrays[0], block):
        of_tpu = functools.partial(_of_selected, block=block)
    elif _in_whole_tiles(arrays[0], block):
        of_tpu = functools.partial(_of_tiles, block=block)
    else:
        return of_blocks(*arrays)
    return jax.lax.platform_dependent(*arrays, tpu=of_tpu, default=of_blocks)


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
    if _is_selected(like, block) or _in_whole_tiles(like, block):
        over = _over_selected if _is_selected(like, block) else _over_tiles
        over_tpu = functools.partial(over, shape=like.shape, block=block)
        return jax.lax.platform_dependent(numbers, tpu=over_tpu, default=over_blocks)
    entries, sharding = over_blocks(numbers), jax.typeof(like).sharding
    return entries if jax.typeof(entries).sharding == sharding else jax.sharding.reshard(entries, sharding)


def _of_blocks(*arrays: jax.Array, block: int) -> list[jax.Array]:
    def of(x):
        x = padded(whole_rows(x, block), block)
        return signed_magnitude(*_least_and_most([x.reshape(*x.shape[:-1], -1, block)])[0])

    return [of(x) for x in arrays]


def _over_blocks(numbers: jax.Array, shape: tuple[int, ...], block: int) -> jax.Array:
    *outer, n = shape
    entries = jnp.broadcast_to(numbers[..., None], (*numbers.shape, block))
    return entries.reshape(*outer, -1)[..., :n]


def _of_tiles(*arrays: jax.Array, block: int) -> list[jax.Array]:
    outer, pieces = arrays[0].shape[:-1], block // _COLUMNS

    def of_blocks(least, most):
        # Of the pieces, then of these with the opposite sign, as one without a negative number is negative.
        signed = padded(-signed_magnitude(least, most), pieces)
        ends = [functools.reduce(f, [signed[..., i::pieces] for i in range(pieces)]) for f in _ENDS]
        return signed_magnitude(*ends).reshape(*outer, -1)

    return [of_blocks(*ends) for ends in _least_and_most([_in_tiles(x, _COLUMNS) for x in arrays])]


def _over_tiles(numbers: jax.Array, shape: tuple[int, ...], block: int) -> jax.Array:
    of_pieces = jnp.repeat(_in_tiles(numbers, 1), block // _COLUMNS, axis=-2)[..., : shape[-1] // _COLUMNS, :]
    return jnp.broadcast_to(of_pieces, (*of_pieces.shape[:-1], _COLUMNS)).reshape(shape)


def _of_selected(*arrays: jax.Array, block: int) -> list[jax.Array]:
    # Zeros for the entries of other blocks change neither a largest magnitude nor its sign.
    column = _columns(arrays[0].shape)
    starts = range(0, arrays[0].shape[-1], block)
    of_blocks = [jnp.where((column >= i) & (column < i + block), x, 0) for x in arrays for i in starts]
    found = [signed_magnitude(*ends) for ends in _least_and_most(of_blocks)]
    return [jnp.stack(found[i : i + len(starts)], -1) for i in range(0, len(found), len(starts))]


def _over_selected(numbers: jax.Array, shape: tuple[int, ...], block: int) -> jax.Array:
    column, outer = _columns(shape), range(len(shape) - 1)
    of_blocks = [jax.lax.broadcast_in_dim(numbers[..., i], shape, outer) for i in range(numbers.shape[-1])]
    entries = of_blocks[0]
    for i, own in enumerate(of_blocks):
        entries = jnp.where(column >= i * block, own, entries)
    return entries


def _columns(shape: tuple[int, ...]) -> jax.Array:
    return jax.lax.broadcasted_iota(jnp.int32, shape, len(shape) - 1)


def _in_tiles(x: jax.Array, columns: int) -> jax.Array:
    """[..., r, n] as [..., r / 8, 8, n / columns, columns]."""
    *outer, rows, n = x.shape
    return x.reshape(*outer, rows // _ROWS, _ROWS, n // columns, columns)


def _in_whole_tiles(x: jax.Array, block: int) -> bool:
    """Whether tiles and blocks end together, and no explicit mesh splits the array."""
    if x.ndim < 2 or x.shape[-2] % _ROWS or x.shape[-1] % _COLUMNS or block % _COLUMNS:
        return False
    return not any(jax.typeof(x).sharding.spec)


def _is_selected(x: jax.Array, block: int) -> bool:
    """Whether rows of few blocks lie along the columns of tiles, and no explicit mesh splits the array."""
    if x.ndim < 2 or not block < x.shape[-1] <= _SELECTED * block or any(jax.typeof(x).sharding.spec):
        return False
    rows, n = x.shape[-2:]
    return _with_tiles(rows, n) <= _with_tiles(n, rows)


def _with_tiles(rows: int, columns: int) -> int:
    return (rows + -rows % _ROWS) * (columns + -columns % _COLUMNS)


_ENDS = (jnp.minimum, jnp.maximum)


def signed_magnitude(least: jax.Array, most: jax.Array) -> jax.Array:
    """The largest magnitude of blocks, negative where a block holds no negative number, from their ends."""
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


def padded(x: jax.Array, multiple: int) -> jax.Array:
    """An array with zeros at the end of its rows; they change neither the largest magnitude nor its sign."""
    missing = -x.shape[-1] % multiple
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, missing)]) if missing else x


def whole_rows(x: jax.Array, block: int) -> jax.Array:
    """x, gathered along its last axis where a shard of an explicit mesh does not hold whole blocks."""
    sharding = jax.typeof(x).sharding
    if x.shape[-1] % (shards_of_rows(sharding, x.ndim) * block) == 0:
        return x
    spec = PartitionSpec(*sharding.spec[:-1], None)
    return x if sharding.spec == spec else jax.sharding.reshard(x, spec)


def shards_of_rows(sharding: jax.sharding.NamedSharding, ndim: int) -> int:
    """Into how many parts a sharding of an explicit mesh splits the last of some dimensions."""
    names = sharding.spec[-1] if len(sharding.spec) == ndim else None
    shards = 1
    for name in names if isinstance(names, tuple) else (names,):
        shards *= 1 if name is None else sharding.mesh.shape[name]
    return shards
