"""The kernel of a TPU for matrices that it turns over, so that rows lie along the 8 of its tiles of 8 × 128.

XLA does so where that pads less, as with rows of 1,600. Then a block is a piece of each of 128 columns.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.extend import core

from optimiz.numerics.block_kernels import tpu
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

_LANES = 128
_BLOCKS = 8  # of a tile, for each of which the program is written out


def suits(shape: tuple[int, ...], block: int) -> bool:
    """Whether XLA turns such a matrix over, and its rows are whole blocks that begin with tiles."""
    return tpu.is_turned(shape) and block % 8 == 0 and shape[-1] % block == 0


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
    """Evaluate a program by tiles; see ``tpu.call``."""
    avals, results = jaxpr.in_avals, jaxpr.out_avals
    *outer, rows, n = next(x.shape for x, aval in zip(arguments, avals, strict=True) if aval.shape == shape)
    shared, blocks = tiles_of_byte(jaxpr), n // block
    lanes, per_tile = min(rows, _LANES), min(blocks, _BLOCKS)
    part = (1, block, lanes)

    def length(aval: Any, blocks: int) -> int:
        """The entries of so many blocks of a row."""
        return blocks * block // shared if is_code(aval) else blocks * block if aval.shape == shape else blocks

    def is_scalar(aval: Any) -> bool:
        return aval.shape == () or is_of_stack(aval, shape)

    def spec(aval: Any) -> pl.BlockSpec:
        if is_scalar(aval):
            return pl.BlockSpec(memory_space=pltpu.SMEM)
        of_tile = (*(None,) * len(outer), length(aval, per_tile), lanes)
        return pl.BlockSpec(of_tile, lambda *i: (*i[:-2], i[-1], i[-2]))

    def kernel(*refs):
        taken, made, first_places = divided(refs, len(avals), len(origin), len(shape))
        places = [pl.program_id(axis) for axis in range(len(shape))]
        matrix = number_of(places[:-2], outer)

        def entries(aval, i, j):
            """Those of tile j of the pair i; the bytes of the pair, or the tile's scale."""
            number = i * shared + j
            if is_code(aval):
                return pl.ds(i * block, block)
            return pl.ds(number * block, block) if aval.shape == shape else pl.ds(number, 1)

        def evaluated(i, j):
            starts = [*places[:-2], places[-2] * lanes, (places[-1] * per_tile + i * shared + j) * block]

            def index(axis):
                start = first_places[axis] + starts[axis]
                if axis < len(outer):
                    return jnp.full(part, start, jnp.int32)
                return start + jax.lax.broadcasted_iota(jnp.int32, part, 2 if axis == len(outer) else 1)

            def load(ref, aval):
                if is_scalar(aval):
                    return from_word(ref[matrix if aval.ndim else 0], aval.dtype)
                found = ref[entries(aval, i, j), :]
                return (bits_of(found, j, shared) if is_code(aval) else found)[None]

            given = [load(ref, aval) for ref, aval in zip(taken, avals, strict=True)]
            return on_tile(jaxpr, Tile(part, index), shape, given)

        for i in range(per_tile // shared):
            found = [evaluated(i, j) for j in range(shared)]
            for ref, aval, *values in zip(made, results, *found, strict=True):
                stored = [codes_of(values, ref.dtype)] if is_code(aval) else values
                for j, value in enumerate(stored):
                    ref[entries(aval, i, j), :] = value[0]

    def laid(x: jax.Array, aval: Any) -> jax.Array:
        return as_words(x, outer) if is_scalar(aval) else x.swapaxes(-1, -2)

    grid = (*outer, pl.cdiv(rows, lanes), pl.cdiv(blocks, per_tile))
    found = pl.pallas_call(
        kernel,
        grid=grid,
        in_specs=[*map(spec, avals), *[pl.BlockSpec(memory_space=pltpu.SMEM)] * len(origin)],
        out_specs=list(map(spec, results)),
        out_shape=[jax.ShapeDtypeStruct((*outer, length(x, blocks), rows), x.dtype) for x in results],
        input_output_aliases=dict(aliases),
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel",) * len(grid)),
        interpret=interpret,
        name="low_bit",
    )(*map(laid, arguments, avals), *(as_words(x, ()) for x in origin))
    return [x.swapaxes(-1, -2) for x in found]
