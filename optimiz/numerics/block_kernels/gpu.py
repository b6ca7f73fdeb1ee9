"""The kernel of a GPU, in Triton: a block of a few rows at a time, or a pair, filled up to powers of two."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jax.extend import core

from optimiz.numerics.block_kernels.on_tile import (
    Tile,
    as_type,
    bits_of,
    codes_of,
    divided,
    from_word,
    is_code,
    is_of_stack,
    on_tile,
    tiles_of_byte,
)

_ENTRIES = 2048  # of a tile
_LARGEST = 8192  # entries of a block that a tile holds


def suits(shape: tuple[int, ...], block: int) -> bool:
    """Whether a block fits into a tile."""
    return min(block, shape[-1]) <= _LARGEST


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
    *outer, n = next(x.shape for x, aval in zip(arguments, avals, strict=True) if aval.shape == shape)
    tiles, blocks = tiles_of_byte(jaxpr), pl.cdiv(n, block)
    rows, stack = math.prod(outer), outer[:-1]
    width = pl.next_power_of_2(min(block, n))
    height = max(1, _ENTRIES // (width * tiles))
    part = (height, width)

    def laid(x: Any) -> tuple[int, ...]:
        if x.ndim == 0:
            return (1,)
        if is_of_stack(x, shape):
            return (math.prod(stack), 1)
        return rows, n // tiles if is_code(x) else n if x.shape == shape else blocks

    def kernel(*refs):
        taken, made, first_places = divided(refs, len(avals), len(origin), len(shape))
        row = pl.program_id(0) * height + jnp.arange(height)
        within = jnp.arange(width)

        def of_tile(i):
            """Its number among the blocks of a row, the columns of its entries, and which of them are there."""
            number = pl.program_id(1) * tiles + i
            column = number * block + within
            return number, column, (row < rows)[:, None] & ((within < block) & (column < n))[None, :]

        def place(ref, aval, i):
            number, column, inside = of_tile(i)
            if is_code(aval):
                return ref.at[row[:, None], (pl.program_id(1) * block + within)[None, :]], inside
            if aval.shape == shape:
                return ref.at[row[:, None], column[None, :]], inside
            of_stack = is_of_stack(aval, shape)
            first, second = (row // outer[-1], 0) if of_stack else (row, number)
            return ref.at[first[:, None], second + jnp.zeros((1, 1), jnp.int32)], (row < rows)[:, None]

        def load(ref, aval, i):
            if aval.ndim == 0:
                return from_word(ref[0], aval.dtype)
            at, mask = place(ref, aval, i)
            found = triton.load(at, mask=mask, other=0)
            if is_of_stack(aval, shape):
                return jnp.broadcast_to(found, part)
            return bits_of(found, i, tiles) if is_code(aval) else found

        def evaluated(i):
            _, column, inside = of_tile(i)

            def index(axis):
                if axis == len(outer):
                    return jnp.broadcast_to(first_places[axis] + column[None, :], part)
                place = (row // math.prod(outer[axis + 1 :])) % outer[axis]
                return jnp.broadcast_to(first_places[axis] + place[:, None], part)

            given = [load(ref, aval, i) for ref, aval in zip(taken, avals, strict=True)]
            return on_tile(jaxpr, Tile(part, index, inside), shape, given)

        for ref, aval, *values in zip(made, results, *map(evaluated, range(tiles)), strict=True):
            stored = [codes_of(values, jnp.int8)] if is_code(aval) else values
            for i, value in enumerate(stored):
                at, mask = place(ref, aval, i)
                triton.store(at, value, mask=mask)

    def word(x: jax.Array, aval: Any) -> jax.Array:
        if x.dtype == jnp.bool_:
            x = x.astype(jnp.int32)
        if is_of_stack(aval, shape):
            x = jnp.broadcast_to(x, (*stack, 1, 1))
        return (as_type(jnp.int8, x) if is_code(x) else x).reshape(laid(aval))

    found = pl.pallas_call(
        kernel,
        grid=(pl.cdiv(rows, height), pl.cdiv(blocks, tiles)),
        out_shape=[jax.ShapeDtypeStruct(laid(x), jnp.int8 if is_code(x) else x.dtype) for x in results],
        input_output_aliases=dict(aliases),
        compiler_params=triton.CompilerParams(num_warps=4),
        interpret=interpret,
        name="low_bit",
    )(
        *map(word, arguments, avals),
        *(x[None] for x in origin),
    )
    found = [as_type(aval.dtype, x) if is_code(aval) else x for x, aval in zip(found, results, strict=True)]
    return [x.reshape(*outer, x.shape[-1]) for x in found]
