r"""Rounding to a narrower float, to nearest or at random without bias.

.. math:: \operatorname{SR}(x) = \begin{cases}
    \lceil x \rceil & \text{with probability }
        (x - \lfloor x \rfloor) / (\lceil x \rceil - \lfloor x \rfloor) \\
    \lfloor x \rfloor & \text{otherwise}
    \end{cases}

⌊x⌋ and ⌈x⌉ are the neighbours of x in the dtype, subnormal numbers included. Results stay in float32, because
XLA may drop a conversion to bfloat16 and back, but not this arithmetic.
"""

import jax
import jax.numpy as jnp

_BITS = 24  # of a uniform number, as many as float32 resolves


def grid_step(x: jax.Array, dtype: jax.typing.DTypeLike) -> jax.Array:
    """The distance between the numbers of a dtype around x: one unit in the last place.

    Args:
        x: float32, any shape.
        dtype: a float of 16 or 8 bits.

    Returns:
        A power of two, float32; infinite where x is not finite. It is at least 2⁻¹²⁶, below which float32
        arithmetic is unreliable, although bfloat16 numbers with |x| < 2⁻¹¹⁹ are closer together.

    Example:
        >>> grid_step(jnp.array([1.0, -3.0]), jnp.bfloat16).tolist()  # 2⁻⁷ and 2⁻⁶
        [0.0078125, 0.015625]
    """
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    power = jax.lax.bitcast_convert_type(bits & jnp.uint32(0x7F800000), jnp.float32)
    info, least = jnp.finfo(dtype), float(jnp.finfo(jnp.float32).smallest_normal)
    power = jnp.maximum(power, float(info.smallest_normal))
    return jnp.maximum(power * float(info.eps), least)


def nearest(x: jax.Array, dtype: jax.typing.DTypeLike) -> jax.Array:
    """A number rounded to the nearest number of a dtype, ties to even, and at most the largest.

    Args:
        x: float32, any shape.
        dtype: a float of 16 or 8 bits.

    Returns:
        float32; NaN and infinity stay.

    Example:
        >>> nearest(jnp.array([1.003, 1.005]), jnp.bfloat16).tolist()
        [1.0, 1.0078125]
    """
    step = grid_step(x, dtype)
    return _within(jnp.round(x / step) * step, x, dtype)


def stochastic_round(x: jax.Array, dtype: jax.typing.DTypeLike, noise: jax.Array) -> jax.Array:
    """A number rounded up or down to a number of a dtype, at random and without bias.

    Args:
        x: float32, any shape.
        dtype: a float of 16 or 8 bits.
        noise: uniform in [0, 1), float32, of the shape of x. Multiples of 2⁻¹⁶ make the probabilities exact
            for bfloat16.

    Returns:
        float32; NaN and infinity stay, and no finite number becomes infinite.

    Example:
        >>> x = jnp.full(2, 1 + 2**-9)  # a quarter of the way from 1 to 1 + 2⁻⁷
        >>> stochastic_round(x, jnp.bfloat16, jnp.array([0.24, 0.25])).tolist()
        [1.0078125, 1.0]
    """
    step = grid_step(x, dtype)
    below = _floor(x, dtype)
    up = noise * step < x - below
    return _within(below + jnp.where(up, step, 0), x, dtype)


def stochastic_step(p: jax.Array, u: jax.Array, noise: jax.Array) -> jax.Array:
    """The step from p, a number of few bits, to a random neighbour of p + u: d with E[fl(p + d)] = p + u.

    The two candidates are the steps to the neighbours of p + u, one rounded down and the other up to numbers of
    p's dtype. Steps that do not change p by more than a factor of two are exact (Sterbenz), and lead to the
    neighbours. Where p and u nearly cancel, p + u has neighbours closer than any step reaches, and where u is
    large, adding it to p rounds. So the probability follows from where the candidates land, on either side of p
    + u.

    Args:
        p: parameter, a float of 16 or 8 bits, any shape.
        u: its update, of the same shape.
        noise: uniform in [0, 1), float32, of the same shape.

    Returns:
        d in float32, exactly representable in p's dtype; adding it to p gives the chosen number. Where p + u is
        not finite, u.

    Example:
        >>> p = jnp.ones(2, jnp.bfloat16)
        >>> stochastic_step(p, jnp.full(2, 2.0**-9), jnp.array([0.24, 0.25])).tolist()
        [0.0078125, 0.0]
    """
    dtype, p, u = p.dtype, p.astype(jnp.float32), u.astype(jnp.float32)
    target = p + u
    down = _floor(_floor(target, dtype) - p, dtype)
    up = -_floor(p + _floor(-target, dtype), dtype)
    low, high = nearest(p + down, dtype), nearest(p + up, dtype)
    step = jnp.where(noise * (high - low) < target - low, up, down)
    return jnp.where(jnp.isfinite(target), step, u)


def hashed_noise(shape: tuple[int, ...], salt: jax.Array) -> jax.Array:
    """Uniform numbers in [0, 1): a hash of each entry's position and a salt.

    They take about ten operations each, which XLA fuses with their use; use ``jax.random`` where the quality of
    each bit matters. A sharded array has the numbers of the whole array. In ``shard_map``, positions are those
    within the shard.

    Args:
        shape: shape of the result.
        salt: an integer scalar, a different one for each call and each array.

    Returns:
        float32, multiples of 2⁻²⁴.

    Source:
        The mixing function is ``lowbias32`` of Chris Wellons' hash prospector (public domain).

    Example:
        >>> round(float(hashed_noise((100, 100), jnp.int32(0)).mean()), 1)
        0.5
    """
    position = jnp.zeros(shape, jnp.uint32)
    for axis, size in enumerate(shape):
        position = position * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, shape, axis)
    return noise_at(position, salt)


def noise_at(position: jax.Array, salt: jax.Array) -> jax.Array:
    """The numbers of :func:`hashed_noise` at positions in an array, counted along its rows.

    Args:
        position: uint32, any shape.
        salt: as there.
    """
    # Hashed twice, since consecutive salts would otherwise walk along the same sequence.
    bits = _mixed(position ^ _mixed(salt.astype(jnp.uint32) + jnp.uint32(0x9E3779B9)))
    # By way of int32: a TPU's kernels have no conversion of unsigned numbers.
    return (bits >> (32 - _BITS)).astype(jnp.int32).astype(jnp.float32) * 2.0**-_BITS


def _mixed(bits: jax.Array) -> jax.Array:
    bits = (bits ^ (bits >> 16)) * jnp.uint32(0x7FEB352D)
    bits = (bits ^ (bits >> 15)) * jnp.uint32(0x846CA68B)
    return bits ^ (bits >> 16)


def _floor(x: jax.Array, dtype: jax.typing.DTypeLike) -> jax.Array:
    step = grid_step(x, dtype)
    return jnp.floor(x / step) * step


def _within(rounded: jax.Array, x: jax.Array, dtype: jax.typing.DTypeLike) -> jax.Array:
    largest = float(jnp.finfo(dtype).max)
    return jnp.where(jnp.isfinite(x), jnp.clip(rounded, -largest, largest), x)
