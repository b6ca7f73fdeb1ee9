r"""A batch in micro-batches, one after the other within a step: the same loss and gradient in less memory.

.. math:: L = \sum_i \frac{w_i}{\sum_j w_j}\, \ell_i = \sum_m L_m, \qquad \nabla L = \sum_m \nabla L_m

with :math:`L_m` the part of the sum over the examples of micro-batch m. The weights are those of the whole
batch, so that the sum is its mean whatever they are, and the gradient is added up in at least float32. The
activations held at any time are those of one micro-batch.

Micro-batch m of n has the examples m, m + n, m + 2 n and so on: on a mesh each of them lies on all devices, and
none moves. Each has a random key of its own.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from optimiz.training.task import WEIGHT, batch_size, per_example

Losses = Callable[[Any, Mapping[str, Any], jax.Array], Any]
"""(parameters, batch, key) → losses [B]."""


def check(batch: Mapping[str, Any], n: int) -> None:
    """Refuse a batch that has no n equal parts.

    Raises:
        ValueError: n does not divide its size.
    """
    if batch_size(batch) % n:
        raise ValueError(f"micro_batches must divide the batch, got {n} and a batch of {batch_size(batch)}")


def value_and_grad(
    losses: Losses, params: Any, batch: Mapping[str, Any], key: jax.Array, n: int
) -> tuple[jax.Array, Any]:
    """The mean loss of a batch and its gradient, from n micro-batches; traceable.

    Args:
        losses: the losses of a batch.
        params: the parameters.
        batch: the batch, with its weights if it has any.
        key: random key, into which the number of each micro-batch is folded.
        n: number of micro-batches, a divisor of the batch.
    """
    parts = _parts(batch, key, n)

    def add(total: tuple[jax.Array, Any], part: Any) -> tuple[tuple[jax.Array, Any], None]:
        found = jax.value_and_grad(lambda params: _share(losses, params, part))(params)
        return jax.tree.map(lambda old, new: old + new.astype(old.dtype), total, found), None

    zero = jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.promote_types(p.dtype, jnp.float32)), params)
    (value, gradient), _ = jax.lax.scan(add, (_zero(losses, params, parts), zero), parts)
    return value, jax.tree.map(lambda g, p: g.astype(p.dtype), gradient, params)


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
    return jnp.sum(shares * per_example(losses(params, batch, key), batch))


def _zero(losses: Losses, params: Any, parts: Any) -> jax.Array:
    """A loss of zero, in the dtype of the losses."""
    first = jax.tree.map(lambda x: x[0], parts)
    return jnp.zeros((), jax.eval_shape(lambda: _share(losses, params, first)).dtype)


def _parts(batch: Mapping[str, Any], key: jax.Array, n: int) -> tuple[Any, jax.Array, jax.Array]:
    """The micro-batches, the share of each of their examples in the mean, and their keys, each [n, ...]."""
    weight = batch.get(WEIGHT, jnp.ones(batch_size(batch), jnp.float32)).astype(jnp.float32)
    total = jnp.sum(weight)
    shares = weight / jnp.where(total > 0, total, 1)
    cut = lambda x: x.reshape(-1, n, *x.shape[1:]).swapaxes(0, 1)  # noqa: E731
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(n))
    return jax.tree.map(cut, dict(batch)), cut(shares), keys
