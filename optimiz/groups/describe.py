"""A table of the parameters and what a rule, labels, multipliers or axes say of them."""

import collections
import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import optax

from optimiz import checks
from optimiz.groups.layers import LAYER_INDEX
from optimiz.groups.rules import Leaf, read


def describe(params: optax.Params, answers: Any) -> str:
    """Return a table of the parameters and what a rule, labels or multipliers assign to them.

    Consecutive layers with equal assignments are one block, and a block with a single one is one row.

    Args:
        params: a tree of parameters, of arrays or of their shapes.
        answers: a rule, another function from ``params``, or a tree (or prefix) of bools, labels, multipliers,
            or the axes of :func:`optimiz.groups.matrices`.

    Returns:
        A row per parameter or block, then the totals per answer.

    Raises:
        TypeError: ``answers`` is a function that returns rules, not a rule.
        ValueError: the tree of answers does not fit ``params``.

    Example:
        >>> import jax.numpy as jnp
        >>> from optimiz.groups import no_decay
        >>> layer = {"bias": jnp.ones(2), "kernel": jnp.ones((2, 2))}
        >>> print(describe({"layers": [layer, layer], "scale": jnp.ones(2)}, no_decay()))
        path                  shape   parameters  answer
        layers/{0..1}/bias    (2,)             4  False
        layers/{0..1}/kernel  (2, 2)           8  True
        scale                 (2,)             2  False
        <BLANKLINE>
        answer  leaves  parameters  share
        False        3           6    43%
        True         2           8    57%
        all          5          14   100%
    """
    answers = checks.per_parameter("answers", answers)(params)
    answers = jax.tree.broadcast(answers, params, is_leaf=lambda node: node is None)
    answers = jax.tree.structure(params).flatten_up_to(answers)  # None is an answer
    covered = list(zip(read(params).leaves, map(_answer_text, answers), strict=True))

    sizes = collections.defaultdict(list)
    for leaf, text in covered:
        sizes[text].append(leaf.size)
    sizes["all"] = [leaf.size for leaf, _ in covered]
    total = max(sum(sizes["all"]), 1)
    totals = [
        (text, f"{len(group):,}", f"{sum(group):,}", f"{sum(group) / total:.0%}")
        for text, group in sizes.items()
    ]
    return (
        _table([("path", "shape", "parameters", "answer"), *_folded(covered)], "<<><")
        + "\n\n"
        + _table([("answer", "leaves", "parameters", "share"), *totals], "<>>>")
    )


def _answer_text(answer: Any) -> str:
    if not isinstance(answer, (float, np.ndarray, jax.Array)):
        return str(answer)
    values = np.unique(answer)  # sorted
    return f"{values[0]:.4g}" + (f"..{values[-1]:.4g}" if len(values) > 1 else "")


def _folded(covered: Sequence[tuple[Leaf, str]]) -> list[tuple[str, str, str, str]]:
    """Rows of the table, with a stack of layers at the place of its first parameter."""
    stacks = collections.defaultdict(lambda: collections.defaultdict(list))
    for leaf, text in covered:
        found = re.search(LAYER_INDEX, leaf.path)
        head, index, tail = (
            (leaf.path, 0, "")
            if found is None
            else (leaf.path[: found.start(1)], int(found[1]), leaf.path[found.end(1) :])
        )
        stacks[head, found is not None][index].append((tail, leaf.shape, leaf.size, text))

    rows = []
    for (head, is_stack), layers in stacks.items():
        runs = []  # consecutive equal layers: first index, last index, parameters of one layer
        for index, layer in sorted(layers.items()):
            if runs and runs[-1][1:] == (index - 1, layer):
                runs[-1] = (runs[-1][0], index, layer)
            else:
                runs.append((index, index, layer))
        for first, last, layer in runs:
            number = last - first + 1
            span = "" if not is_stack else f"{first}" if number == 1 else f"{{{first}..{last}}}"
            if len(layer) > 1 and len({text for *_, text in layer}) == 1:
                size = sum(size for _, _, size, _ in layer)
                layer = [("/*", f"{len(layer) * number} leaves", size, layer[0][-1])]
            rows += [
                (head + span + tail, str(shape), f"{size * number:,}", text)
                for tail, shape, size, text in layer
            ]
    return rows


def _table(rows: Sequence[tuple[str, ...]], alignment: str) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            f"{cell:{side}{width}}" for cell, side, width in zip(row, alignment, widths, strict=True)
        ).rstrip()
        for row in rows
    )
