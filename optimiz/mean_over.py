"""A loss that devices share: its mean over a mapped axis, with the gradient of that mean.

Under ``jax.pmap`` and ``jax.shard_map`` each device sees its part of the batch alone. What a line search
compares must be the same on all of them, or they part: each takes another step, or leaves a loop in which the
others wait forever. ``jax.lax.pmean`` around the loss makes the value the same, and not the gradient: its
transpose is again a mean over devices, of their cotangents, so that every device is left with the gradient of
its own part. A search that asks for the slope at a trial, such as the zoom of ``optax.lbfgs``, then deadlocks.

Sharded ``jit`` needs none of this: there the batch is whole.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax


def mean_over(
    axis_name: Hashable | Sequence[Hashable], value_fn: Callable[[Any], jax.Array]
) -> Callable[[Any], jax.Array]:
    """Average a loss over a mapped axis, and its gradient with it.

    Args:
        axis_name: of the axis, or several, of ``jax.pmap`` or ``jax.shard_map`` along which the batch is split
            in equal parts.
        value_fn: parameters, the same on every device, → this device's mean loss, a scalar.

    Returns:
        Parameters → the mean loss of the whole batch. Value and gradient are the same on every device, to the
        bit. It can be differentiated once, in reverse.

    Raises:
        TypeError: ``value_fn`` is not a function, or ``axis_name`` is one.

    Example:
        >>> def replica(w, x):  # one device of one: its part is the whole
        ...     return jax.value_and_grad(mean_over("data", lambda w: w * x.mean()))(w)
        >>> value, grad = jax.pmap(replica, "data")(jax.numpy.array([2.0]), jax.numpy.array([[1.0, 3.0]]))
        >>> value.tolist(), grad.tolist()
        ([4.0], [2.0])
    """
    if not callable(value_fn) or callable(axis_name):
        raise TypeError(
            "mean_over takes the name of an axis and then the loss, a function of the parameters, got "
            f"{axis_name!r} and {value_fn!r}"
        )

    def own(tree: Any) -> Any:
        # Where shard_map keeps account of what differs, it would add up the gradients of the parameters that it
        # takes for shared.
        return jax.lax.pcast(tree, axis_name, to="varying")

    def mean(tree: Any) -> Any:
        return jax.lax.pmean(tree, axis_name)

    @jax.custom_vjp
    def reduced(params: Any) -> jax.Array:
        return mean(value_fn(own(params)))

    def forward(params: Any) -> tuple[jax.Array, Any]:
        value, transpose = jax.vjp(value_fn, own(params))
        return mean(value), transpose

    def backward(transpose: Any, cotangent: jax.Array) -> tuple[Any]:
        (grad,) = transpose(own(cotangent))
        return (mean(grad),)

    reduced.defvjp(forward, backward)
    return reduced
