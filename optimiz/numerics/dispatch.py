"""One dispatch for several operations on small arrays.

Outside of ``jit`` every operation is dispatched by itself, which is the whole cost of a small array. Here a few
operations are compiled once for all updates and dispatched together.
"""

from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeVar, cast

import jax
import jax.numpy as jnp
import optax

P = ParamSpec("P")
T = TypeVar("T")


def dispatched_once(function: Callable[P, T], static: Sequence[str] = ()) -> Callable[P, T]:
    """Make a call outside of ``jit`` a single dispatch; inside, the function is inlined.

    Args:
        function: a function from arrays to a pytree of arrays, defined at module level; one that is new at each
            update would be compiled at each.
        static: names of arguments that are not arrays.

    Example:
        >>> double = dispatched_once(lambda x: x + x)
        >>> double(3).item()
        6
    """
    return cast(Callable[P, T], jax.jit(function, static_argnames=tuple(static), inline=True))


@dispatched_once
def increment(count: jax.Array) -> jax.Array:
    """A count plus one, or the same count at the largest number of its dtype.

    Example:
        >>> increment(jnp.int32(2)).item()
        3
    """
    return jnp.asarray(optax.safe_increment(count))
