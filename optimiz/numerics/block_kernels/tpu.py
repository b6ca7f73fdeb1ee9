"""The kernel of a TPU: tiles of 128 rows, and within them, block by block or pair by pair, 32 rows at a time.

Scales are taken transposed, as XLA lays them out: a row of few scales would fill 128 columns. A piece of their
row becomes a column, and back, by a mask.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.extend import core

from optimiz.numerics.block_kernels.on_tile import (
    Tile,
    as_words,
    bits_of,
    codes_of,
    divided,
    from_word,
    is_code,
    is_of_stack,
    number_of,
    on_tile,
    tiles_of_byte,
)

_ROWS, _COLUMNS = 128, 128
_BLOCKS = 8  # in a row of a tile
_AT_ONCE = 32  # rows, a tile of int8


def suits(shape: tuple[int, ...], block: int) -> bool:
    """Whether blocks begin with the tiles of a TPU, whose rows lie as they are written."""
    return (block % _COLUMNS == 0 or block >= shape[-1]) and not is_turned(shape)


def is_turned(shape: tuple[int, ...]) -> bool:
    """Whether XLA turns such a matrix over, because its tiles then pad it less."""
    rows, n = shape[-2:]
    return _padded(n, rows) < _padded(rows, n)


def _padded(rows: int, columns: int) -> int:
    return (rows + -rows % 8) * (columns + -columns % _COLUMNS)


def call(
    jaxpr: core.ClosedJaxpr,
    aliases: Sequence[tuple[int, int]],
    shape: tuple[int, ...],
    block: int,
    arguments: Sequence[jax.Array],
    origin: Sequence[jax.Array] = (),
    *,
    interpret: bool = False,
) -> list[jax.Array]:
    """Evaluate a program by tiles.

    Args:
        jaxpr: a program that ``on_tile.leaf_of`` knows.
        aliases: pairs of an argument and a result that takes its memory.
        shape: of the whole arrays.
        block: entries of a block.
        arguments: those of the program, or a part of each, which holds whole blocks.
        origin: place of the part in the array, int32 scalars; empty for whole arrays.
        interpret: whether to run it on a CPU, to test it.
    """
    avals, results = jaxpr.in_avals, jaxpr.out_avals
    *outer, rows, n = next(x.shape for x, aval in zip(arguments, avals, strict=True) if aval.shape == shape)
    shared, blocks = tiles_of_byte(jaxpr), -(-n // block)
    tile_rows, per_tile = min(rows, _ROWS), min(blocks, _BLOCKS)
    columns = n if blocks <= _BLOCKS else per_tile * block
    at_once = _AT_ONCE if tile_rows % _AT_ONCE == 0 else tile_rows
    ones = (None,) * len(outer)
    specs = {
        "array": pl.BlockSpec((*ones, tile_rows, columns), lambda *i: i),
        "codes": pl.BlockSpec((*ones, tile_rows, columns // shared), lambda *i: i),
        "scales": pl.BlockSpec((*ones, per_tile, tile_rows), lambda *i: (*i[:-2], i[-1], i[-2])),
        "scalar": pl.BlockSpec(memory_space=pltpu.SMEM),
    }

    def kind(x: Any) -> str:
        if is_code(x):
            return "codes"
        if x.shape == () or is_of_stack(x, shape):
            return "scalar"
        return "array" if x.shape == shape else "scales"

    into, out = list(map(kind, avals)), list(map(kind, results))

    def kernel(*refs):
        taken, made, first_places = divided(refs, len(avals), len(origin), len(shape))
        new_scales = [ref for ref, its in zip(made, out, strict=True) if its == "scales"]
        places = [pl.program_id(axis) for axis in range(len(shape))]
        matrix = number_of(places[:-2], outer)

        def part_of_block(i, first, width):
            """Update some rows of block i, or of pair i; their scales are returned, in the places of a row."""
            row, place = (jax.lax.broadcasted_iota(jnp.int32, (at_once, tile_rows), axis) for axis in (0, 1))
            own = first + row == place
            rows_of = pl.ds(first, at_once)
            bytes_of = rows_of, pl.ds(i * block, width)

            def evaluated(j):
                number = i * shared + j
                starts = [*places[:-2], places[-2] * tile_rows + first, places[-1] * columns + number * block]
                starts = [a + b for a, b in zip(first_places, starts, strict=True)]

                def index(axis):
                    within = axis - len(outer)
                    if within < 0:
                        return jnp.full((at_once, width), starts[axis], jnp.int32)
                    return starts[axis] + jax.lax.broadcasted_iota(jnp.int32, (at_once, width), within)

                def load(ref, its, aval):
                    match its:
                        case "codes":  # of their type here, as a TPU would copy them to change it outside
                            return bits_of(ref[bytes_of], j, shared)
                        case "scales":
                            return jnp.sum(jnp.where(own, ref[pl.ds(number, 1), :], 0.0), axis=1, keepdims=True)
                        case "array":
                            return ref[rows_of, pl.ds(number * block, width)]
                    return from_word(ref[matrix if aval.ndim else 0], aval.dtype)

                valid = index(len(outer) + 1) < n if n % columns and n % block else None
                given = [load(*each) for each in zip(taken, into, avals, strict=True)]
                return on_tile(jaxpr, Tile((at_once, width), index, valid), shape, given)

            scales = []
            for ref, its, *values in zip(made, out, *map(evaluated, range(shared)), strict=True):
                if its == "codes":
                    ref[bytes_of] = codes_of(values, ref.dtype)
                for j, value in enumerate(values):
                    if its == "array":
                        ref[rows_of, pl.ds((i * shared + j) * block, width)] = value
                    elif its == "scales":
                        scales.append(jnp.sum(jnp.where(own, value, 0.0), axis=0, keepdims=True))
            return scales

        def update_block(i, width):
            def some_rows(c, rows):
                first = pl.multiple_of(c * at_once, at_once) if tile_rows > at_once else 0
                return [a + b for a, b in zip(rows, part_of_block(i, first, width), strict=True)]

            of_scales = [(ref, j) for ref in new_scales for j in range(shared)]
            nothing = [jnp.zeros((1, tile_rows), jnp.float32) for _ in of_scales]
            found = jax.lax.fori_loop(0, tile_rows // at_once, some_rows, nothing)
            for (ref, j), row in zip(of_scales, found, strict=True):
                ref[pl.ds(i * shared + j, 1), :] = row

        last = columns - (per_tile - 1) * block  # entries; of pairs, all are whole
        jax.lax.fori_loop(0, (per_tile - (last < block)) // shared, lambda i, _: update_block(i, block), None)
        if last < block:
            update_block(per_tile - 1, last)

    def laid(x: Any, its: str) -> Any:
        return x.swapaxes(-1, -2) if its == "scales" else as_words(x, outer) if its == "scalar" else x

    sizes = {"array": (rows, n), "codes": (rows, n // shared), "scales": (blocks, rows)}
    shapes = [jax.ShapeDtypeStruct((*outer, *sizes[its]), x.dtype) for x, its in zip(results, out, strict=True)]
    grid = (*outer, pl.cdiv(rows, tile_rows), pl.cdiv(n, columns))
    found = pl.pallas_call(
        kernel,
        grid=grid,
        in_specs=[specs[its] for its in into] + [specs["scalar"]] * len(origin),
        out_specs=[specs[its] for its in out],
        out_shape=shapes,
        input_output_aliases=dict(aliases),
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel",) * len(grid)),
        interpret=interpret,
        name="low_bit",
    )(*map(laid, arguments, into), *(as_words(x, ()) for x in origin))
    return list(map(laid, found, out))
