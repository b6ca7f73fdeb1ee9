"""Mapping a function of leaves over trees.

A model has hundreds of leaves of a dozen shapes. Under ``jit`` the function is traced once per shape, and
tracing an update takes less than half of the time.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
from jax.core import Tracer

from optimiz.numerics.control_flow import is_staged

T = TypeVar("T")


def traced_once(function: Callable[..., T], *trees: Any, static: Sequence[str] = ()) -> Callable[..., T]:
    """Let a function be traced once per shape and dtype, if the leaves are traced.

    Otherwise it is returned as it is, because a function that is new at each call would be compiled at each
    call.

    Args:
        function: a function from arrays to a pytree of arrays; it may close over traced arrays.
        *trees: trees whose leaves will be its arguments.
        static: names of arguments that are not arrays; the function is traced once for each of their values.
    """
    traced = any(isinstance(x, Tracer) for x in jax.tree.leaves(trees))
    return jax.jit(function, static_argnames=tuple(static)) if traced and is_staged() else function


def map_leaves(function: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """``jax.tree.map`` of a function of arrays; see :func:`traced_once`.

    Example:
        >>> jax.jit(lambda tree: map_leaves(jax.numpy.square, tree))({"a": 3, "b": 1})["a"].item()
        9
    """
    return jax.tree.map(traced_once(function, tree, others), tree, *others)


def map_many(
    function: Callable[..., tuple[Any, ...]], outputs: int, tree: Any, *others: Any
) -> tuple[Any, ...]:
    """Map a function with several results over leaves, and return one tree per result.

    Args:
        function: a function of one array per tree that returns ``outputs`` results; see :func:`traced_once`.
        outputs: number of results, needed for a tree without leaves.
        tree: a pytree, whose structure the results have.
        *others: pytrees of the same structure, or with that structure as a prefix.

    Example:
        >>> map_many(lambda x, y: (x + y, x - y), 2, {"a": 3}, {"a": 1})
        ({'a': 4}, {'a': 2})
    """
    leaves, structure = jax.tree.flatten(tree)
    columns = [structure.flatten_up_to(other) for other in others]
    function = traced_once(function, leaves, columns)
    rows = [function(*row) for row in zip(leaves, *columns, strict=True)]
    return tuple(structure.unflatten([row[i] for row in rows]) for i in range(outputs))
