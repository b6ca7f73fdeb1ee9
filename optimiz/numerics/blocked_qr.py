r"""The orthogonal factor of a QR by Householder's reflections, whose program does not grow with the matrix.

Blocks of b columns are factorised in turn; the reflections of one are a product (Schreiber and Van Loan, 1989):

.. math:: H_1 \dots H_b = I - W T W^\top, \qquad H_i = I - 2 w_i w_i^\top

JAX's QR does the same, and a TPU's compiler unrolls it, for minutes if a side has 3,072. Here blocks and their
columns are iterations of loops, and what a matrix loses with each block is masked.
"""

import jax
import jax.numpy as jnp

from optimiz.numerics.precision import product

_BLOCK = 128
"""Columns of a block, the width of a TPU's matrix unit."""


def orthogonal_factor(x: jax.Array) -> jax.Array:
    """The Q of the QR of square matrices [..., n, n], orthogonal whatever their rank.

    Example:
        >>> q = orthogonal_factor(jnp.array([[3.0, 0.0], [4.0, 5.0]]))
        >>> (10 * jnp.abs(q)).round().tolist()
        [[6.0, 8.0], [8.0, 6.0]]
    """
    n = x.shape[-1]
    block = min(n, _BLOCK)
    more = -n % block  # rows and columns of zeros, which no reflection moves
    x = jnp.pad(x, [(0, 0)] * (x.ndim - 2) + [(0, more)] * 2)
    blocks, columns = (n + more) // block, jnp.arange(n + more)

    def reduced(k: jax.Array, run: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        """Put the W of a block in its place; what it has reduced so far is not needed."""
        x, ts = run
        first = k * block
        w, t = _reflections(jax.lax.dynamic_slice_in_dim(x, first, block, axis=-1), first)
        shares = product(t.mT, product(w.mT, x))
        x = x - product(w, jnp.where(columns < first + block, 0, shares))
        return jax.lax.dynamic_update_slice_in_dim(x, w, first, axis=-1), ts.at[k].set(t)

    def applied(i: jax.Array, q: jax.Array) -> jax.Array:
        k = blocks - 1 - i
        w = jax.lax.dynamic_slice_in_dim(x, k * block, block, axis=-1)
        return q - product(w, product(ts[k], product(w.mT, q)))

    ts = jnp.zeros((blocks, *x.shape[:-2], block, block), x.dtype)
    x, ts = jax.lax.fori_loop(0, blocks, reduced, (x, ts))
    q = jax.lax.fori_loop(0, blocks, applied, jnp.broadcast_to(jnp.eye(n + more, dtype=x.dtype), x.shape))
    return q[..., :n, :n]


def _reflections(x: jax.Array, first: jax.Array) -> tuple[jax.Array, jax.Array]:
    """W and T of the reflections that leave nothing below the diagonal of a block.

    Args:
        x: the block [..., n, b].
        first: the row of its first diagonal entry.
    """
    rows, columns = jnp.arange(x.shape[-2]), jnp.arange(x.shape[-1])

    def reflected(i: jax.Array, run: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, ...]:
        x, ws, t = run
        column = jax.lax.dynamic_index_in_dim(x, i, axis=-1, keepdims=False)
        w = _unit(jnp.where(rows < first + i, 0, column))
        away = jnp.where(w < 0, -1, 1) * (w != 0).any(axis=-1, keepdims=True)
        w = _unit(w + jnp.where(rows == first + i, away, 0))[..., None]
        x = x - 2 * w * jnp.sum(w * x, axis=-2, keepdims=True)
        earlier = jnp.sum(t * jnp.sum(ws * w, axis=-2)[..., None, :], axis=-1)
        of_t = 2 * ((columns == i) - earlier)[..., None]
        put = jax.lax.dynamic_update_slice_in_dim
        return x, put(ws, w, i, axis=-1), put(t, of_t, i, axis=-1)

    t = jnp.zeros((*x.shape[:-2], x.shape[-1], x.shape[-1]), x.dtype)
    _, ws, t = jax.lax.fori_loop(0, x.shape[-1], reflected, (x, jnp.zeros_like(x), t))
    return ws, t


def _unit(x: jax.Array) -> jax.Array:
    """Vectors over their norms, which neither overflow nor underflow; those that are next to 0 become 0."""
    largest = jnp.max(jnp.abs(x), axis=-1, keepdims=True)
    x = jnp.where(largest < jnp.finfo(x.dtype).tiny, 0, x / jnp.maximum(largest, jnp.finfo(x.dtype).tiny))
    return x / jnp.sqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), 1))
