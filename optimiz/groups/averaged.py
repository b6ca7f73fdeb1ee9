"""Blocks of entries that share a second moment, for Adam-mini: heads, output neurons, token rows.

Names of modules and ranks decide, as in ``groups.matrices``. ``groups.describe(params,
groups.adam_mini_blocks())`` shows who shares with whom.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from optimiz import checks
from optimiz.groups.kinds import UNORDERED, kinds_by_path
from optimiz.groups.matrices import CONVOLUTION, WEIGHT, sides, unknown_axes, unknown_order
from optimiz.groups.rules import Leaf, biases, read
from optimiz.groups.stacks import refuse_undeclared_stacks


@dataclasses.dataclass(frozen=True)
class Blocks:
    """How the entries of a parameter are averaged.

    Attributes:
        over: axes to average over, negative ones from the end; None for all but ``stacked``.
        runs: of the entries that are left of a layer, in row-major order, pairs (number, length): so many of
            them, of which as many in a row as the length are one block; None for each on its own.
        stacked: axis along which layers are stacked, each with its own blocks; None for none.

    Example:
        >>> heads = Blocks((0,), runs=((8, 4),))  # two heads of four columns
        >>> heads.means(jnp.array([[1.0, 1, 1, 1, 2, 2, 2, 6]])).tolist()
        [[1.0, 1.0, 1.0, 1.0, 3.0, 3.0, 3.0, 3.0]]
        >>> Blocks().means(jnp.array([[1.0, 3.0]])).tolist()
        [[2.0]]
    """

    over: tuple[int, ...] | None = None
    runs: tuple[tuple[int, int], ...] | None = None
    stacked: int | None = None

    def axes(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The axes to average over, counted from the front.

        Args:
            shape: shape of the parameter.

        Raises:
            ValueError: an axis is not one of the shape's, is named twice, or is that of stacked layers; or the
                runs do not fit what is left.
        """
        rank = len(shape)
        if self.over is None:
            found = tuple(axis for axis in range(rank) if axis != self.stacked)
        else:
            found = tuple(axis + rank if axis < 0 else axis for axis in self.over)
        allowed = set(range(rank)) - {self.stacked}
        if not set(found) <= allowed or len(set(found)) < len(found):
            raise ValueError(f"over must be different axes of the shape {shape} of a layer, got {self!r}")
        left = math.prod(shape[axis] for axis in allowed - set(found))
        if self.runs is not None and (
            sum(number for number, _ in self.runs) != left or any(n % length for n, length in self.runs)
        ):
            raise ValueError(f"runs must divide the {left} entries of a layer that are left, got {self.runs}")
        return found

    def means(self, x: jax.Array) -> jax.Array:
        """The mean of each block, with averaged axes of length 1; 0 where there are no entries.

        Args:
            x: entries, of the parameter's shape.
        """
        axes = self.axes(x.shape)
        entries = float(math.prod(x.shape[axis] for axis in axes))
        means = jnp.sum(x, axes, keepdims=True) / max(entries, 1)
        if self.runs is None:
            return means
        layers = means if self.stacked is None else jnp.moveaxis(means, self.stacked, 0)
        rows = layers.reshape(1 if self.stacked is None else layers.shape[0], -1)
        parts, start = [], 0
        for number, length in self.runs:
            part = rows[:, start : start + number].reshape(rows.shape[0], -1, length)
            parts.append(jnp.broadcast_to(part.mean(-1, keepdims=True), part.shape).reshape(rows.shape[0], -1))
            start += number
        shared = jnp.concatenate(parts, axis=1).reshape(layers.shape)
        return shared if self.stacked is None else jnp.moveaxis(shared, 0, self.stacked)

    def __str__(self) -> str:
        if self.over == ():
            return "each entry"
        words = ["all" if self.over is None else f"mean over {' '.join(map(str, self.over))}"]
        words += [f"runs {' '.join(f'{n}/{length}' for n, length in self.runs)}"] if self.runs else []
        words += [f"each of {self.stacked}"] if self.stacked is not None else []
        return ", ".join(words)


def adam_mini_blocks(
    heads: int | None = None,
    kv_heads: int | None = None,
    *,
    overrides: Mapping[str, Blocks] | None = None,
    scanned: Mapping[str, int] | None = None,
) -> Callable[[optax.Params], Any]:
    """Blocks of Adam-mini: a second moment for each head, output neuron or row of a table.

    - Queries and keys: a head. The heads of a kernel of rank 3, ``[in, heads, head_dim]``, are in its shape;
      those of one of rank 2 are consecutive outputs. Without ``heads`` each of its outputs is a block.
    - Queries, keys and values in one tensor, in this order, or keys and values: the same for queries and keys,
      an output for values.
    - Other kernels of rank 2, values, the projection out of attention, experts, and an MLP with an axis of 2
      for its gate and what that gates: an output. The outputs of kernels are last; of those called ``weight``,
      as Equinox's and PyTorch's, first.
    - Embeddings: a row of the table, all but its last axis.
    - Biases: an entry, as in Adam. Norms, convolutions, and everything else: the whole tensor.

    Args:
        heads: number of heads of queries, which flat kernels need; None if they have none.
        kv_heads: number of heads of keys and values; None for ``heads``.
        overrides: blocks by pattern of path (``re.search``), instead of these rules: ``Blocks()`` for the whole
            tensor, ``Blocks(())`` for each entry.
        scanned: axis along which layers are stacked, by pattern of path, such as ``{"^layers/": 0}``; each
            layer has blocks of its own. An empty mapping says that nothing is stacked.

    Returns:
        A function from a tree of parameters to the tree of :class:`Blocks`. It raises ValueError, on a whole
        tree, if a pattern matches nothing, or if norms or attention have the shapes of stacked layers, unless
        ``scanned`` is empty; for a width that the heads do not divide, for heads in a tensor called
        ``query_key_value``, which does not tell their order, for attention or an MLP with more axes than these
        rules know, and for axes that do not fit.

    Raises:
        TypeError: a number of heads is not an integer, or ``overrides`` does not map patterns to
            :class:`Blocks`.
        ValueError: a number of heads is less than 1, or there are ``kv_heads`` without ``heads``.

    Example:
        >>> key = {"bias": jnp.ones((2, 4)), "kernel": jnp.ones((8, 2, 4))}
        >>> found = adam_mini_blocks()({"attention": {"key": key}, "embed": jnp.ones((5, 8))})
        >>> [str(blocks) for blocks in jax.tree.leaves(found)]
        ['each entry', 'mean over 0 2', 'mean over 1']
    """
    for name, number in (("heads", heads), ("kv_heads", kv_heads)):
        if number is not None:
            checks.static(name, number)
            checks.integer(name, number, ge=1)
    if heads is None and kv_heads is not None:
        raise ValueError(f"kv_heads needs heads, the number of heads of the queries, got kv_heads={kv_heads}")
    overrides = {} if overrides is None else overrides
    if not isinstance(overrides, Mapping) or not all(isinstance(x, Blocks) for x in overrides.values()):
        raise TypeError(f"overrides must be Blocks by pattern of path, got {overrides!r}")

    def blocks(params: optax.Params) -> Any:
        reading = read(params, scanned)
        for pattern in overrides if reading.whole else ():
            if not any(re.search(pattern, leaf.path) for leaf in reading.leaves):
                raise ValueError(f"{pattern!r} matches no parameter; there are {reading.some_paths()}")
        kinds = kinds_by_path(reading)
        if reading.whole and scanned != {}:
            refuse_undeclared_stacks(reading, kinds, overrides)
        by_rule = functools.partial(_by_rule, kinds=kinds, heads=heads, kv_heads=kv_heads or heads)
        return reading.tree([_answer(leaf, by_rule, overrides) for leaf in reading.leaves])

    return blocks


def _answer(leaf: Leaf, by_rule: Callable[[Leaf], Blocks], overrides: Mapping[str, Blocks]) -> Blocks:
    named = {found for pattern, found in overrides.items() if re.search(pattern, leaf.path)}
    if len(named) > 1:
        raise ValueError(f"overrides give {leaf.path} more than one answer: {', '.join(map(repr, named))}")
    found = next(iter(named)) if named else by_rule(leaf)
    if found.stacked is None:
        found = dataclasses.replace(found, stacked=leaf.scanned)
    try:
        found.axes(leaf.shape)
    except ValueError as error:
        raise ValueError(f"blocks do not fit {leaf.path}: {error}") from error
    return found


_KERNEL = re.compile(r"(?:^|/)(?:kernel|weight)$")


def _by_rule(leaf: Leaf, *, kinds: Mapping[str, str], heads: int | None, kv_heads: int | None) -> Blocks:
    kept = [axis for axis in range(len(leaf.shape)) if axis != leaf.scanned]
    of, rank = kinds[leaf.path], leaf.rank
    if biases.test(leaf):
        return Blocks(())
    if of == "norm" or rank < 2:
        return Blocks()
    if of == "embedding" and not (_KERNEL.search(leaf.path) and (rank > 2 or not WEIGHT.search(leaf.path))):
        return Blocks((kept[-1],))
    if rank == 3 and of in ("q", "k"):
        return Blocks((kept[0], kept[2]))
    if rank > 2 and (of in ("embedding", "head", "router") or CONVOLUTION.search(leaf.path)):
        return Blocks()
    found = sides(leaf, of)
    if found is None and of == "other":
        return Blocks()
    if found is None:
        raise unknown_axes(leaf, of, f'overrides={{"{leaf.path}": groups.Blocks()}} for one')
    inputs, _ = found
    within = (leaf.shape[kept[2]], leaf.shape[kept[2]]) if rank == 4 else (heads, kv_heads)
    return Blocks(inputs, _runs(leaf, of, inputs, *within))


def _runs(
    leaf: Leaf, of: str, inputs: tuple[int, ...], heads: int | None, kv_heads: int | None
) -> tuple[tuple[int, int], ...] | None:
    """The runs of the outputs of a flat kernel, of which each head of queries and keys is one."""
    if heads is None or kv_heads is None or of not in ("q", "k", "qkv", "kv"):
        return None
    if leaf.rank == 2 and UNORDERED.search(leaf.path):
        such = f'overrides={{"{leaf.path}": groups.Blocks({inputs})}} for a block of each output'
        raise unknown_order(leaf, such)
    width = math.prod(n for axis, n in enumerate(leaf.shape) if axis not in (*inputs, leaf.scanned))
    parts = {"q": heads, "k": kv_heads, "qkv": heads + 2 * kv_heads, "kv": 2 * kv_heads}[of]
    if width % parts:
        what = f"heads {heads}" + (f" and kv_heads {kv_heads}" if kv_heads != heads else "")
        raise ValueError(f"{what} must divide the {width} outputs of {leaf.path}, whose shape is {leaf.shape}")
    size = width // parts
    queries, keys, values = (heads * size, size), (kv_heads * size, size), (kv_heads * size, 1)
    return {"q": (queries,), "k": (keys,), "qkv": (queries, keys, values), "kv": (keys, values)}[of]
