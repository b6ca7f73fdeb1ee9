"""The size of an optimizer's state, array by array, from shapes alone."""

import dataclasses
from typing import Any

import jax
import optax

from optimiz import checks


@dataclasses.dataclass(frozen=True)
class StateBytes:
    """The size of an optimizer's state; its string is a table.

    Attributes:
        arrays: bytes by path in the state.
        parameters: number of entries of the parameters.
    """

    arrays: dict[str, int]
    parameters: int

    @property
    def total(self) -> int:
        """Bytes of all arrays."""
        return sum(self.arrays.values())

    @property
    def per_parameter(self) -> float:
        """Bytes per entry of the parameters."""
        return self.total / max(self.parameters, 1)

    def __str__(self) -> str:
        rows = [*self.arrays.items(), ("total", self.total), ("per parameter", round(self.per_parameter, 4))]
        path, size = (max(len(f"{row[i]:,}" if i else row[i]) for row in rows) for i in range(2))
        return "\n".join(f"{row[0]:{path}}  {row[1]:{size},}" for row in rows)


def state_bytes(tx: optax.GradientTransformation, params: Any) -> StateBytes:
    """Measure an optimizer's state without allocating it.

    Args:
        tx: any transformation.
        params: a tree of parameters, or of ``jax.ShapeDtypeStruct``, of any size: nothing is allocated.

    Returns:
        The exact size of every array of the state, and their total.

    Raises:
        TypeError: ``tx`` is not a transformation.

    Example:
        >>> import jax.numpy as jnp
        >>> params = {"kernel": jax.ShapeDtypeStruct((1000, 1000), jnp.float32)}
        >>> size = state_bytes(optax.scale_by_adam(), params)
        >>> print(size)
        .count                 4
        .mu['kernel']  4,000,000
        .nu['kernel']  4,000,000
        total          8,000,004
        per parameter        8.0
    """
    checks.transformation("tx", tx)
    state = jax.tree_util.tree_leaves_with_path(jax.eval_shape(tx.init, params))
    arrays = {jax.tree_util.keystr(path): leaf.size * leaf.dtype.itemsize for path, leaf in state}
    return StateBytes(arrays, sum(p.size for p in jax.tree.leaves(params)))
