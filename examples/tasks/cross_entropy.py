"""The cross-entropy of narrow logits, in float32."""

from typing import Any

import jax
import jax.numpy as jnp
import optax


def cross_entropy(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """The negative log-probability of targets, computed in float32.

    Args:
        logits: [..., V]. Of narrow ones a step holds nothing wider between its forward and its backward pass.
        targets: integers [...].

    Returns:
        float32 [...].

    Example:
        >>> cross_entropy(jnp.zeros((1, 4), jnp.bfloat16), jnp.array([2])).tolist()  # log 4
        [1.3862943649291992]
    """
    whole = logits.dtype == jnp.float32
    return (optax.softmax_cross_entropy_with_integer_labels if whole else _narrow)(logits, targets)


@jax.custom_jvp
def _narrow(logits: jax.Array, targets: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), targets)


@_narrow.defjvp
def _narrow_jvp(primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, Any]) -> Any:
    """The derivative, softmax − one-hot, in one pass over the logits."""
    # Without the barrier XLA would hold the logits in float32.
    logits, targets = jax.lax.optimization_barrier(primals[0]), primals[1]
    wide, tangent = logits.astype(jnp.float32), tangents[0].astype(jnp.float32)
    total = jax.nn.logsumexp(wide, axis=-1, keepdims=True)
    is_target = jax.lax.broadcasted_iota(targets.dtype, wide.shape, wide.ndim - 1) == targets[..., None]
    loss = jnp.sum(jnp.where(is_target, total - wide, 0), -1)
    return loss, jnp.sum((jnp.exp(wide - total) - is_target) * tangent, -1)
