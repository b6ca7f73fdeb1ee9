"""Routing: which parameters are matrices, remembered, and the tree of these alone."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from optimiz import checks
from optimiz.groups.matrices import Matrix
from optimiz.groups.matrices import matrices as find_matrices

Routing = Callable[[optax.Params], Any]
"""A function from a tree of parameters to the tree of :class:`Matrix` or None."""


def axes_by_leaf(
    matrices: Mapping[str, Matrix | None] | Routing | None,
    scanned: Mapping[str, int] | None,
    *,
    whole: bool = False,
) -> Callable[[Any], tuple[Matrix | None, ...]]:
    """A function from a tree of parameters to the axes of each leaf, in the order of ``jax.tree.leaves``.

    Args:
        matrices: axes, or None, by pattern of path; or a function of the parameters to the tree of both; None
            for :func:`matrices` alone.
        scanned: axis along which layers are stacked, by pattern of path.
        whole: whether embeddings, heads and what is fused are each one matrix, see :func:`matrices`.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: ``scanned`` is given beside a function.
    """
    checks.static("matrices", matrices)
    if callable(matrices) and scanned is not None:
        raise ValueError("scanned must be given to groups.matrices if matrices is a function, not beside it")
    routing = matrices if callable(matrices) else find_matrices(matrices, scanned=scanned, whole=whole)

    def axes(tree: Any) -> tuple[Matrix | None, ...]:
        leaves, structure = jax.tree.flatten(tree)
        if not leaves:  # or optax.tree_map_params' placeholder, which a function may not know
            return ()
        answers = structure.flatten_up_to(routing(tree))
        for answer in answers:
            if not isinstance(answer, Matrix | None):
                raise TypeError(f"matrices must give a groups.Matrix or None of each parameter, got {answer!r}")
        pairs = zip(leaves, answers, strict=True)
        return tuple(None if answer is None else answer.of(jnp.shape(leaf)) for leaf, answer in pairs)

    known = {}

    def remembered(tree: Any) -> tuple[Matrix | None, ...]:  # paths take time
        leaves, structure = jax.tree.flatten(tree)
        key = structure, tuple(map(jnp.shape, leaves))
        if key not in known:
            known[key] = axes(tree)
        return known[key]

    return remembered


def matrices_alone(tree: Any, axes: tuple[Matrix | None, ...]) -> Any:
    """The tree with ``optax.MaskedNode`` in place of what is no matrix.

    Args:
        tree: a tree of arrays.
        axes: the axes of each leaf, or None.

    Raises:
        TypeError: a matrix is complex.
    """
    leaves, structure = jax.tree.flatten(tree)
    for leaf, a in zip(leaves, axes, strict=True):
        if a is not None and jnp.issubdtype(leaf.dtype, jnp.complexfloating):
            raise TypeError(
                f"matrices must be real, got {leaf.dtype}{list(leaf.shape)}: name it None in matrices"
            )
    chosen = [optax.MaskedNode() if a is None else leaf for leaf, a in zip(leaves, axes, strict=True)]
    return structure.unflatten(chosen)
