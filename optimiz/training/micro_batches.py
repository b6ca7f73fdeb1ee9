r"""A batch in micro-batches, one after the other within a step: the same loss and gradient in less memory.

.. math:: L = \sum_i \frac{w_i}{\sum_j w_j}\, \ell_i = \sum_m L_m, \qquad \nabla L = \sum_m \nabla L_m

with :math:`L_m` the part of the sum over the examples of micro-batch m. The weights are those of the whole
batch, so that the sum is its mean whatever they are; the mean of the means of the parts would be another number
where the weights of the parts differ, as numbers of valid tokens do. The gradient is added up in at least
float32. The activations held at any time are those of one micro-batch.

Micro-batch m of n has the examples m, m + n, m + 2 n and so on: on a mesh each of them lies on all devices, and
none moves. Each has a random key of its own.

How far the gradients of the micro-batches are apart tells how noisy they are. With the shares
:math:`s_i = w_i / \sum_j w_j`, their sum :math:`s_m` in a micro-batch, its mean gradient :math:`g_m` and that
of the batch, :math:`g = \sum_m s_m g_m`,

.. math::
    S = \frac{\sum_m s_m \|g_m\|^2 - \|g\|^2}{\sum_m v_m / s_m - v}, \qquad
    G_2 = \|g\|^2 - v S, \qquad v_m = \sum_{i \in m} s_i^2, \quad v = \sum_m v_m

estimate the trace of the covariance of an example's gradient, and the squared norm of its mean, without bias
for examples that are drawn alike. With equal weights they are those of ``optimiz.diagnostics.gradient_noise``.
They take one sum of squares per micro-batch; dropout counts as noise.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from optimiz.training.task import WEIGHT, batch_size, per_example

Losses = Callable[[Any, Mapping[str, Any], jax.Array], Any]
"""(parameters, batch, key) → losses [B]."""

_UNEVEN = 1e-3  # below, next to all weight is in one micro-batch, and the others show no noise
_MEASURED_IN = 8  # micro-batches of a batch on which noise is measured, if they divide it


class Noise(NamedTuple):
    """The noise of a gradient, from its micro-batches, each a scalar; NaN where only one of them has weight."""

    trace: jax.Array  # S, the trace of the covariance of one example's gradient
    squared_norm: jax.Array  # G₂, the squared norm of its mean; may be negative
    batch_size: jax.Array  # 1/v, the number of examples; less if their weights differ


def check(batch: Mapping[str, Any], n: int) -> None:
    """Refuse a batch that has no n equal parts.

    Raises:
        ValueError: n does not divide its size.
    """
    if batch_size(batch) % n:
        raise ValueError(f"micro_batches must divide the batch, got {n} and a batch of {batch_size(batch)}")


def to_measure(size: int) -> int:
    """The number of micro-batches in which noise is measured: 8, or the next number that divides the batch.

    Args:
        size: number of examples of the batch, ≥ 1.

    Example:
        >>> [to_measure(size) for size in (32, 12, 6, 13)]
        [8, 12, 6, 13]
    """
    return next(n for n in range(min(_MEASURED_IN, size), size + 1) if size % n == 0)


def value_and_grad(
    losses: Losses, params: Any, batch: Mapping[str, Any], key: jax.Array, n: int
) -> tuple[jax.Array, Any, Noise]:
    """The mean loss of a batch, its gradient, and how noisy that is, from n micro-batches; traceable.

    Args:
        losses: the losses of a batch.
        params: the parameters.
        batch: the batch, with its weights if it has any.
        key: random key, into which the number of each micro-batch is folded.
        n: number of micro-batches, a divisor of the batch.
    """
    parts = _parts(batch, key, n)

    def add(total: Any, part: Any) -> tuple[Any, None]:
        sums, squares = total
        found = jax.value_and_grad(lambda params: _share(losses, params, part))(params)
        share = jnp.sum(part[1]).astype(jnp.float32)
        sums = jax.tree.map(lambda old, new: old + new.astype(old.dtype), sums, found)
        return (sums, squares + _over(_squares(found[1]), share)), None

    zero = jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.promote_types(p.dtype, jnp.float32)), params)
    start = (_zero(losses, params, parts), zero), jnp.zeros((), jnp.float32)
    ((value, gradient), squares), _ = jax.lax.scan(add, start, parts)
    noise = _noise(squares, _squares(gradient), parts[1].astype(jnp.float32))
    return value, jax.tree.map(lambda g, p: g.astype(p.dtype), gradient, params), noise


def _noise(squares: jax.Array, square: jax.Array, shares: jax.Array) -> Noise:
    """The noise, from Σ s_m ‖g_m‖², ‖g‖² and the shares [n, B/n]."""
    of_part = jnp.sum(shares**2, axis=1)
    v = jnp.sum(of_part)
    apart = jnp.sum(_over(of_part, jnp.sum(shares, axis=1))) - v
    shown = apart > _UNEVEN * v
    # By convexity the difference is not negative, apart from rounding.
    trace = jnp.where(shown, jnp.maximum(squares - square, 0) / jnp.where(shown, apart, 1), jnp.nan)
    return Noise(trace, square - v * trace, _over(jnp.ones(()), v))


def _over(x: jax.Array, share: jax.Array) -> jax.Array:
    """``x`` over a share; 0 where the share is 0, and x with it."""
    return jnp.where(share > 0, x / jnp.where(share > 0, share, 1), 0)


def _squares(tree: Any) -> jax.Array:
    """The squared norm, summed in float32."""
    squares = (jnp.sum(jnp.square(jnp.abs(x).astype(jnp.float32))) for x in jax.tree.leaves(tree))
    return sum(squares, start=jnp.zeros((), jnp.float32))


def value(losses: Losses, params: Any, batch: Mapping[str, Any], key: jax.Array, n: int) -> jax.Array:
    """The mean loss of a batch, as :func:`value_and_grad` has it; its derivatives compute each part again."""
    parts = _parts(batch, key, n)
    share = jax.checkpoint(lambda params, part: _share(losses, params, part))
    add = lambda total, part: (total + share(params, part), None)  # noqa: E731
    return jax.lax.scan(add, _zero(losses, params, parts), parts)[0]


def each(function: Losses, params: Any, batch: Mapping[str, Any], key: jax.Array, n: int) -> Any:
    """What a function gives for each example, arrays [B, ...], from n micro-batches in turn."""
    found = jax.lax.map(lambda part: function(params, part[0], part[2]), _parts(batch, key, n))
    return jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:]), found)


def _share(losses: Losses, params: Any, part: Any) -> jax.Array:
    """The part of a micro-batch in the mean loss."""
    batch, shares, key = part
    found = per_example(losses(params, batch, key), batch)
    return jnp.sum(shares.astype(found.dtype) * found)


def _zero(losses: Losses, params: Any, parts: Any) -> jax.Array:
    """A loss of zero, in the dtype of the losses."""
    first = jax.tree.map(lambda x: x[0], parts)
    return jnp.zeros((), jax.eval_shape(lambda: _share(losses, params, first)).dtype)


def _parts(batch: Mapping[str, Any], key: jax.Array, n: int) -> tuple[Any, jax.Array, jax.Array]:
    """The micro-batches, the share of each of their examples in the mean, and their keys, each [n, ...]."""
    wide = jax.dtypes.canonicalize_dtype(jnp.float64)  # float32, unless there are losses in float64
    weight = batch.get(WEIGHT, jnp.ones(batch_size(batch))).astype(wide)
    total = jnp.sum(weight)
    shares = weight / jnp.where(total > 0, total, 1)
    cut = lambda x: x.reshape(-1, n, *x.shape[1:]).swapaxes(0, 1)  # noqa: E731
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(n))
    return jax.tree.map(cut, dict(batch)), cut(shares), keys
