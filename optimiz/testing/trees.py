"""The parameters and gradients used by the checks."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

DTYPES = (jnp.bfloat16, jnp.float16, jnp.float32)


def params(dtype: Any = jnp.float32) -> Any:
    """Parameters of ranks 2, 1 and 0.

    Args:
        dtype: dtype of all parameters.

    Returns:
        A nested dict.
    """
    return {
        "kernel": jnp.linspace(-1, 1, 64, dtype=dtype).reshape(4, 16),  # rows that low-bit formats accept
        "layer": {"bias": jnp.array([0.5, -0.25, 0.125], dtype), "scale": jnp.ones((), dtype)},
    }


def gradients(step: int, like: Any) -> Any:
    """Normally distributed gradients.

    Args:
        step: index of the step, which seeds the gradients.
        like: parameters, whose shapes and dtypes the gradients have.

    Returns:
        A tree like the parameters.
    """
    rng = np.random.default_rng(step)
    return jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), p.dtype), like)


def train(
    update: Callable[..., Any], start: Any, state: Any, steps: range = range(5)
) -> Iterator[tuple[int, Any, Any, Any]]:
    """Run an optimizer for some steps.

    Args:
        update: gradients, state, parameters → updates, state.
        start: the initial parameters.
        state: the optimizer's initial state.
        steps: indices of the gradients.

    Yields:
        After each step: its index, the updates, the new parameters and the new state.
    """
    p = start
    for i in steps:
        updates, state = update(gradients(i, p), state, p)
        p = optax.apply_updates(p, updates)
        yield i, updates, p, state


def trained(tx: Any, update: Callable[..., Any], start: Any, steps: int = 5) -> tuple[Any, Any]:
    """Train from a fresh state.

    Args:
        tx: the optimizer, which initializes the state.
        update: the optimizer's update, compiled or not.
        start: the initial parameters.
        steps: number of steps.

    Returns:
        Parameters and state at the end.
    """
    *_, (_, _, p, state) = train(update, start, tx.init(start), range(steps))
    return p, state


class Pair(NamedTuple):
    """A NamedTuple of parameters."""

    first: jax.Array
    second: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Box:
    """A dataclass of parameters."""

    inside: jax.Array


CONTAINERS: dict[str, dict[str, Callable[[], Any]]] = {
    "containers": {
        "list and tuple": lambda: [jnp.ones(2), (jnp.ones(3),)],
        "NamedTuple": lambda: Pair(jnp.ones(2), jnp.ones((2, 2))),
        "dataclass": lambda: Box(jnp.ones(3)),
    },
    "bare": {"array": lambda: jnp.ones((3, 2)), "scalar": lambda: jnp.ones(())},
    "empty": {"dict": lambda: {}, "tuple": lambda: ()},
    "holes": {
        "None": lambda: {"a": jnp.ones(3), "b": None},
        "MaskedNode": lambda: {"a": jnp.ones(3), "b": optax.MaskedNode()},
    },
    "size zero": {"array": lambda: {"a": jnp.ones(3), "b": jnp.ones((0, 4))}},
    "names": {
        "separators": lambda: {"a/b": jnp.ones(3), "a": {"b": jnp.ones(2)}, "": jnp.ones(2)},
        "integers": lambda: {0: jnp.ones(3), 1: jnp.ones(2)},
    },
}
"""Topic of a promise → name → parameters in such a container."""
