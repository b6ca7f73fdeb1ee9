"""Layers: the layer of a parameter, and learning rates that decrease with the distance from the output."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import optax

from optimiz import checks
from optimiz.groups.rules import Leaf, Reading, Rule, embeddings, read

LAYER_INDEX = r"(?i)(?:^|/)(?:\w*(?:layer|block)s?|h)[/_]?(\d+)(?:/|$)"
"""Where models keep a layer's index: ``layers/3/``, ``encoderblock_3/``, ``h/3/``, ``Block_3/``."""


def layer_reader(layers: str) -> Callable[[str], int | None]:
    """A function from a path to the index of its layer, or None.

    Args:
        layers: a regular expression over paths with one group, the layer's index from 0.

    Raises:
        TypeError: ``layers`` is not a regular expression.
        ValueError: ``layers`` does not have exactly one group.
    """
    if not isinstance(layers, str | re.Pattern):
        raise TypeError(
            f"layers must be a regular expression with one group, the layer's index, got {layers!r}"
        )
    expression = re.compile(layers)
    if expression.groups != 1:
        raise ValueError(f"layers must have one group, the layer's index, got {layers!r}")

    def layer_of(path: str) -> int | None:
        found = expression.search(path)
        return None if found is None else int(found[1])

    return layer_of


def depth(reading: Reading, layers: str) -> int:
    """The number of layers of a tree of parameters.

    Masked parameters count, so that one group of parameters has the depth of the whole model.

    Raises:
        ValueError: there is no layer.
    """
    found = [i + 1 for i in map(layer_reader(layers), reading.paths) if i is not None]
    found += [leaf.shape[leaf.scanned] for leaf in reading.leaves if leaf.scanned is not None]
    if reading.leaves and not found:
        raise ValueError(
            f"no layer found: no path matches {layers!r} and no parameter is scanned; there are "
            f"{reading.some_paths()}. Where Optax masks all layers, pass the answer for the whole tree "
            "instead of the function"
        )
    return max(found, default=0)


def layerwise_decay(
    rate: float,
    layers: str = LAYER_INDEX,
    embeddings: Rule = embeddings,
    scanned: Mapping[str, int] | None = None,
    *,
    with_last: Rule | None = None,
) -> Callable[[optax.Params], Any]:
    """Multipliers that shrink the learning rate with the distance from the output.

    With N layers: 1 for the head and everything else outside the layers, rate^(N - i) for layer i, and
    rate^(N + 1) for the embeddings. A parameter in a layer belongs to it, whatever its name.

    Args:
        rate: factor per layer, in (0, 1]; 0.65 to 0.9 is usual.
        layers: a regular expression over paths with one group, the layer's index from 0.
        embeddings: rule for the parameters below the first layer.
        scanned: axis of stacked layers by pattern of path; their multipliers are a vector along
            that axis.
        with_last: rule for parameters outside the layers that get the multiplier of the last layer, such as the
            final norm of an encoder in timm, ``path("^norm/")``. None for no such parameters.

    Returns:
        A function from a tree of parameters to the tree of multipliers, see
        :func:`optimiz.scale_by_groups`. It raises ValueError if there is no layer.

    Raises:
        TypeError: ``rate`` is not a number, or a rule is a function that returns rules.
        ValueError: ``rate`` is outside (0, 1], or ``layers`` does not have exactly one group.

    Example:
        >>> layerwise_decay(0.5)({"embed": 1.0, "layers": [1.0, 1.0], "head": 1.0})
        {'embed': 0.125, 'head': 1.0, 'layers': [0.25, 0.5]}
        >>> from optimiz.groups import path
        >>> layerwise_decay(0.5, with_last=path("^norm"))({"layers": [1.0, 1.0], "norm": 1.0, "head": 1.0})
        {'head': 1.0, 'layers': [0.25, 0.5], 'norm': 0.5}

    Source:
        arXiv 2106.08254 (BEiT) and its code. The idea is from arXiv 2003.10555 (ELECTRA), whose
        code has one more power of ``rate`` on everything below the head. ``with_last`` is timm's.
    """
    checks.number("rate", rate, gt=0, le=1)
    layer_of = layer_reader(layers)
    is_lowest = checks.mask("embeddings", embeddings)
    is_with_last = checks.mask("with_last", False if with_last is None else with_last)

    def multipliers(params: optax.Params) -> Any:
        reading = read(params, scanned)
        top = depth(reading, layers)

        def multiplier(leaf: Leaf, lowest: bool, last: bool) -> float | np.ndarray:
            layer = layer_of(leaf.path)
            if leaf.scanned is not None:
                length = leaf.shape[leaf.scanned]
                return leaf.along_scanned(np.array([rate ** (top - i) for i in range(length)]))
            if layer is not None:
                return rate ** (top - layer)
            return rate ** (top + 1) if lowest else rate if last else 1.0

        answers = (jax.tree.leaves(jax.tree.broadcast(of(params), params)) for of in (is_lowest, is_with_last))
        return reading.tree([multiplier(*x) for x in zip(reading.leaves, *answers, strict=True)])

    return multipliers
