"""Hidden matrices: which parameters Muon orthogonalises, and along which axes each of them is a matrix.

The names of modules decide, and then the rank: a bias of Flax's attention has two dimensions and is no matrix,
its kernels have three and are matrices. Embeddings, heads, norms, biases and the like are left to AdamW; SOAP
takes embeddings and heads too. ``groups.describe(params, groups.matrices())`` shows who gets what.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import optax

from optimiz.groups.kinds import kind
from optimiz.groups.layers import LAYER_INDEX
from optimiz.groups.rules import Leaf, Reading, biases, norms, read


@dataclasses.dataclass(frozen=True)
class Matrix:
    """The axes along which a parameter is a matrix, or a stack of matrices.

    Negative axes count from the end. Axes that are not named are batch axes.

    Attributes:
        batch: axes along which matrices are stacked, such as layers and experts.
        reduction: axes that a layer sums over, the matrix's input.
        output: axes of the matrix's output.
        sizes: lengths of the blocks that the output is fused from, such as those of queries, keys and values,
            each of which is a matrix; None for one block.

    Example:
        >>> Matrix(reduction=(0,), output=(1, 2)).of((8, 2, 4))
        Matrix(batch=(), reduction=(0,), output=(1, 2), sizes=None)
        >>> Matrix().of((3, 8, 4)).batch
        (0,)
    """

    batch: tuple[int, ...] = ()
    reduction: tuple[int, ...] = (-2,)
    output: tuple[int, ...] = (-1,)
    sizes: tuple[int, ...] | None = None

    def of(self, shape: tuple[int, ...]) -> "Matrix":
        """The same with every axis of a shape, counted from the front.

        Args:
            shape: shape of the parameter.

        Raises:
            ValueError: an axis is not one of the shape's, or is named twice; there is no reduction or no
                output; or the sizes do not add up to the output's length.
        """
        rank = len(shape)
        named = (*self.batch, *self.reduction, *self.output)
        counted = [axis + rank if axis < 0 else axis for axis in named]
        if not set(counted) <= set(range(rank)) or len(set(counted)) < len(counted):
            raise ValueError(f"axes must be different ones of the shape {shape}, got {self!r}")
        if not self.reduction or not self.output:
            raise ValueError(f"a matrix must have a reduction and an output, got {self!r}")
        rest = tuple(axis for axis in range(rank) if axis not in counted)
        first, second = len(self.batch), len(self.batch) + len(self.reduction)
        whole = Matrix(
            rest + tuple(counted[:first]), tuple(counted[first:second]), tuple(counted[second:]), self.sizes
        )
        length = math.prod(shape[axis] for axis in whole.output)
        if self.sizes is not None and sum(self.sizes) != length:
            raise ValueError(f"sizes must add up to {length}, the length of the output, got {self.sizes}")
        return whole

    def __str__(self) -> str:
        words = [f"in {_axes(self.reduction)}", f"out {_axes(self.output)}"]
        words += [f"each of {_axes(self.batch)}"] if self.batch else []
        words += [f"blocks {' '.join(map(str, self.sizes))}"] if self.sizes else []
        return ", ".join(words)


def _axes(axes: tuple[int, ...]) -> str:
    return " ".join(map(str, axes))


def matrices(
    overrides: Mapping[str, Matrix | None] | None = None,
    *,
    scanned: Mapping[str, int] | None = None,
    whole: bool = False,
) -> Callable[[optax.Params], Any]:
    """Routing for Muon and SOAP: the axes of each matrix, and None for what is left to AdamW.

    - Queries, keys and values of rank 3: the first axis in, the others out. The projection out of attention:
      the last axis out, the others in. Fused queries, keys and values of rank 2: three equal blocks.
    - Experts, and layers of an MLP of rank 3 or more: the last two axes, and a matrix for each index of the
      others. Convolutions: the last axis out, the others in.
    - Other parameters of rank 2: the first axis in, the second out; for those called ``weight``, as Equinox's
      and PyTorch's, the other way round.
    - None: embeddings, heads, norms, biases, routers; what has fewer than two axes longer than 1; depthwise
      convolutions, and those of images with up to four channels; a matrix outside of the layers with a side as
      long as a vocabulary; and unknown parameters of rank 3 or more.

    Args:
        overrides: axes, or None, by pattern of path (``re.search``), instead of these rules. The two factors of
            a LoRA adapter have to be named here.
        scanned: axis along which layers are stacked, by pattern of path, such as ``{"^layers/": 0}``; each
            layer is a matrix of its own. An empty mapping says that nothing is stacked.
        whole: whether embeddings and heads of rank 2 are matrices too, and fused queries, keys and values one,
            as SOAP has it.

    Returns:
        A function from a tree of parameters to the tree of :class:`Matrix` or None. On a whole tree it raises
        ValueError if there is no hidden matrix, if a pattern matches nothing, or if a norm has the shape of
        stacked layers and ``scanned`` is not given. On any tree it raises ValueError for a factor of LoRA
        without an override, for fused blocks that are not equal, and for axes that do not fit.

    Raises:
        TypeError: ``overrides`` does not map patterns to :class:`Matrix` or None, ``scanned`` is no mapping, or
            ``whole`` is no boolean.

    Example:
        >>> import jax.numpy as jnp
        >>> query = {"bias": jnp.ones((2, 4)), "kernel": jnp.ones((8, 2, 4))}
        >>> found = matrices()({"attention": {"query": query}, "embed": jnp.ones((5, 8))})
        >>> str(found["attention"]["query"]["kernel"]), found["attention"]["query"]["bias"], found["embed"]
        ('in 0, out 1 2', None, None)
    """
    overrides = {} if overrides is None else overrides
    if not isinstance(overrides, Mapping) or not all(
        isinstance(axes, Matrix | None) for axes in overrides.values()
    ):
        raise TypeError(f"overrides must be a Matrix or None by pattern of path, got {overrides!r}")
    if not isinstance(whole, bool):
        raise TypeError(f"whole must be a boolean, got {whole!r}")

    def routing(params: optax.Params) -> Any:
        reading = read(params, scanned)
        for pattern in overrides if reading.whole else ():
            if not any(re.search(pattern, leaf.path) for leaf in reading.leaves):
                raise ValueError(f"{pattern!r} matches no parameter; there are {reading.some_paths()}")
        if reading.whole and scanned is None:
            refuse_undeclared_stacks(reading)
        by_rule = functools.partial(_axes_by_rule, whole=whole, vocabularies=_vocabularies(reading))

        answers = [_answer(leaf, overrides, by_rule) for leaf in reading.leaves]
        if reading.whole and not any(answers):
            shapes = ", ".join(f"{leaf.path} {leaf.shape}" for leaf in reading.leaves[:8])
            more = f" and {len(reading.leaves) - 8} more" if len(reading.leaves) > 8 else ""
            raise ValueError(
                f"there is no hidden matrix among the parameters, which are {shapes}{more}: name some in "
                "matrices, or take adamw"
            )
        return reading.tree(answers)

    return routing


def _answer(
    leaf: Leaf, overrides: Mapping[str, Matrix | None], by_rule: Callable[[Leaf], Matrix | None]
) -> Matrix | None:
    named = {axes for pattern, axes in overrides.items() if re.search(pattern, leaf.path)}
    if len(named) > 1:
        raise ValueError(f"matrices gives {leaf.path} more than one answer: {', '.join(map(repr, named))}")
    if named:
        (axes,) = named
    else:
        axes = by_rule(leaf)
    try:
        return None if axes is None else axes.of(leaf.shape)
    except ValueError as error:
        raise ValueError(f"matrices cannot make a matrix of {leaf.path}: {error}") from error


_LORA = re.compile(r"(?i)lora")
_ROUTER = re.compile(r"(?i)(?:^|/)router(?:/|$)")
_EXPERTS = re.compile(r"(?i)(?:^|/)\w*experts?(?:_\d+)?(?:/|$)")
_CONVOLUTION = re.compile(r"(?i)(?:^|/)(?:[^/]*conv[^/]*|shortcut|downsample)(?:/|$)")
_WEIGHT = re.compile(r"(?:^|/)weight$")
_LAYER = re.compile(LAYER_INDEX)
# The first layer of a vision model, and tables of positions: inputs, as embeddings are.
_INPUT = re.compile(r"(?i)(?:^|/)(?:patch\w*|stem\w*|conv_in(?:it)?)(?:/|$)|(?:^|/)pos\w*$")
# Tables whose rows are not tokens.
_NO_VOCABULARY = re.compile(r"(?i)pos|type|segment|patch|relative|wpe")
_IMAGE_CHANNELS = 4


def _axes_by_rule(leaf: Leaf, *, whole: bool, vocabularies: set[int]) -> Matrix | None:
    """The axes of a parameter by its name, its rank and its shape."""
    kept = [axis for axis in range(len(leaf.shape)) if axis != leaf.scanned]
    shape = [leaf.shape[axis] for axis in kept]
    of, rank = kind(leaf.path), leaf.rank
    vector = sum(side > 1 for side in shape) < 2 or 0 in leaf.shape
    if vector or of == "norm" or biases.test(leaf):
        return None
    if of in ("embedding", "head"):
        return Matrix(reduction=(kept[0],), output=(kept[1],)) if whole and rank == 2 else None
    if any(pattern.search(leaf.path) for pattern in (_ROUTER, _INPUT)):
        return None
    if _LORA.search(leaf.path):
        raise ValueError(
            f"{leaf.path} is a factor of LoRA, of which it is not known whether it suits as a matrix: name it, "
            'as in matrices={"lora": None} for AdamW or {"lora": groups.Matrix()} for a matrix'
        )
    outside = leaf.scanned is None and _LAYER.search(leaf.path) is None
    if of == "other" and rank == 2 and outside and not whole and vocabularies & set(shape):
        return None
    found = sides(leaf)
    if found is None:
        return None
    if _CONVOLUTION.search(leaf.path) and rank > 2:
        channels = 1 if _WEIGHT.search(leaf.path) else -2
        if shape[channels] <= _IMAGE_CHANNELS:
            return None
    reduction, output = found
    if 1 in [math.prod(leaf.shape[axis] for axis in side) for side in found]:
        return None
    sizes = _fused(leaf, *reduction, *output) if rank == 2 and of == "qkv" and not whole else None
    return Matrix(reduction=reduction, output=output, sizes=sizes)


def sides(leaf: Leaf) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """The axes of the inputs and of the outputs of a parameter by its name and its rank; None if unknown.

    Vectors, biases and scales of norms have no inputs. Other axes count layers or experts.

    Args:
        leaf: a parameter.
    """
    kept = tuple(axis for axis in range(len(leaf.shape)) if axis != leaf.scanned)
    of, rank = kind(leaf.path), leaf.rank
    if rank < 2 or of == "norm" or biases.test(leaf):
        return (), kept
    reversed_axes = _WEIGHT.search(leaf.path) is not None
    if _CONVOLUTION.search(leaf.path) and rank > 2:
        output = kept[0] if reversed_axes else kept[-1]
        return tuple(axis for axis in kept if axis != output), (output,)
    if of == "embedding":  # also of PyTorch's, whose weight is a table of rows
        return kept[:-1], kept[-1:]
    if rank == 2:
        return (kept[1:], kept[:1]) if reversed_axes else (kept[:1], kept[1:])
    if rank == 3 and of in ("q", "k", "v"):
        return kept[:1], kept[1:]
    if rank == 3 and of == "o":
        return kept[:2], kept[2:]
    if of == "mlp" or _EXPERTS.search(leaf.path):
        return kept[-2:-1], kept[-1:]
    return None


def _fused(leaf: Leaf, first: int, second: int) -> tuple[int, ...]:
    """The lengths of queries, keys and values that are as long as the input."""
    width, length = leaf.shape[first], leaf.shape[second]
    if length != 3 * width:
        raise ValueError(
            f"{leaf.path} of shape {leaf.shape} fuses queries, keys and values of unknown lengths: name them, "
            f'as in matrices={{"{leaf.path}": groups.Matrix(sizes=(…, …, …))}}'
        )
    return (width,) * 3


def _vocabularies(reading: Reading) -> set[int]:
    """The numbers of tokens, of which there are tables."""

    def is_table(leaf: Leaf) -> bool:
        table = kind(leaf.path) == "embedding" and leaf.rank == len(leaf.shape) == 2
        return table and _NO_VOCABULARY.search(leaf.path) is None

    return {leaf.shape[0] for leaf in reading.leaves if is_table(leaf)}


def refuse_undeclared_stacks(reading: Reading) -> None:
    """Refuse stacked layers that are not declared, whose kernels would be misread.

    A norm has one axis; with two, it is that of stacked layers.

    Args:
        reading: a whole tree.

    Raises:
        ValueError: there is such a norm.
    """
    for leaf in reading.leaves:
        if norms.test(leaf) and sum(side > 1 for side in leaf.shape) > 1:
            raise ValueError(
                f"the norm {leaf.path} of shape {leaf.shape} looks like that of stacked layers: declare them, "
                'as in scanned={"^layers/": 0}, or scanned={} if nothing is stacked'
            )
