"""Mapping a function of leaves over trees."""

from collections.abc import Callable
from typing import Any

import jax


def map_many(
    function: Callable[..., tuple[Any, ...]], outputs: int, tree: Any, *others: Any
) -> tuple[Any, ...]:
    """Map a function that returns several results over leaves; several trees come back.

    Args:
        function: of one leaf of each tree, returning ``outputs`` results.
        outputs: the number of results.
        tree: a pytree; the results have its structure, an empty one included.
        *others: pytrees of the same structure, or of which it is a prefix.

    Example:
        >>> map_many(lambda x, y: (x + y, x - y), 2, {"a": 3}, {"a": 1})
        ({'a': 4}, {'a': 2})
    """
    leaves, structure = jax.tree.flatten(tree)
    columns = [structure.flatten_up_to(other) for other in others]
    rows = [function(*row) for row in zip(leaves, *columns, strict=True)]
    return tuple(structure.unflatten([row[i] for row in rows]) for i in range(outputs))
