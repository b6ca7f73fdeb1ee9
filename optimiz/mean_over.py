"""The mean of a loss over a mapped axis, with the gradient of that mean.

Under ``jax.pmap`` and ``jax.shard_map`` each device sees only its part of the batch. What a line search
compares must be equal on all of them, or they take different steps, or some leave a loop in which the others
wait forever. ``jax.lax.pmean`` around the loss makes the values equal, but not the gradients: its transpose is
again a mean over devices, of their cotangents, so that every device has the gradient of its own part. A search
that evaluates the slope at a trial, such as the zoom of ``optax.lbfgs``, then deadlocks.

A mean over valid tokens is not the mean of the devices' means where they have different numbers of them. There
``value_fn`` returns this device's sum, divided by the mean number on a device, that is
``jax.lax.pmean(count, axis_name)``.

Sharded ``jit`` does not need this, since the batch is whole there.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import jax


def mean_over(
    axis_name: Hashable | Sequence[Hashable], value_fn: Callable[[Any], jax.Array]
) -> Callable[[Any], jax.Array]:
    """Average a loss over a mapped axis, and its gradient with it.

    Args:
        axis_name: name, or names, of the axes of ``jax.pmap`` or ``jax.shard_map`` along which the batch is
            split in equal parts.
        value_fn: function from the parameters, which are equal on all devices, to this device's mean loss, a
            scalar.

    Returns:
        A function from the parameters to the mean loss of the whole batch. Value and gradient are equal on all
        devices, bit for bit. It can be differentiated once, in reverse mode.

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
        # Otherwise shard_map, where it tracks what varies, would sum the gradients of shared parameters.
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
