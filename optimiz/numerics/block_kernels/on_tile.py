"""The program of one parameter, evaluated on a tile of it.

A tile is a matrix of entries in which each row is one block. Operations entry by
entry act on tiles as on whole arrays; what depends on a place in the array (noise, an ``iota``) is told the
place.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core

from optimiz.numerics.block_kernels.ops import CODE, DECODE, SCALE
from optimiz.numerics.fusion import is_entry_by_entry
from optimiz.numerics.rounding import noise_at

_MOVING = ("reshape", "slice", "squeeze", "cond", "jit", "pjit", "rem", "complex", "conj", "imag", "real")
_ARRAYS = ("float32", "bfloat16", "float16", "int8", "uint8", "float8_e4m3fn")


@dataclasses.dataclass(frozen=True)
class Tile:
    """Where a tile lies.

    Attributes:
        shape: of the tile, (rows, columns).
        index: dimension of the array → int32, the index of each entry of the tile along it.
        valid: which entries are within the array, of a tile's blocks that others share; None for all.
    """

    shape: tuple[int, int]
    index: Callable[[int], jax.Array]
    valid: jax.Array | None = None


def leaf_of(jaxpr: core.ClosedJaxpr) -> tuple[tuple[int, ...], Any] | None:
    """The shape of a program's arrays and their format, if it can be evaluated on tiles; else None."""
    equations = jaxpr.jaxpr.eqns
    decoded = [each for each in equations if each.primitive is DECODE]
    if not decoded or jaxpr.consts:
        return None
    shape, fmt = decoded[0].outvars[0].aval.shape, decoded[0].params["fmt"]
    scales = {each.invars[1] for each in decoded}
    of_scales = scales | {each.outvars[0] for each in equations if each.primitive is SCALE}
    for equation in equations:
        if equation.primitive in (DECODE, SCALE, CODE):
            if equation.params["fmt"] != fmt:
                return None
        elif not _is_possible(equation, shape) or of_scales & _variables(equation):
            return None
    if any(isinstance(each, core.Literal) for each in jaxpr.jaxpr.outvars):
        return None
    for variable in {*jaxpr.jaxpr.invars, *jaxpr.jaxpr.outvars} - of_scales:
        aval = variable.aval
        if not (aval.dtype.name in _ARRAYS if aval.shape == shape else aval.shape == ()):
            return None
    return (shape, fmt) if len(shape) > 1 else None


def _variables(equation: core.JaxprEqn) -> set[Any]:
    return {v for v in equation.invars if not isinstance(v, core.Literal)}


def _is_possible(equation: core.JaxprEqn, shape: tuple[int, ...]) -> bool:
    name = equation.primitive.name
    result: Any = equation.outvars[0].aval
    if not is_entry_by_entry(equation) or name in _MOVING or result.shape != shape:
        return False
    operands: list[Any] = [each.aval for each in equation.invars]
    return name != "broadcast_in_dim" or operands[0].shape in ((), shape)


def on_tile(jaxpr: core.ClosedJaxpr, tile: Tile, shape: tuple[int, ...], arguments: Sequence[Any]) -> list[Any]:
    """The results of a program on a tile.

    Args:
        jaxpr: a program that :func:`leaf_of` knows.
        tile: the tile.
        shape: of the whole arrays.
        arguments: tiles of the arrays, codes as int8; the scales of their blocks, one column;
            scalars.

    Returns:
        The same, of the results.
    """
    values = dict(zip(jaxpr.jaxpr.invars, arguments, strict=True))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, core.Literal) else values[atom]

    for equation in jaxpr.jaxpr.eqns:
        operands = [read(atom) for atom in equation.invars]
        values[equation.outvars[0]] = _result(equation, operands, tile, shape)
    return [read(atom) for atom in jaxpr.jaxpr.outvars]


def divided(refs: Sequence[Any], arguments: int, origin: int, rank: int) -> tuple[Any, Any, list[Any]]:
    """The references of a kernel: to its arguments, to its results; and the place of its part in the array.

    Args:
        refs: of the arguments, of the scalars of the place, and of the results.
        arguments: their number.
        origin: number of those scalars; 0 for whole arrays, which begin at zero.
        rank: dimensions of the array.
    """
    results = arguments + origin
    return refs[:arguments], refs[results:], [ref[0] for ref in refs[arguments:results]] or [0] * rank


def _result(equation: core.JaxprEqn, operands: list[Any], tile: Tile, shape: tuple[int, ...]) -> Any:
    name, params = equation.primitive.name, equation.params
    if equation.primitive is DECODE:
        codes, scales = operands
        return params["fmt"].value_of_block(codes.astype(jnp.int32) & 255, scales)
    if equation.primitive is SCALE:
        [x] = operands
        x = x.astype(jnp.float32)
        if tile.valid is not None:  # zeros change neither a largest magnitude nor its sign
            x = jnp.where(tile.valid, x, 0)
        return params["fmt"].scale_of_block(x)
    if equation.primitive is CODE:
        x, scales, salt = operands
        bits = params["fmt"].bits_of_block(x, scales, noise_at(_position(tile, shape), salt))
        return jnp.where(bits > 127, bits - 256, bits).astype(jnp.int8)
    if name == "broadcast_in_dim":
        return jnp.broadcast_to(operands[0], tile.shape)
    if name == "round" and params["rounding_method"] is jax.lax.RoundingMethod.TO_NEAREST_EVEN:
        return rounded(operands[0])
    if name == "iota":
        return tile.index(params["dimension"]).astype(params["dtype"])
    # Not in the equation's context, whose mesh is that of the whole arrays.
    return equation.primitive.bind(*operands, **equation.primitive.get_bind_params(equation.params))


def rounded(x: jax.Array) -> jax.Array:
    """The nearest integer, ties to even, as ``jnp.round``, which Triton does not have.

    Args:
        x: a float, any shape.

    Example:
        >>> rounded(jnp.array([0.5, 1.5, -2.4])).tolist()
        [0.0, 2.0, -2.0]
    """
    size = jnp.abs(x)
    below = jnp.floor(size)
    rest = size - below  # exact, as size is not negative
    is_odd = below != 2 * jnp.floor(below / 2)
    return jnp.sign(x) * (below + jnp.where((rest > 0.5) | (is_odd & (rest == 0.5)), 1, 0).astype(x.dtype))


def _position(tile: Tile, shape: tuple[int, ...]) -> jax.Array:
    """Of each entry in the array, as ``hashed_noise`` counts."""
    position = jnp.zeros(tile.shape, jnp.uint32)
    for axis, size in enumerate(shape):
        position = position * jnp.uint32(size) + tile.index(axis).astype(jnp.uint32)
    return position
