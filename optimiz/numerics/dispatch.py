"""One dispatch for several operations on small arrays.

Outside of ``jit`` every operation is dispatched by itself, and for a small array that is all that it costs.
Here a few operations that belong together are compiled once, for all updates, and dispatched together.
"""

from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeVar, cast

import jax
import jax.numpy as jnp
import optax

P = ParamSpec("P")
T = TypeVar("T")


def dispatched_once(function: Callable[P, T], static: Sequence[str] = ()) -> Callable[P, T]:
    """The same function, a call of which outside of ``jit`` is one dispatch; within, it is as written out.

    Args:
        function: of arrays to a pytree of arrays, of a module: one that is made anew at each update would be
            compiled at each.
        static: names of arguments that are no arrays.

    Example:
        >>> double = dispatched_once(lambda x: x + x)
        >>> jax.make_jaxpr(double)(3)
        { lambda ; a:i32[]. let b:i32[] = add a a in (b,) }
    """
    return cast(Callable[P, T], jax.jit(function, static_argnames=tuple(static), inline=True))


@dispatched_once
def increment(count: jax.Array) -> jax.Array:
    """One more, or the same where its dtype has no larger number.

    Example:
        >>> increment(jnp.int32(2)).item()
        3
    """
    return jnp.asarray(optax.safe_increment(count))
