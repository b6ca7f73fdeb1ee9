r"""Gradient noise: how large it is, the batch beyond which more examples save few steps, and its tails.

With g_j the gradient of micro-batch j of m, each a mean over b examples, g their mean, G and Σ the expectation
and the covariance of the gradient of one example,

.. math::
    S = \frac{b}{m - 1} \sum_j \|g_j - g\|^2, \qquad
    G_2 = \|g\|^2 - \frac{S}{m b}, \qquad
    B_{simple} = S / G_2

S and G₂ estimate tr Σ and ‖G‖² without bias. G₂ may be negative, and the mean of ratios is far off: average S
and G₂ over measurements, and divide then. With a batch of B_simple, training needs twice the steps of very
large batches, and twice the examples of very small ones, where the curvature is the same in all directions. For
optimizers other than SGD it is a guide.

Source: arXiv 1812.06162 (McCandlish et al.), section 2.2 and appendix A.1. Tails: Hill, Annals of Statistics 3
(1975).

Departures: all micro-batches count alike, and not two batch sizes. Tails are those of each entry over batches,
standardised by its own median: entries of different scales, pooled as in arXiv 1901.06053, look heavy-tailed
even where each is Gaussian.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optimiz import checks, numerics
from optimiz.diagnostics.blocks import Labels, partition

_LEAST_DRAWS = 50  # of which the highest per cent is half a value

# Blocks of successive measurements, of which each is left out in turn; and Student's 97.5 % point for the least
# number of them.
_LEAST_BLOCKS, _MOST_BLOCKS, _QUANTILE = 10, 20, 2.26


class GradientNoise(NamedTuple):
    """The result of :func:`gradient_noise`; B is the number of blocks."""

    trace: jax.Array  # [B]: S, the trace of the covariance of one example's gradient
    squared_norm: jax.Array  # [B]: G₂, the squared norm of the gradient; may be negative
    entries: jax.Array | None = (
        None  # [m, d]: entries of the gradient of each micro-batch, if they were asked for
    )

    @property
    def scale(self) -> jax.Array:
        """B_simple of all blocks together, in examples; infinite where the noise hides the gradient."""
        return noise_scale(jnp.sum(self.trace), jnp.sum(self.squared_norm))


def noise_scale(trace: jax.typing.ArrayLike, squared_norm: jax.typing.ArrayLike) -> jax.Array:
    """The simple noise scale, in examples, from means of S and of G₂ over blocks, steps or seeds.

    Args:
        trace: mean of S, ≥ 0.
        squared_norm: mean of G₂.

    Returns:
        S / G₂; infinite where G₂ is not positive: no batch that was measured shows the gradient.

    Example:
        >>> round(float(noise_scale(2.0, 3.0)), 3), float(noise_scale(2.0, -1.0))
        (0.667, inf)
    """
    trace, squared_norm = jnp.asarray(trace), jnp.asarray(squared_norm)
    shown = squared_norm > 0
    return jnp.where(shown, trace / jnp.where(shown, squared_norm, 1), jnp.inf)


def gradient_noise(
    loss: Callable[[Any, Any], jax.Array],
    params: optax.Params,
    batches: Any,
    blocks: Labels | Any | None = None,
    *,
    batch_size: int,
    entries: int = 0,
) -> GradientNoise:
    """Measure the noise of the gradient at fixed parameters, on m micro-batches.

    It costs m gradients, and a copy of the parameters in memory. Nothing of it is in a training step. Under
    ``jit`` it is one loop, whatever m is.

    Args:
        loss: differentiable function, (parameters, batch) → mean loss of the batch; without dropout, unless its
            noise is to count.
        params: parameters.
        batches: tree of arrays [m, …], m ≥ 2: the micro-batches, drawn alike, one along the first axis.
        blocks: labels, as a function of the tree or as a tree (or prefix); None for one block per tensor.
        batch_size: number b ≥ 1 of examples in a micro-batch.
        entries: number of entries of the gradients to return for :func:`gradient_tails`, evenly spaced over all
            parameters, and at most all of them; 0 for none.

    Returns:
        S and G₂ of each block, in the order of ``block_names(params, blocks)``. They add up over blocks.

    Raises:
        TypeError: ``batch_size`` or ``entries`` is not an integer.
        ValueError: there are fewer than two micro-batches, their numbers differ, or the labels do not fit.

    Example:
        >>> loss = lambda p, x: jnp.mean(p * x)  # the gradients are the means of x, 3 and 1
        >>> measured = gradient_noise(loss, jnp.array(0.0), jnp.array([[3.0], [1.0]]), batch_size=1)
        >>> measured.trace.tolist(), measured.squared_norm.tolist()  # (1 + 1) / 1, and 2² - 2 / 2
        ([2.0], [3.0])
    """
    checks.integer("batch_size", batch_size, ge=1)
    checks.integer("entries", entries, ge=0)
    m = _length(batches)
    cut = partition(params, blocks)
    sampled = _evenly(params, entries)
    gradient = jax.grad(loss)

    def add(carry: tuple[Any, jax.Array], part: tuple[jax.Array, Any]) -> tuple[Any, jax.Array | None]:
        (mean, squares), (k, batch) = carry, part
        found = gradient(params, batch)
        apart = jax.tree.map(lambda g, x: numerics.widen(g) - x, found, mean)
        mean = jax.tree.map(lambda x, d: x + d / k, mean, apart)
        return (mean, squares + cut.norms(apart) ** 2 * (k - 1) / k), sampled(found) if entries else None

    zeros = jax.tree.map(lambda p: numerics.widen(jnp.zeros_like(p)), params)
    start = zeros, jnp.zeros_like(cut.norms(zeros))
    (mean, squares), kept = jax.lax.scan(add, start, (jnp.arange(1.0, m + 1), batches))
    trace = batch_size * squares / (m - 1)
    return GradientNoise(trace, cut.norms(mean) ** 2 - trace / (m * batch_size), kept)


def _evenly(params: Any, n: int) -> Callable[[Any], jax.Array]:
    """A function that takes n entries of a tree like the parameters, evenly spaced over all, in float32."""
    ends = np.cumsum([leaf.size for leaf in jax.tree.leaves(params)])
    total = int(ends[-1]) if len(ends) else 0
    at = np.unique(np.linspace(0, total - 1, min(n, total)).round().astype(int)) if total else np.zeros(0, int)
    of_leaf = [
        at[(at >= end - leaf.size) & (at < end)] - (end - leaf.size)
        for leaf, end in zip(jax.tree.leaves(params), ends, strict=True)
    ]

    def take(tree: Any) -> jax.Array:
        found = [jnp.ravel(leaf)[i] for leaf, i in zip(jax.tree.leaves(tree), of_leaf, strict=True)]
        return jnp.concatenate([x.astype(jnp.float32) for x in found])

    return take


class NoiseLevel(NamedTuple):
    """The result of :func:`noise_level`."""

    scale: float  # B_simple, in examples; infinite where the noise hides the gradient
    low: float  # bounds of its 95 % interval; 0 and infinity for too few measurements
    high: float
    batch_size: float  # mean batch size of the measurements
    n: int  # number of measurements


def noise_level(measurements: Sequence[Mapping[str, float]]) -> NoiseLevel:
    """The simple noise scale from measurements along a run, with its interval.

    S and G₂ are averaged, and divided then. The interval is that of G₂/S by a jackknife over 10 to 20 blocks of
    successive measurements, which needs 10 of them. It holds for the mean over the moments that were measured:
    the scale usually grows as a run goes on.

    Args:
        measurements: at least one ``{"trace": S, "squared_norm": G₂, "batch_size": B}``, in the order of the
            run. Those that are not finite are left out.

    Raises:
        ValueError: no measurement is finite.

    Example:
        >>> found = noise_level([{"trace": 80.0, "squared_norm": g, "batch_size": 8} for g in (1.0, 3.0)])
        >>> found.scale, found.low, found.high, found.n
        (40.0, 0.0, inf, 2)
    """
    rows = np.array([[row[name] for name in ("trace", "squared_norm", "batch_size")] for row in measurements])
    rows = rows.reshape(-1, 3)
    rows = rows[np.isfinite(rows).all(axis=1)]
    if not len(rows):
        raise ValueError("measurements must hold at least one that is finite, got none")
    n = len(rows)
    mean = rows.mean(axis=0)
    low, high = 0.0, math.inf
    if n >= _LEAST_BLOCKS and mean[0] > 0:
        blocks = np.array_split(rows, min(n, _MOST_BLOCKS))
        without = np.array([(rows.sum(axis=0) - block.sum(axis=0)) / (n - len(block)) for block in blocks])
        inverse = without[:, 1] / without[:, 0]
        reach = _QUANTILE * math.sqrt((len(blocks) - 1) * np.mean((inverse - inverse.mean()) ** 2))
        low, high = _inverse(mean[1] / mean[0] + reach), _inverse(mean[1] / mean[0] - reach)
    return NoiseLevel(float(noise_scale(mean[0], mean[1])), low, high, float(mean[2]), n)


def _inverse(x: float) -> float:
    return 1 / x if x > 0 else math.inf


class Tails(NamedTuple):
    """The result of :func:`gradient_tails`, over d entries and n batches."""

    kurtosis: float  # excess kurtosis over batches, median over entries; 0 for a Gaussian
    heavy_share: float  # share of the entries whose excess kurtosis is above 10
    hill_1: float  # tail index from the largest 1 % of the pooled standardised values; large for light tails
    hill_01: float  # the same from the largest 0.1 %
    norm_ratio: float  # 99th percentile of ‖g_j - g‖ over its median


def gradient_tails(gradients: np.ndarray) -> Tails:
    """How heavy the tails of gradient noise are, from the gradients of n batches at fixed parameters.

    A tail index α says that moments of order α and above are infinite. Tails are heavy if it is below 4 at both
    thresholds: Student's t with 2 degrees of freedom has 2. For a Gaussian it is about 9 at the first and 13 at
    the second.

    Args:
        gradients: [n, d], n ≥ 50: one row per batch; d entries of the gradient, such as 1,000 drawn at random.
            Entries without any variation are left out.

    Raises:
        ValueError: the shape is another one, there are too few batches, or an entry is not finite.
    """
    x = np.asarray(gradients, np.float64)
    if x.ndim != 2 or len(x) < _LEAST_DRAWS or not x.size:
        raise ValueError(
            f"gradients must have shape [n, d] with n >= {_LEAST_DRAWS}, got {np.shape(gradients)}"
        )
    if not np.isfinite(x).all():
        raise ValueError("gradients must be finite, got NaN or infinity")
    away = np.linalg.norm(x - x.mean(0), axis=1)
    x = x - np.median(x, axis=0)
    spread = np.median(np.abs(x), axis=0)
    x = x[:, spread > 0] / spread[spread > 0]
    if not x.size:
        raise ValueError("gradients must differ from batch to batch, got the same ones")
    centred = x - x.mean(0)
    kurtosis = np.mean(centred**4, axis=0) / np.mean(centred**2, axis=0) ** 2 - 3
    largest = np.sort(np.abs(x), axis=None)[::-1]
    return Tails(
        kurtosis=float(np.median(kurtosis)),
        heavy_share=float(np.mean(kurtosis > 10)),
        hill_1=_hill(largest, 0.01),
        hill_01=_hill(largest, 0.001),
        norm_ratio=float(np.quantile(away, 0.99) / np.median(away)),
    )


def _hill(largest: np.ndarray, share: float) -> float:
    """Hill's estimate of the tail index from a share of values, which descend."""
    k = max(round(share * len(largest)), 2)
    return float(1 / np.mean(np.log(largest[:k] / largest[k])))


def _length(batches: Any) -> int:
    lengths = {x.shape[0] if x.ndim else 0 for x in map(jnp.asarray, jax.tree.leaves(batches))}
    if len(lengths) != 1 or min(lengths) < 2:
        raise ValueError(f"batches must have the same first axis of at least 2, got {sorted(lengths)}")
    return lengths.pop()
