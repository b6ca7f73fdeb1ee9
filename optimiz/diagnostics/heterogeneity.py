r"""Gradient heterogeneity: how unequal the gradients of the blocks of a model are.

With P_b the size of block b of B and g_b its gradient, before it is clipped,

.. math::
    n_b &= \|g_b\|_2, \qquad r_b = n_b / \sqrt{P_b}, \qquad q_b = n_b^2 / \sum_c n_c^2 \\
    \operatorname{Gini}(x) &= \sum_i (2i - B - 1)\, x_{(i)} \,/\, (B \sum_i x_i), \qquad
        x_{(1)} \le \ldots \le x_{(B)} \\
    H &= -\sum_b q_b \ln q_b

Gini is 0 for equal blocks and 1 - 1/B where one block has everything; H is ln B and 0.

Source: the notion is that of arXiv 2502.00213 (Tomihari and Sato): gradient norms that differ among blocks slow
gradient descent, and sign-based methods and Adam much less. The statistics are chosen here; the
authors' code measures only norms.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optimiz.diagnostics.blocks import Labels, partition


class Heterogeneity(NamedTuple):
    """The result of :func:`heterogeneity`; everything but the number of zero blocks in at least float32."""

    norm: jax.Array  # [B]: n_b
    rms: jax.Array  # [B]: r_b, the root mean square of the block's entries
    gini_norm: jax.Array  # of n_b, in [0, 1 - 1/B]
    gini_rms: jax.Array  # of r_b
    max_over_min: jax.Array  # of n_b; infinite where a block is zero
    max_over_median: jax.Array  # of n_b; infinite where the median is zero
    entropy: jax.Array  # H, in nats, in [0, ln B]
    log_spread: jax.Array  # standard deviation (population) of log10 r_b over the blocks that are not zero
    zero_blocks: jax.Array  # int32: blocks whose gradient is zero


def heterogeneity(grads: optax.Updates, blocks: Labels | Any | None = None) -> Heterogeneity:
    """Compare the gradients of the blocks of a model.

    Everything except ``norm`` and ``rms`` is invariant to the scale of the gradient. A gradient of zero has
    Gini 0, entropy 0 and infinite ratios. Where an entry of a block is NaN or infinite, the block's norm is
    NaN, and so is every statistic over blocks.

    Args:
        grads: gradient of the whole batch, averaged over devices, before clipping. Entries may be complex.
        blocks: labels, as a function of the tree or as a tree (or prefix): ``by_layer()``, a label or rule of
            ``optimiz.groups``. None for one block per tensor, ``by_tensor()``.

    Returns:
        Arrays over blocks, in the order of ``block_names(grads, blocks)``, and scalars.

    Raises:
        ValueError: the labels do not fit the tree, or the label of a parameter does not broadcast against it.

    Example:
        >>> measured = heterogeneity({"a": jnp.array([1.0]), "b": jnp.array([0.0, 3.0])})
        >>> measured.norm.tolist(), float(measured.gini_norm)  # (-1·1 + 1·3) / (2 · 4)
        ([1.0, 3.0], 0.25)

    Source:
        arXiv 2502.00213.
    """
    cut = partition(grads, blocks)
    if not cut.names:  # as within optax.masked, where all parameters may be masked
        none, zero = jnp.zeros(0, jnp.float32), jnp.zeros([], jnp.float32)
        return Heterogeneity(none, none, zero, zero, zero, zero, zero, zero, jnp.zeros([], jnp.int32))
    return of_norms(cut.norms(grads), cut.sizes)


def of_norms(norm: jax.Array, sizes: np.ndarray) -> Heterogeneity:
    """As :func:`heterogeneity`, from the norms of the blocks.

    Args:
        norm: norms n of the blocks, [B], B ≥ 1.
        sizes: number of entries P of each block, [B].
    """
    rms = norm / np.sqrt(sizes).astype(norm.dtype)
    largest = jnp.max(norm)
    return Heterogeneity(
        norm,
        rms,
        gini(norm),
        gini(rms),
        _ratio(largest, jnp.min(norm)),
        _ratio(largest, jnp.median(norm)),
        jnp.sum(jax.scipy.special.entr(energy_shares(norm))),
        _log_spread(rms),
        jnp.sum(norm == 0, dtype=jnp.int32),
    )


def gini(x: jax.Array) -> jax.Array:
    """The Gini coefficient: 0 where all entries are equal, or zero; 1 - 1/B where one has all.

    Args:
        x: [B], B ≥ 1, not negative.

    Example:
        >>> float(gini(jnp.array([0.0, 0.0, 0.0, 1.0])))
        0.75
    """
    x = jnp.sort(_in_range(x))
    ranks = 2 * np.arange(1, x.size + 1) - x.size - 1
    total = jnp.sum(x)
    # The ranks are odd about the middle; paired so, no term is negative, and equal entries give 0 exactly.
    return jnp.sum(ranks.astype(x.dtype) * (x - x[::-1])) / (2 * x.size * jnp.where(total == 0, 1, total))


def energy_shares(norm: jax.Array) -> jax.Array:
    """Shares of the squared norm: q_b = n_b² / Σ n², or zeros where all are zero.

    Args:
        norm: n, [B], B ≥ 1, not negative.

    Example:
        >>> [round(x, 2) for x in energy_shares(jnp.array([3.0, 4.0])).tolist()]
        [0.36, 0.64]
    """
    squares = jnp.square(_in_range(norm))
    total = jnp.sum(squares)
    return squares / jnp.where(total == 0, 1, total)


def _in_range(x: jax.Array) -> jax.Array:
    """``x`` times the power of two that brings its largest into [½, 1): sums and squares stay finite."""
    _, exponent = jnp.frexp(jnp.max(x))
    return jnp.ldexp(x, -exponent)


def _ratio(x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.where(y == 0, jnp.inf, x / jnp.where(y == 0, 1, y))


def _log_spread(rms: jax.Array) -> jax.Array:
    counted = rms != 0  # NaN is
    log = jnp.log10(jnp.where(counted, rms, 1))
    blocks = jnp.maximum(jnp.sum(counted), 1).astype(log.dtype)
    deviation = jnp.where(counted, log - jnp.sum(log) / blocks, 0)
    return jnp.sqrt(jnp.sum(jnp.square(deviation)) / blocks)
