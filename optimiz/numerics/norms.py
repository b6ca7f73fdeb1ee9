"""Euclidean norms that neither overflow nor underflow, in one pass over the entries.

In float32 neither 1e30 nor 1e-30 has a square. Squares are summed as they are; only where a sum shows that it
is not to be trusted are they summed once more, of entries times a power of two, which costs no digit.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from optimiz.numerics.afresh import all_of
from optimiz.numerics.moments import abs_sq, shrinking
from optimiz.numerics.precision import widen


def scaled_roots(
    sums: Callable[[Sequence[jax.Array] | None], Sequence[jax.Array]],
) -> list[tuple[jax.Array, jax.Array]]:
    """For each of several sums of squares, a power of two s and the root of the sum over entries times s.

    The norm is the root over s. It may be infinite where the root is not.

    Args:
        sums: function from one s per sum, or None for 1 in all of them, to the sums of :math:`|s x|^2`, of any
            shapes and a compute dtype. It is called for the second pass as well: what it makes there of arrays
            that are in memory is not held for it.

    Returns:
        For each, s and the root, of the sum's shape: s is 1, unless the sum over the entries as they are is
        not finite or so small that squares may be missing in it. The root is not finite only where an entry is
        not.

    Example:
        >>> x = jnp.array([3e30, -4e30])
        >>> [(s, root)] = scaled_roots(lambda s: [jnp.sum(jnp.square(x * (1 if s is None else s[0])))])
        >>> float(s) == 2.0**-100, round(float(root / s) / 1e30, 4)
        (True, 5.0)
    """

    def scale(total: jax.Array) -> jax.Array:
        largest = jnp.finfo(total.dtype).maxexp  # 128 for float32
        # So that the square of the largest number is finite, and that of the smallest normal one is not 0. The
        # square of the latter is finite as well: XLA takes it by itself where an entry is known to be 0.
        down, up = shrinking(total.dtype), 2.0 ** (largest // 2 - 1)
        small = total < 2.0 ** (-largest // 2)
        return jnp.where(small, up, jnp.where(jnp.isfinite(total), 1, down)).astype(total.dtype)

    plain = list(sums(None))
    scales = [scale(total) for total in plain]
    trusted = all_of([jnp.all(s == 1) for s in scales])

    def again() -> list[jax.Array]:
        return list(sums(scales))

    totals = jax.lax.cond(trusted, lambda: plain, again)
    return [(s, jnp.sqrt(total)) for s, total in zip(scales, totals, strict=True)]


def block_norms(arrays: Callable[[], Sequence[jax.Array]], axes: Sequence[tuple[int, ...]]) -> list[jax.Array]:
    """Euclidean norms of arrays over some axes, finite and not zero wherever they are so in exact arithmetic.

    Args:
        arrays: function that computes the arrays, of any shapes; see :func:`scaled_roots`.
        axes: for each the axes that make up one block, see :func:`block_axes`.

    Returns:
        The norms in the real compute dtypes, with the axes of a block kept at length 1; 0 for no entries, and
        NaN where one is NaN or infinite.
    """

    def sums(scales: Sequence[jax.Array] | None) -> list[jax.Array]:
        each = zip(arrays(), axes, [1] * len(axes) if scales is None else scales, strict=True)
        return [jnp.sum(abs_sq(widen(x) * s), axis=a, keepdims=True) for x, a, s in each]

    return [jnp.where(jnp.isfinite(root), root / s, jnp.nan) for s, root in scaled_roots(sums)]


def block_norm(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """The norm of one array, see :func:`block_norms`.

    Example:
        >>> block_norm(jnp.array([3e30, -4e30]), (0,)) == 5e30
        Array([ True], dtype=bool)
    """
    return block_norms(lambda: [x], [axes])[0]
