"""What is held in memory and what is computed anew."""

from typing import Any

import jax


def afresh(tree: Any) -> Any:
    """The same arrays, of which what is computed here is not shared with what is computed of them elsewhere.

    Where two results need one intermediate array, XLA may hold it in memory for them: a parameter's bytes are
    written and read again, to save a few operations per entry. Computed from arrays taken afresh it becomes
    part of the loop that needs it. The arrays themselves are not copied.

    Args:
        tree: a pytree of arrays that are in memory anyway: gradients, parameters, state.
    """
    return jax.lax.optimization_barrier(tree)
