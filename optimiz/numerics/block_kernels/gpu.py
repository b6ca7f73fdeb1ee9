"""The kernel of a GPU, in Triton: one block of a few rows at a time, filled up to powers of two."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton
from jax.extend import core

from optimiz.numerics.block_kernels.on_tile import Tile, divided, on_tile

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
    blocks = pl.cdiv(n, block)
    rows = math.prod(outer)
    width = pl.next_power_of_2(min(block, n))
    height = max(1, _ENTRIES // width)
    part = (height, width)

    def is_array(x: Any) -> bool:
        return x.shape == shape

    def laid(x: Any) -> tuple[int, ...]:
        return (1,) if x.ndim == 0 else (rows, n if is_array(x) else blocks)

    def kernel(*refs):
        taken, made, first_places = divided(refs, len(avals), len(origin), len(shape))
        row = pl.program_id(0) * height + jnp.arange(height)
        within = jnp.arange(width)
        column = pl.program_id(1) * block + within
        inside = (row < rows)[:, None] & ((within < block) & (column < n))[None, :]

        def place(ref, aval):
            if is_array(aval):
                return ref.at[row[:, None], column[None, :]], inside
            return ref.at[row[:, None], pl.program_id(1) + jnp.zeros((1, 1), jnp.int32)], (row < rows)[:, None]

        def load(ref, aval):
            if aval.ndim == 0:
                return ref[0].astype(aval.dtype) if aval.dtype != jnp.bool_ else ref[0] != 0
            at, mask = place(ref, aval)
            return triton.load(at, mask=mask, other=0)

        def index(axis):
            if axis == len(outer):
                return jnp.broadcast_to(first_places[axis] + column[None, :], part)
            place = (row // math.prod(outer[axis + 1 :])) % outer[axis]
            return jnp.broadcast_to(first_places[axis] + place[:, None], part)

        tile = Tile(part, index, inside)
        found = on_tile(jaxpr, tile, shape, [load(*each) for each in zip(taken, avals, strict=True)])
        for ref, aval, value in zip(made, results, found, strict=True):
            at, mask = place(ref, aval)
            triton.store(at, value, mask=mask)

    def word(x: jax.Array) -> jax.Array:
        return x.astype(jnp.int32) if x.dtype == jnp.bool_ else x

    found = pl.pallas_call(
        kernel,
        grid=(pl.cdiv(rows, height), blocks),
        out_shape=[
            jax.ShapeDtypeStruct(laid(x), jnp.int8 if x.dtype.itemsize == 1 else x.dtype) for x in results
        ],
        input_output_aliases=dict(aliases),
        compiler_params=triton.CompilerParams(num_warps=4),
        interpret=interpret,
        name="low_bit",
    )(
        *(word(x).reshape(laid(aval)) for x, aval in zip(arguments, avals, strict=True)),
        *(x[None] for x in origin),
    )
    return [x.reshape(*outer, x.shape[-1]) for x in found]
