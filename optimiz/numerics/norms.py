"""Euclidean norms that neither overflow nor underflow, in one pass over the entries.

In float32 neither 1e30 nor 1e-30 has a square. Squares are summed as they are. Only if a sum may have
overflowed or underflowed, the entries are summed again, multiplied by a power of two, which is exact.
"""

import functools
from collections.abc import Callable, Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp

from optimiz.numerics.control_flow import cond
from optimiz.numerics.dispatch import dispatched_once
from optimiz.numerics.fusion import all_of, rematerialise
from optimiz.numerics.moments import abs_sq
from optimiz.numerics.precision import widen

T = TypeVar("T")


def of_scaled_roots(
    function: Callable[[list[tuple[jax.Array, jax.Array]]], T],
    sums: Callable[[Sequence[jax.Array] | None], Sequence[jax.Array]],
) -> T:
    """Apply a function to roots of sums of squares, each with a power of two s that scales the entries.

    The norm is the root divided by s, and may be infinite where the root is not.

    Args:
        function: a function from a list of pairs (s, root), one per sum and of its shape, to a pytree of
            arrays. It runs at the end of both branches, so that XLA does not copy it into every loop that uses
            its results.
        sums: function from one s per sum, or None for 1 in all of them, to the sums of :math:`|s x|^2`, of any
            shapes and a compute dtype. It is called again for the second pass.

    Returns:
        The function's result. Every s is 1, unless a plain sum is not finite, or so small that squares may have
        underflowed. A root is not finite only if an entry is not.

    Example:
        >>> x = jnp.array([3e30, -4e30])
        >>> [(s, root)] = of_scaled_roots(list, lambda s: [jnp.sum(jnp.square(x * (1 if s is None else s[0])))])
        >>> float(s) == 2.0**-100, round(float(root / s) / 1e30, 4)
        (True, 5.0)
    """
    plain = list(sums(None))
    scales, trusted, ones = _scales(plain)

    def end(scales: Sequence[jax.Array], totals: Sequence[jax.Array]) -> T:
        return function([(s, jnp.sqrt(total)) for s, total in zip(scales, totals, strict=True)])

    # XLA computes both branches, and selects, unless one of them has more than sums and what is computed entry
    # by entry, such as a barrier.
    return cond(trusted, lambda: end(ones, plain), lambda: end(scales, sums(rematerialise(scales))))


@dispatched_once
def _scales(totals: list[jax.Array]) -> tuple[list[jax.Array], jax.Array, list[jax.Array]]:
    """A scale for each sum, whether all of them are 1, and as many ones."""
    scales = [_scale(total) for total in totals]
    return scales, all_of([_is_one(s) for s in scales]), [jnp.ones_like(s) for s in scales]


# What follows is of scalars, and traced once for all blocks.


@jax.jit
def _scale(total: jax.Array) -> jax.Array:
    largest = jnp.finfo(total.dtype).maxexp  # 128 for float32
    # The scaled square of the largest number is finite, and that of the smallest normal one is not 0. The
    # square of ``up`` is finite too, because XLA may compute it alone where an entry is known to be 0.
    down, up = 2.0 ** (-25 * largest // 32), 2.0 ** (largest // 2 - 1)
    small = total < 2.0 ** (-largest // 2)
    one, down, up = (jnp.asarray(s, total.dtype) for s in (1, down, up))
    return jnp.where(small, up, jnp.where(jnp.isfinite(total), one, down))


@jax.jit
def _is_one(scale: jax.Array) -> jax.Array:
    return jnp.all(scale == 1)


@jax.jit
def _norm(scale: jax.Array, root: jax.Array) -> jax.Array:
    return jnp.where(jnp.isfinite(root), root / scale, jnp.nan)


def block_norms(arrays: Callable[[], Sequence[jax.Array]], axes: Sequence[tuple[int, ...]]) -> list[jax.Array]:
    """Euclidean norms of arrays over some axes, without overflow or underflow.

    Args:
        arrays: function that computes the arrays, of any shapes; it may be called twice.
        axes: the axes of one block for each array, see :func:`block_axes`.

    Returns:
        The norms in the real compute dtypes, with the axes of a block kept at length 1; 0 for no entries, and
        NaN where one is NaN or infinite.
    """
    return norms_by_sums(arrays, [functools.partial(_sum_of_squares, axes=a) for a in axes])


def norms_by_sums(
    arrays: Callable[[], Sequence[jax.Array]],
    sums_of_squares: Sequence[Callable[[jax.Array, jax.Array | None], jax.Array]],
) -> list[jax.Array]:
    """Roots of sums of squares, without overflow or underflow.

    Args:
        arrays: function that computes the arrays, of any shapes; it may be called twice.
        sums_of_squares: for each array, a function of it and of a factor of its entries, None for 1, to the
            sums of their squares.

    Returns:
        The roots, as :func:`block_norms` returns them.
    """

    def sums(scales: Sequence[jax.Array] | None) -> list[jax.Array]:
        given = arrays()
        each = zip(sums_of_squares, given, scales or [None] * len(given), strict=True)
        return [sum_of_squares(x, s) for sum_of_squares, x, s in each]

    return of_scaled_roots(lambda pairs: [_norm(s, root) for s, root in pairs], sums)


@functools.partial(dispatched_once, static=("axes",))
def _sum_of_squares(x: jax.Array, scale: jax.Array | None, axes: tuple[int, ...]) -> jax.Array:
    return jnp.sum(abs_sq(widen(x) * (1 if scale is None else scale)), axis=axes, keepdims=True)


def block_norm(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """The norm of one array, see :func:`block_norms`.

    Example:
        >>> block_norm(jnp.array([3e30, -4e30]), (0,)) == 5e30
        Array([ True], dtype=bool)
    """
    return block_norms(lambda: [x], [axes])[0]
