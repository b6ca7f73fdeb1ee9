"""Search units: which parameters share one step size of a line search."""

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import jax
import numpy as np
import optax

from optimiz import checks
from optimiz.groups.labels import label
from optimiz.groups.layers import LAYER_INDEX, depth, layer_reader
from optimiz.groups.rules import Leaf, Rule, embeddings, everything, path, read

Units = Callable[[optax.Params], Any]
"""A function from a tree of parameters to the tree of their units: an integer u ≥ 0 per parameter, or, where
layers are stacked along an axis, an integer array that broadcasts against the parameter; -1 for a parameter
that never moves."""


def units_by(*rules: Rule, rest: bool = True) -> Units:
    """Custom units: the first rule that covers a parameter gives its unit.

    Args:
        *rules: one rule per unit, in order.
        rest: whether the parameters that no rule covers are one more unit; otherwise they never move.

    Returns:
        A function from a tree of parameters to the tree of units. It raises ValueError, on a whole tree, for a
        unit without a parameter.

    Raises:
        ValueError: there is no rule.

    Example:
        >>> from optimiz.groups import path
        >>> units_by(path("query"), path("key"))({"query": 1.0, "key": 1.0, "value": 1.0})
        {'key': 1, 'query': 0, 'value': 2}
    """
    if not rules:
        raise ValueError("units_by needs at least one rule")
    units: dict[Hashable, Rule] = dict(enumerate((*rules, everything) if rest else rules))
    return label(units, default=None if rest else -1)


def search_units(
    units: int | None = None,
    layers: str = LAYER_INDEX,
    embeddings: Rule = embeddings,
    scanned: Mapping[str, int] | None = None,
) -> Units:
    """Units of a Transformer: the embeddings, groups of consecutive layers, and the head.

    Unit 0 is the embeddings and the last unit is everything else outside the layers (pooler and head). Of L
    layers, the units 1 ≤ i ≤ n - 2 between them take those from ⌈L (i - 1) / (n - 2)⌉ on, up to ⌈L i / (n -
    2)⌉.

    Args:
        units: n ≥ 3, at most the number of layers and two more; None for that maximum, a unit per layer.
        layers: a regular expression over paths with one group, the layer's index from 0.
        embeddings: rule for the first unit. A parameter in a layer belongs to it, whatever its name.
        scanned: axis along which layers are stacked, by pattern of path; each layer still has its own unit.

    Returns:
        A function from a tree of parameters to the tree of units. It raises ValueError if there is no layer,
        or if a unit would be empty.

    Raises:
        TypeError: ``units`` is not an integer, or ``embeddings`` a function that returns rules.
        ValueError: ``units`` is less than 3, or ``layers`` does not have exactly one group.

    Example:
        >>> search_units()({"embed": 1.0, "layers": [1.0, 1.0], "head": 1.0})
        {'embed': 0, 'head': 3, 'layers': [1, 2]}
        >>> search_units(4)({"embed": 1.0, "layers": [1.0, 1.0, 1.0], "head": 1.0})
        {'embed': 0, 'head': 3, 'layers': [1, 1, 2]}

    Source:
        arXiv 2403.18506 and its code, which is written for 12 layers and leaves the pooler out.
    """
    if units is not None:
        checks.integer("units", units, ge=3)
    layer_of = layer_reader(layers)
    is_lowest = checks.mask("embeddings", embeddings)

    def label(params: optax.Params) -> Any:
        reading = read(params, scanned)
        total = depth(reading, layers)
        number = total + 2 if units is None else units
        if number > total + 2:
            raise ValueError(f"units must be at most {total + 2}, two more than there are layers, got {number}")
        # In integers: in floating point ⌈36 / 28 · 21⌉ is 28.
        ends = np.array([-(-total * i // (number - 2)) for i in range(1, number - 1)])

        def unit_of(layer: Any) -> Any:
            return 1 + np.searchsorted(ends, layer, side="right")

        def unit(leaf: Leaf, is_embedding: bool) -> Any:
            if leaf.scanned is not None:
                return leaf.along_scanned(unit_of(np.arange(leaf.shape[leaf.scanned])))
            layer = layer_of(leaf.path)
            if layer is not None:
                return int(unit_of(layer))
            return 0 if is_embedding else number - 1

        lowest = jax.tree.leaves(jax.tree.broadcast(is_lowest(params), params))
        labels = [unit(*x) for x in zip(reading.leaves, lowest, strict=True)]
        found = {int(u) for x in labels for u in np.ravel(x)}
        for u, what in ((0, "embeddings"), (number - 1, "the head")) if reading.whole else ():
            if u not in found:
                raise ValueError(f"unit {u}, {what}, would be empty; there are {reading.some_paths()}")
        return reading.tree(labels)

    return label


def query_key_value(params: optax.Params) -> Any:
    """Units of attention: the projections to queries, to keys, to values, and the rest.

    Args:
        params: a tree of parameters. Projections that are fused into one tensor cannot be separated.

    Raises:
        ValueError: on a whole tree, there is no such projection.

    Example:
        >>> query_key_value({"query": 1.0, "key": 1.0, "value": 1.0, "out": 1.0})
        {'key': 1, 'out': 3, 'query': 0, 'value': 2}
    """
    names = (("query", "q_proj", "q", "wq"), ("key", "k_proj", "k", "wk"), ("value", "v_proj", "v", "wv"))
    return units_by(*(path(rf"(?i)(?:^|/)(?:{'|'.join(of)})(?:/|$)") for of in names))(params)
