"""The program of one parameter, evaluated on a tile of it.

A tile is a matrix of entries in which each row is one block, or a stack of columns each of which is one.
Operations entry by entry act on tiles as on whole arrays; what depends on a place in the array (noise, an
``iota``) is told the place. Codes are their bits, as int32. Where a byte holds two codes, those of a pair of
blocks, a kernel evaluates the program on the two tiles of the pair.
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
_ARRAYS = ("float32", "bfloat16", "float16")  # besides codes


@dataclasses.dataclass(frozen=True)
class Tile:
    """Where a tile lies.

    Attributes:
        shape: of the tile; its second dimension is that of a block.
        index: dimension of the array → int32, the index of each entry of the tile along it.
        valid: which entries are within the array, of a tile's blocks that others share; None for all.
    """

    shape: tuple[int, ...]
    index: Callable[[int], jax.Array]
    valid: jax.Array | None = None


def leaf_of(jaxpr: core.ClosedJaxpr) -> tuple[tuple[int, ...], Any] | None:
    """The shape of a program's arrays and their format, if it can be evaluated on tiles; else None."""
    equations = jaxpr.jaxpr.eqns
    decoded = [each for each in equations if each.primitive is DECODE]
    if not decoded or jaxpr.consts:
        return None
    shape, fmt = decoded[0].outvars[0].aval.shape, decoded[0].params["fmt"]
    codes = {each.invars[0] for each in decoded} | {e.outvars[0] for e in equations if e.primitive is CODE}
    scales = {each.invars[1] for each in decoded}
    of_scales = scales | {each.outvars[0] for each in equations if each.primitive is SCALE}
    for equation in equations:
        of_one = next((kind for kind in (codes, of_scales) if _is_choice(equation, kind)), None)
        if equation.primitive in (DECODE, SCALE, CODE):
            if equation.params["fmt"] != fmt:
                return None
        elif of_one is not None:
            of_one.add(equation.outvars[0])
        elif not _is_possible(equation, shape) or (codes | of_scales) & _variables(equation):
            return None
    if any(isinstance(each, core.Literal) for each in jaxpr.jaxpr.outvars):
        return None
    for variable in {*jaxpr.jaxpr.invars, *jaxpr.jaxpr.outvars} - of_scales - codes:
        aval = variable.aval
        is_array = aval.shape == shape or (variable in jaxpr.jaxpr.invars and is_of_stack(aval, shape))
        if not (aval.dtype.name in _ARRAYS if is_array else aval.shape == ()):
            return None
    in_pairs = not fmt.packed or shape[-1] % (2 * fmt.size(shape)) == 0
    return (shape, fmt) if len(shape) > 1 and in_pairs else None


def _variables(equation: core.JaxprEqn) -> set[Any]:
    return {v for v in equation.invars if not isinstance(v, core.Literal)}


def _is_choice(equation: core.JaxprEqn, among: set[Any]) -> bool:
    """Whether one of some variables is chosen as a whole, as by ``guard``."""
    if equation.primitive.name != "select_n":
        return False
    predicate, *cases = equation.invars
    by: Any = predicate.aval
    return by.shape == () and all(not isinstance(case, core.Literal) and case in among for case in cases)


def _is_possible(equation: core.JaxprEqn, shape: tuple[int, ...]) -> bool:
    name = equation.primitive.name
    result: Any = equation.outvars[0].aval
    if not is_entry_by_entry(equation) or name in _MOVING or result.shape != shape:
        return False
    operands: list[Any] = [each.aval for each in equation.invars]
    return name != "broadcast_in_dim" or operands[0].shape in ((), shape) or is_of_stack(operands[0], shape)


def on_tile(jaxpr: core.ClosedJaxpr, tile: Tile, shape: tuple[int, ...], arguments: Sequence[Any]) -> list[Any]:
    """The results of a program on a tile.

    Args:
        jaxpr: a program that :func:`leaf_of` knows.
        tile: the tile.
        shape: of the whole arrays.
        arguments: tiles of the arrays; of codes :func:`bits_of` them; the scales of their blocks, whose second
            dimension is 1; scalars; of arrays :func:`is_of_stack`, the entry of the tile's matrix.

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
        return params["fmt"].value_of_block(codes, scales)
    if equation.primitive is SCALE:
        [x] = operands
        x = x.astype(jnp.float32)
        if tile.valid is not None:  # zeros change neither a largest magnitude nor its sign
            x = jnp.where(tile.valid, x, 0)
        return params["fmt"].scale_of_block(x)
    if equation.primitive is CODE:
        x, scales, salt = operands
        return params["fmt"].bits_of_block(x, scales, noise_at(_position(tile, shape), salt))
    if name == "broadcast_in_dim":
        return jnp.broadcast_to(operands[0], tile.shape)
    if name == "round" and params["rounding_method"] is jax.lax.RoundingMethod.TO_NEAREST_EVEN:
        return rounded(operands[0])
    if name == "iota":
        return tile.index(params["dimension"]).astype(params["dtype"])
    # Not in the equation's context, whose mesh is that of the whole arrays.
    return equation.primitive.bind(*operands, **equation.primitive.get_bind_params(equation.params))


def is_code(x: Any) -> bool:
    """Whether an array of a program that :func:`leaf_of` knows holds codes."""
    return x.ndim > 0 and x.dtype.itemsize == 1


def tiles_of_byte(jaxpr: core.ClosedJaxpr) -> int:
    """How many tiles share their bytes: two if codes are packed, else one."""
    return 2 if next(e.params["fmt"].packed for e in jaxpr.jaxpr.eqns if e.primitive is DECODE) else 1


def bits_of(codes: jax.Array, tile: int, tiles: int) -> jax.Array:
    """The codes of one of the tiles that share these bytes, as int32."""
    bits = as_type(jnp.int8, codes).astype(jnp.int32) & 255
    return bits if tiles == 1 else (bits >> (4 * tile)) & 15


def codes_of(bits: Sequence[jax.Array], dtype: Any) -> jax.Array:
    """The bytes that tiles share, of the bits of each."""
    both = bits[0] if len(bits) == 1 else bits[0] | (bits[1] << 4)
    return as_type(dtype, jnp.where(both > 127, both - 256, both).astype(jnp.int8))


def is_of_stack(x: Any, shape: tuple[int, ...]) -> bool:
    """Whether an array has one entry for each matrix of a stack of a shape, as SGD-SaI's scales of layers.

    Not where matrices have one row: a block's scale would look the same.
    """
    return len(x.shape) == len(shape) > 2 and x.shape[-2:] == (1, 1) and shape[-2] > 1


def number_of(index: Sequence[Any], stack: Sequence[int]) -> Any:
    """The number of a matrix of a stack, of dimensions ``stack``, in the order of ``reshape(-1)``."""
    number: Any = 0
    for i, size in zip(index, stack, strict=True):
        number = number * size + i
    return number


def as_words(x: jax.Array, stack: Sequence[int]) -> jax.Array:
    """A scalar, or one for each matrix of a stack, as a vector of entries of 32 bits.

    Args:
        x: the scalar, or an array :func:`is_of_stack`.
        stack: its dimensions before those of a matrix.
    """
    x = x.astype(jnp.float32 if jnp.issubdtype(x.dtype, jnp.floating) else jnp.int32)
    return (jnp.broadcast_to(x, (*stack, 1, 1)) if x.ndim else x).reshape(-1)


def from_word(x: jax.Array, dtype: Any) -> jax.Array:
    """The scalar of one of them."""
    return x != 0 if dtype == jnp.bool_ else x.astype(dtype)


def as_type(dtype: Any, codes: jax.Array) -> jax.Array:
    """Codes as another type of eight bits."""
    return codes if codes.dtype == dtype else jax.lax.bitcast_convert_type(codes, dtype)


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
