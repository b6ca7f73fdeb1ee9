"""What is held in memory and what is computed anew."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp


def afresh(tree: Any) -> Any:
    """The same arrays, of which what is computed here is not shared with what is computed of them elsewhere.

    Where two results need one intermediate array, XLA may hold it in memory for them: a parameter's bytes are
    written and read again, to save a few operations per entry. Computed from arrays taken afresh it becomes
    part of the loop that needs it. The arrays themselves are not copied.

    Args:
        tree: a pytree of arrays that are in memory anyway: gradients, parameters, state.
    """
    return jax.lax.optimization_barrier(tree)


def all_of(flags: Sequence[jax.Array]) -> jax.Array:
    """Whether all of several booleans are true; of none, they are. See :func:`stacked`.

    Example:
        >>> all_of([jnp.array(True), jnp.array(False)]).item()
        False
    """
    return jnp.all(stacked([jnp.array(True), *flags]))


def stacked(scalars: Sequence[jax.Array]) -> jax.Array:
    """Several scalars as an array, so that what is made of all of them is made once.

    A chain of scalars, one for each leaf, XLA puts into every loop that needs what comes of it: the time to
    compile them grows with the square of their number. A reduction of an array it does not.

    Args:
        scalars: one at the least.

    Example:
        >>> jnp.max(stacked([jnp.array(2), jnp.array(5)])).item()
        5
    """
    return afresh(jnp.stack(scalars))
