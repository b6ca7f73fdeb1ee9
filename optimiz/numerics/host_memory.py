"""Arrays that lie in the memory of the device's host."""

from typing import Any

import jax


def is_on_host(x: Any) -> bool:
    """Whether an array lies in the host's memory; it may be traced.

    Example:
        >>> is_on_host(jax.numpy.ones(2))
        False
    """
    return getattr(jax.typeof(x), "memory_space", None) == jax.memory.Space.Host


def on_device(tree: Any) -> Any:
    """The same arrays, of which those in the host's memory are copied to the device; traceable.

    Example:
        >>> on_device({"w": jax.numpy.ones(2)})["w"].tolist()
        [1.0, 1.0]
    """
    return jax.tree.map(lambda x: jax.device_put(x, jax.memory.Space.Device) if is_on_host(x) else x, tree)
