r"""Block-wise quantisation: an array as codes of eight or four bits, and a scale for each block of its rows.

.. math::
    x \approx s\, \operatorname{sign}(c)\, (|c| / C)^p, \qquad s = \max_\text{block} |x|

A block that holds a negative number is stored by that map, with p = 2 for the integers (C = 127, and 7 in four
bits) and p = 1 for the floats (C = 448). A block that holds none is stored without the sign and by its roots,
that is with p twice as large: (c / 255)⁴, (c / 15)⁴ and (c / 448)². This is the map for second moments. It
resolves the root of v, by which Adam divides, at least as finely as the other one resolves m, and reaches down
to 2e-10, 2e-5 and 2e-11 of the largest v of the block, where a linear map of eight bits ends at 4e-3. The sign
of its scale shows which map a block uses, negative for the roots. So the kind of statistic is read off the
values of an array, not off its name, and either map is correct for a block that both can hold.

Rounding is stochastic in x itself, not in its code, so that the mean of what is stored is x: an average that
moves by a thousandth of itself at each update, as Adam's v does, would otherwise never leave its code. The
exception is that a positive number of a block without negative ones never becomes 0: it is rounded up to the
smallest code. Zero is exactly zero in all of them, and NaN or infinity makes its block NaN.

Codes and scales have the array's rank, so that one partition spec fits both. In eight bits the codes have its
shape; in four a byte holds two codes of a row. The noise is a hash of position and salt, so that nothing
depends on how the array is split over devices.

Source: blocks and their scales as in arXiv 2110.02861 (Dettmers et al.), in four bits of 128 entries as in
arXiv 2309.01507 (Li, Chen and Zhu), whose choices torchao's ``AdamW4bit`` has.
Departures: powers instead of tables of codes; in four bits the source has dynamic exponents for m, and for v a
linear map that ends at 1 / 16 of the largest, and rounds to the nearest code.
"""

import abc
import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from optimiz import checks
from optimiz.numerics.nibbles import paired, unpaired
from optimiz.numerics.rounding import grid_step, hashed_noise, stochastic_round
from optimiz.numerics.tiles import block_size, signed_largest, signed_magnitude, spread

# Smallest scale, so that the smallest codes of a block decode to normal numbers.
_LEAST = 2.0**-90
_SHORTEST_ROW = 16  # fewer entries per scale save little memory


class Exact(NamedTuple):
    """A part of an optimizer's state that is not stored in few bits, such as an orthogonal matrix."""

    value: Any


class _Format(abc.ABC):
    """A way to store an array as codes and their scales.

    Attributes:
        packed: whether an entry of the codes holds several of the array's, so that their shape is another.
    """

    packed: ClassVar[bool] = False

    def encode(self, x: jax.Array, salt: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Store an array.

        Args:
            x: real, of a shape [..., n] that :meth:`suits`.
            salt: an integer scalar, a different one for each call and each array.

        Returns:
            :meth:`codes` and :meth:`scales`.
        """
        [scales] = self.scales(x)
        return self.codes(x, scales, salt), scales

    @abc.abstractmethod
    def scales(self, *arrays: jax.Array) -> list[jax.Array]:
        """The scales of arrays, all of one shape."""

    @abc.abstractmethod
    def codes(self, x: jax.Array, scales: jax.Array, salt: jax.Array) -> jax.Array:
        """The codes of an array; x and salt as for :meth:`encode`."""

    @abc.abstractmethod
    def decode(self, codes: jax.Array, scales: jax.Array, like: jax.ShapeDtypeStruct | None) -> jax.Array:
        """What was stored.

        Args:
            codes: codes of an array.
            scales: its scales.
            like: of the shape of the array, and laid out as it; only what is packed needs it.

        Returns:
            The array in float32.
        """


@dataclasses.dataclass(frozen=True)
class _Blockwise(_Format):
    """What the two formats with scales share; see the module docstring."""

    block: int = 256

    dtype: ClassVar[Any]  # of the codes
    power: ClassVar[int]  # p of a block with signs; that of roots is twice as large
    tops: ClassVar[tuple[int, int]]  # C of a block with signs, and of one of roots

    def __post_init__(self):
        checks.integer("block", self.block, ge=_SHORTEST_ROW)

    def suits(self, shape: tuple[int, ...]) -> bool:
        """Whether rows are long enough for the scales to take little memory."""
        return len(shape) > 0 and shape[-1] >= _SHORTEST_ROW

    def scales(self, *arrays: jax.Array) -> list[jax.Array]:
        """The scales of arrays of one shape [..., n]: for each, float32 [..., number of blocks]."""
        largest = signed_largest([x.astype(jnp.float32) for x in arrays], self.size(arrays[0].shape))
        return list(map(_not_too_small, largest))

    def codes(self, x: jax.Array, scales: jax.Array, salt: jax.Array) -> jax.Array:
        """The codes of an array; x and salt as for :meth:`encode`."""
        x = x.astype(jnp.float32)
        noise = hashed_noise(x.shape, salt)
        inverse = spread(_inverse(scales), x, self.size(x.shape))
        return self._stored(self._code(x, inverse, _is_negative(inverse, noise), noise))

    def decode(self, codes: jax.Array, scales: jax.Array, like: jax.ShapeDtypeStruct | None) -> jax.Array:
        """What was stored, in float32."""
        bits = self._bits(codes, like)
        own = spread(scales, bits, self.size(bits.shape))
        return self._value(bits, own, _is_negative(own, bits.astype(jnp.float32)))

    def scale_of_block(self, x: jax.Array) -> jax.Array:
        """The scales of the rows of a matrix, one column; for a kernel."""
        ends = jnp.min(x, 1, keepdims=True), jnp.max(x, 1, keepdims=True)
        return _not_too_small(signed_magnitude(*ends))

    def bits_of_block(self, x: jax.Array, scales: jax.Array, noise: jax.Array) -> jax.Array:
        """The bits of each entry in int32, from its block's scale and its noise in [0, 1); for a kernel."""
        inverse = jnp.broadcast_to(_inverse(scales), x.shape)
        return self._code(x.astype(jnp.float32), inverse, inverse < 0, noise)

    def value_of_block(self, bits: jax.Array, scales: jax.Array) -> jax.Array:
        """What was stored, from the bits of each entry in int32 and its block's scale; for a kernel."""
        own = jnp.broadcast_to(scales, bits.shape)
        return self._value(bits, own, own < 0)

    def size(self, shape: tuple[int, ...]) -> int:
        """Entries of a block of an array."""
        return block_size(shape[-1], self.block)

    def _code(self, x: jax.Array, inverse: jax.Array, roots: jax.Array, noise: jax.Array) -> jax.Array:
        size = jnp.abs(x)
        share = jnp.minimum(size * jnp.where(roots, -inverse, inverse), 1)
        top = jnp.where(roots, self.tops[1], self.tops[0]).astype(jnp.float32)
        root = jnp.sqrt(share) if self.power == 2 else share
        position = top * jnp.where(roots, jnp.sqrt(root), root)  # of the code, which is on a grid
        step = self._step(position)
        below = jnp.floor(position / step) * step
        unit = jnp.where(roots, 1 / self.tops[1], 1 / self.tops[0])
        low, high = (self._share(code * unit, roots) for code in (below, below + step))
        up = noise * (high - low) < share - low
        code = jnp.minimum(below + jnp.where(up, step, 0), top)
        code = jnp.where(roots & (size > 0), jnp.maximum(code, self._step(jnp.zeros_like(code))), code)
        return self._pack(jnp.where(x < 0, -code, code))

    def _value(self, bits: jax.Array, own: jax.Array, roots: jax.Array) -> jax.Array:
        code = self._unpack(bits, roots)
        # No division: XLA recomputes cheap operations where they are used, instead of holding the result.
        share = self._share(jnp.abs(code) * jnp.where(roots, 1 / self.tops[1], 1 / self.tops[0]), roots)
        return own * jnp.where((code < 0) ^ roots, -share, share)

    def _share(self, root: jax.Array, roots: jax.Array) -> jax.Array:
        share = jnp.square(root) if self.power == 2 else root
        return jnp.where(roots, jnp.square(share), share)

    @abc.abstractmethod
    def _step(self, position: jax.Array) -> jax.Array:
        """From each position on the way to the top, the distance to the next code."""

    @abc.abstractmethod
    def _pack(self, code: jax.Array) -> jax.Array:
        """Positions of codes, signed, as the bits of each: int32."""

    @abc.abstractmethod
    def _unpack(self, bits: jax.Array, roots: jax.Array) -> jax.Array:
        """The positions that were packed; where there are roots, without a sign."""

    def _stored(self, bits: jax.Array) -> jax.Array:
        """The codes of an array, of the bits of each entry."""
        return jax.lax.bitcast_convert_type(bits.astype(jnp.uint8), self.dtype)

    def _bits(self, codes: jax.Array, like: jax.ShapeDtypeStruct | None) -> jax.Array:
        """The bits of each entry, of the codes of an array."""
        del like
        return jax.lax.bitcast_convert_type(codes, jnp.uint8)


@dataclasses.dataclass(frozen=True)
class Int8(_Blockwise):
    """Eight-bit integers: a relative step of 2 / abs(c) in a moment, so 2 / c in the root of a second moment.

    Args:
        block: entries to a scale, at most, ≥ 16; a scale is four bytes, so that 256 make 1.016 bytes an entry.
    """

    dtype = jnp.int8
    power = 2
    tops = (127, 255)

    def _step(self, position):
        return jnp.ones_like(position)

    def _pack(self, code):
        # Two's complement. Roots up to 255 have one more bit, that of the sign.
        return code.astype(jnp.int32) & 255

    def _unpack(self, bits, roots):
        code = bits.astype(jnp.int32)
        return jnp.where(roots | (code < 128), code, code - 256).astype(jnp.float32)


@dataclasses.dataclass(frozen=True)
class Int4(_Blockwise):
    """Four-bit integers, two in a byte: 7 sizes of either sign in a moment, and 15 in a second moment.

    What is stored is a neighbour of x: of a block whose largest magnitude is s, at most 13/49 s from a moment,
    and at most 0.24 s from a second moment.

    Args:
        block: entries to a scale, at most, ≥ 16; a scale is four bytes, so that 128 make 0.531 bytes an entry.
    """

    block: int = 128

    packed = True
    dtype = jnp.uint8
    power = 2
    tops = (7, 15)

    def _step(self, position):
        return jnp.ones_like(position)

    def _pack(self, code):
        return code.astype(jnp.int32) & 15

    def _unpack(self, bits, roots):
        code = bits.astype(jnp.int32)
        return jnp.where(roots | (code < 8), code, code - 16).astype(jnp.float32)

    def _stored(self, bits):
        return paired(bits.astype(jnp.uint8), self.size(bits.shape))

    def _bits(self, codes, like):
        assert like is not None
        return unpaired(codes, like, self.size(like.shape))


@dataclasses.dataclass(frozen=True)
class Float8(_Blockwise):
    """Eight-bit floats (e4m3fn): a relative step of 1/16 to 1/8 throughout, in moments and in roots.

    Args:
        block: entries to a scale, at most, ≥ 16.
    """

    dtype = jnp.float8_e4m3fn
    power = 1
    tops = (448, 448)

    def _step(self, position):
        return grid_step(position, self.dtype)

    # Converted by hand: without hardware support, XLA's conversions are too expensive to repeat.

    def _pack(self, code):
        size = jnp.abs(code)
        bits = jax.lax.bitcast_convert_type(size, jnp.int32)
        # Three of 23 bits of mantissa, and an exponent that is biased by 7 and not by 127.
        normal = (bits >> 20) - (120 << 3)
        bits = jnp.where(size < 2.0**-6, (size * 2.0**9).astype(jnp.int32), normal)
        return jnp.where(code < 0, bits | 128, bits)

    def _unpack(self, bits, roots):
        del roots
        bits = bits.astype(jnp.int32)
        size = bits & 127
        normal = jax.lax.bitcast_convert_type((size + (120 << 3)) << 20, jnp.float32)
        size = jnp.where(size < 8, size.astype(jnp.float32) * 2.0**-9, normal)
        return jnp.where(bits < 128, size, -size)


@dataclasses.dataclass(frozen=True)
class BFloat16(_Format):
    """bfloat16, rounded stochastically; its range is that of float32, so that it has no scales."""

    dtype: ClassVar[Any] = jnp.bfloat16

    def suits(self, shape: tuple[int, ...]) -> bool:
        """Whether an array of this shape can be stored: any can."""
        del shape
        return True

    def scales(self, *arrays: jax.Array) -> list[jax.Array]:
        """No scales, for each array."""
        return list(map(no_scales, arrays))

    def codes(self, x: jax.Array, scales: jax.Array, salt: jax.Array) -> jax.Array:
        """The array in bfloat16."""
        del scales
        x = x.astype(jnp.float32)
        return stochastic_round(x, self.dtype, hashed_noise(x.shape, salt)).astype(self.dtype)

    def decode(self, codes: jax.Array, scales: jax.Array, like: jax.ShapeDtypeStruct | None) -> jax.Array:
        """What was stored, in float32."""
        del scales, like
        return codes.astype(jnp.float32)


def _not_too_small(scales: jax.Array) -> jax.Array:
    return jnp.where(jnp.abs(scales) < _LEAST, jnp.sign(scales) * _LEAST, scales)


def _inverse(scales: jax.Array) -> jax.Array:
    return 1 / jnp.where(scales == 0, 1, scales)


def _is_negative(numbers: jax.Array, other: jax.Array) -> jax.Array:
    """Whether each entry's number is negative.

    Compared with a constant, XLA would do so before the numbers are spread, and a TPU would spread two arrays
    in place of one. There they are compared with zeros made of another array, which is finite and not negative.
    """
    return jax.lax.platform_dependent(
        numbers, other, tpu=lambda x, y: x < 0.0 * y, default=lambda x, y: x < jnp.zeros_like(y)
    )


def no_scales(x: jax.Array) -> jax.Array:
    """A placeholder for the scales of an array that has none: a single zero, of the array's rank."""
    return jnp.zeros((1,) * jnp.ndim(x), jnp.float32)
