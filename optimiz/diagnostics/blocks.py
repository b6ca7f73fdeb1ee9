"""Blocks: groups of parameters that are compared with each other.

A tree of labels defines them: parameters with one label are one block. The label of a parameter along one of
whose axes layers are stacked may be an array that broadcasts against it, one label per layer.
``optimiz.groups`` makes labels too: ``groups.label`` by rules, ``groups.kinds.kinds`` by the part of a
Transformer; the two values of a rule are two labels.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optimiz import checks, groups, numerics
from optimiz.groups.layers import layer_reader
from optimiz.groups.rules import Leaf, read

Labels = Callable[[optax.Params], Any]
"""From a tree of parameters to the tree of their labels, or to a prefix of it."""


def by_tensor(scanned: Mapping[str, int] | None = None) -> Labels:
    """One block per parameter tensor, or per layer of stacked layers.

    Args:
        scanned: axis along which layers are stacked, by pattern of path, such as ``{"^layers/": 0}``.

    Returns:
        A function from a tree of parameters to the tree of labels: paths, with the layer in brackets where
        layers are stacked.

    Example:
        >>> params = {"head": jnp.ones(2), "layers": {"scale": jnp.ones((2, 3))}}
        >>> block_names(params, by_tensor({"^layers/": 0}))
        ('head', 'layers/scale[0]', 'layers/scale[1]')
    """
    return functools.partial(
        _labelled, lambda leaf: leaf.path, lambda leaf, layer: f"{leaf.path}[{layer}]", scanned
    )


def by_layer(scanned: Mapping[str, int] | None = None, layers: str = groups.LAYER_INDEX) -> Labels:
    """One block per layer, and one for the parameters outside the layers.

    Layers with the same index are one block, even in an encoder and a decoder.

    Args:
        scanned: axis along which layers are stacked, by pattern of path, such as ``{"^layers/": 0}``.
        layers: a regular expression over paths with one group, the layer's index from 0.

    Returns:
        A function from a tree of parameters to the tree of labels: ``"layer_0"`` …, and ``"outside"``.

    Raises:
        TypeError: ``layers`` is not a regular expression.
        ValueError: ``layers`` does not have exactly one group.

    Example:
        >>> params = {"head": jnp.ones(2), "layers": [jnp.ones(3), jnp.ones(3)]}
        >>> block_names(params, by_layer())
        ('outside', 'layer_0', 'layer_1')
    """
    layer_of = layer_reader(layers)

    def of_leaf(leaf: Leaf) -> str:
        layer = layer_of(leaf.path)
        return "outside" if layer is None else f"layer_{layer}"

    return functools.partial(_labelled, of_leaf, lambda leaf, layer: f"layer_{layer}", scanned)


def _labelled(
    of_leaf: Callable[[Leaf], str],
    of_layer: Callable[[Leaf, int], str],
    scanned: Mapping[str, int] | None,
    params: optax.Params,
) -> Any:
    """The tree of labels, one per parameter, or one per layer where layers are stacked."""
    reading = read(params, scanned)
    labels = []
    for leaf in reading.leaves:
        if leaf.scanned is None:
            labels.append(of_leaf(leaf))
        else:
            along = [-1 if axis == leaf.scanned else 1 for axis in range(len(leaf.shape))]
            layers = range(leaf.shape[leaf.scanned])
            labels.append(np.array([of_layer(leaf, layer) for layer in layers]).reshape(along))
    return reading.tree(labels)


@dataclasses.dataclass(frozen=True)
class Partition:
    """The B blocks of a tree, from paths and shapes alone.

    Attributes:
        names: names of the blocks, in the order of their first parameters in the tree.
        sizes: number of entries of each block, [B].
        numbers: for each leaf the index of its block, in [0, B), of a shape that broadcasts against the leaf.
    """

    names: tuple[str, ...]
    sizes: np.ndarray
    numbers: list[np.ndarray]

    def norms(self, tree: Any) -> jax.Array:
        """Euclidean norm of each block of a tree, [B], in at least float32; NaN where not finite."""
        return self.joined([self.leaf_norms(i, x) for i, x in enumerate(jax.tree.leaves(tree))])

    def leaf_norms(self, leaf: int, x: jax.Array) -> jax.Array:
        """Norms of the parts of a leaf, one per label."""
        return numerics.block_norm(
            x, tuple(a for a, n in enumerate(self.numbers[leaf].shape) if n == 1)
        ).ravel()

    def joined(self, leaf_norms: Sequence[jax.Array]) -> jax.Array:
        """Norms of the blocks, [B], from those of the parts of every leaf."""
        block_of_part = np.concatenate([number.ravel() for number in self.numbers])
        members = [np.flatnonzero(block_of_part == b) for b in range(len(self.names))]
        # Padded to as many parts as the largest block has; the index after the last part is that of a zero.
        most = max(map(len, members))
        table = np.array([np.pad(m, (0, most - len(m)), constant_values=len(block_of_part)) for m in members])
        parts = jnp.concatenate([*leaf_norms, jnp.zeros(1, jnp.float32)])
        return numerics.block_norm(parts[table], (1,)).ravel()


def partition(tree: Any, blocks: Labels | Any | None = None) -> Partition:
    """Cut a tree into blocks.

    Args:
        tree: parameters, or a tree of their shapes. Empty parameters are in no block.
        blocks: labels, as a function of the tree or as a tree (or prefix); None for :func:`by_tensor`.

    Raises:
        TypeError: ``blocks`` is one label, or a function that returns labels.
        ValueError: the labels do not fit the tree, or the label of a parameter does not broadcast against it.
    """
    if isinstance(blocks, str):
        raise TypeError(
            f"blocks must be a tree of labels, or a function of the parameters to one, got {blocks!r}"
        )
    answers = checks.per_parameter("blocks", by_tensor() if blocks is None else blocks)(tree)
    labels = jax.tree.leaves(jax.tree.broadcast(answers, tree))
    block_numbers: dict[str, int] = {}
    sizes, numbers = [], []
    for leaf, label in zip(read(tree).leaves, map(np.asarray, labels), strict=True):
        shape = label.shape or (1,) * len(leaf.shape)
        if len(shape) != len(leaf.shape) or any(
            n not in (1, m) for n, m in zip(shape, leaf.shape, strict=True)
        ):
            raise ValueError(f"the labels of {leaf.path} have shape {shape}, but its own is {leaf.shape}")
        names = [str(name) for name in label.ravel()] if leaf.size else []
        number = np.array([block_numbers.setdefault(name, len(block_numbers)) for name in names], int)
        sizes += [(b, leaf.size // len(names)) for b in number]
        numbers.append(number.reshape(shape if leaf.size else leaf.shape))
    totals = np.zeros(len(block_numbers), np.int64)
    for b, size in sizes:
        totals[b] += size
    return Partition(tuple(block_numbers), totals, numbers)


def block_names(tree: Any, blocks: Labels | Any | None = None) -> tuple[str, ...]:
    """The names of the blocks of a tree, in the order of every array over blocks.

    Args:
        tree: parameters, of arrays or of their shapes.
        blocks: labels, as a function of the tree or as a tree (or prefix); None for :func:`by_tensor`.

    Raises:
        ValueError: the labels do not fit the tree, or the label of a parameter does not broadcast against it.

    Example:
        >>> block_names({"b": jnp.ones(2), "w": jnp.ones((2, 2))})
        ('b', 'w')
    """
    return partition(tree, blocks).names
