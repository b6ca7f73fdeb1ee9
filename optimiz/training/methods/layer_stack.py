"""The stack of layers in a tree of parameters: its place, its depth, and the tree with the stack doubled.

Layers are found as ``optimiz.groups`` finds them: unrolled layers, in a list or under numbered names, by their
paths, and stacked layers by the axis declared for them. A tree may hold several stacks of the same depth, such
as an encoder and a decoder.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from optimiz.groups.layers import LAYER_INDEX, layer_reader
from optimiz.groups.rules import Leaf, read

KeyPath = tuple[Any, ...]


class Place(NamedTuple):
    """Which layers a parameter belongs to; both fields are None outside of the stack.

    Args:
        layer: index of the layer, if it belongs to one.
        axis: axis of the layers, if all of them are stacked in it.
    """

    layer: int | None
    axis: int | None


@dataclasses.dataclass(frozen=True)
class Stack:
    """How the layers of a model are found.

    Args:
        layers: a regular expression over paths with one group, the layer's index from 0.
        scanned: axis of stacked layers by pattern of path.

    Raises:
        ValueError: ``layers`` does not have exactly one group.
    """

    layers: str = LAYER_INDEX
    scanned: Mapping[str, int] | None = None

    def __post_init__(self) -> None:
        layer_reader(self.layers)

    def places(self, params: Any) -> dict[KeyPath, Place]:
        """The place of each parameter, by its key path.

        Raises:
            ValueError: a pattern of ``scanned`` matches no parameter, or names an axis that one lacks.
        """
        layer_of = layer_reader(self.layers)

        def place(leaf: Leaf) -> Place:
            return Place(layer_of(leaf.path) if leaf.scanned is None else None, leaf.scanned)

        paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(params)]
        return dict(zip(paths, map(place, read(params, self.scanned).leaves), strict=True))

    def depth(self, params: Any) -> int:
        """The number of layers.

        Raises:
            ValueError: there are no layers, a stack has a gap, or two stacks have different depths.
        """
        expression = re.compile(self.layers)
        stacks: dict[str, set[int]] = {}
        reading = read(params, self.scanned)
        for leaf in reading.leaves:
            found = expression.search(leaf.path)
            if leaf.scanned is not None:
                stacks[leaf.path] = set(range(leaf.shape[leaf.scanned]))
            elif found:
                stacks.setdefault(leaf.path[: found.start(1)], set()).add(int(found[1]))
        depths = {name: len(indices) for name, indices in stacks.items()}
        whole = all(indices == set(range(len(indices))) for indices in stacks.values())
        if not whole or len(set(depths.values())) != 1:
            raise ValueError(
                f"layers must be numbered from 0, and all stacks equally deep, got {depths} where paths "
                f"match {self.layers!r} or are scanned, among {reading.some_paths()}"
            )
        return next(iter(depths.values()))

    def doubled(self, params: Any) -> Any:
        """The parameters of twice the depth n: layer i is copied to i + n.

        Args:
            params: parameters in nested dicts, lists and tuples.

        Raises:
            ValueError: there are no layers, or they lie in a container that cannot be extended.

        Example:
            >>> Stack().doubled({"head": 1.0, "layers": [2.0, 3.0]})
            {'head': 1.0, 'layers': [2.0, 3.0, 2.0, 3.0]}
        """
        depth = self.depth(params)
        axes = [place.axis for place in self.places(params).values()]
        leaves, structure = jax.tree.flatten(params)
        twice = [
            leaf if axis is None else jnp.concatenate([leaf, leaf], axis)
            for leaf, axis in zip(leaves, axes, strict=True)
        ]
        grown = self._appended(structure.unflatten(twice))
        if self.depth(grown) != 2 * depth:
            raise ValueError("the layers must lie in dicts, lists or tuples, whose copies can be appended")
        return grown

    def sources(self, params: Any) -> dict[KeyPath, KeyPath]:
        """Key path of each parameter of :meth:`doubled` → key path of the parameter that it copies."""
        paths = jax.tree_util.tree_map_with_path(lambda path, _: _Source(path), params)
        doubled = jax.tree_util.tree_leaves_with_path(self._appended(paths))
        return {path: source.path for path, source in doubled}

    def _appended(self, tree: Any) -> Any:
        """The tree with copies of the unrolled layers after them."""
        expression, layer_of = re.compile(self.layers), layer_reader(self.layers)

        def append(node: Any, path: str) -> Any:
            children = _children(node)
            if layer_of(path) is not None or children is None:
                return node
            below = {key: f"{path}/{key}" if path else f"{key}" for key in children}
            grown = {key: append(child, below[key]) for key, child in children.items()}
            layers = [key for key in children if layer_of(below[key]) is not None]
            for key in layers:
                found = expression.search(below[key])
                assert found is not None
                index = str(int(found[1]) + len(layers))
                start, end = (position - len(below[key]) + len(str(key)) for position in found.span(1))
                name = str(key)[:start] + index + str(key)[end:]
                grown[name if isinstance(key, str) else int(name)] = grown[key]
            return _like(node, grown)

        return append(tree, "")


@dataclasses.dataclass(frozen=True)
class _Source:
    """A key path as the leaf of a tree."""

    path: KeyPath


def _children(node: Any) -> dict[Any, Any] | None:
    if isinstance(node, Mapping):
        return dict(node)
    if isinstance(node, tuple | list):
        return dict(zip(getattr(node, "_fields", range(len(node))), node, strict=True))
    return None


def _like(node: Any, children: Mapping[Any, Any]) -> Any:
    """A container of the node's type with other children."""
    make: Callable[..., Any] = type(node)
    if isinstance(node, Mapping):
        return make(children)
    return make(**children) if hasattr(node, "_fields") else make(children.values())
