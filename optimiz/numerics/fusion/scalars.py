"""Scalars by way of an array: one value of many, and constants that differ from leaf to leaf."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from optimiz.numerics.fusion.rematerialise import rematerialise


def all_of(flags: Sequence[jax.Array]) -> jax.Array:
    """Whether all of several booleans are true, which of none they are.

    Args:
        flags: boolean scalars.

    Returns:
        A boolean scalar.

    Example:
        >>> all_of([jnp.array(True), jnp.array(False)]).item()
        False
    """
    return jnp.all(stacked([jnp.array(True), *flags]))


def stacked(scalars: Sequence[jax.Array]) -> jax.Array:
    """Several scalars as an array, of which a reduction is computed once, not in every loop that uses it.

    Args:
        scalars: at least one.

    Returns:
        An array of shape [n].

    Example:
        >>> jnp.max(stacked([jnp.array(2), jnp.array(5)])).item()
        5
    """
    return rematerialise(jnp.stack(scalars))


def operand(number: int | float, dtype: jax.typing.DTypeLike) -> jax.Array:
    """A constant that a loop reads from memory; XLA compiles loops that differ in nothing else only once.

    Args:
        number: the constant.
        dtype: its dtype.

    Returns:
        A scalar.

    Example:
        >>> operand(3, jnp.uint32)
        Array(3, dtype=uint32)
    """
    # Of two entries, as one would become a part of the loop.
    return rematerialise(jnp.array([number, 0], dtype))[0]
