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

from optimiz.groups.kinds import EXPERTS, UNORDERED, kinds_by_path
from optimiz.groups.rules import Leaf, Reading, biases, read
from optimiz.groups.stacks import refuse_undeclared_stacks


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
      the last axis out, the others in. Fused queries, keys and values of rank 2: three equal blocks; with an
      axis of 3 behind the first, or of 2 for keys and values: a matrix for each.
    - Experts, by a module's name, and MLPs in one called ``moe``: the last two axes, and a matrix for each
      index of the others. An MLP with an axis of 2 before the last, of its gate and what that gates: a matrix
      for each. Convolutions: the last axis out, the others in.
    - Other parameters of rank 2: the first axis in, the second out; for those called ``weight``, as Equinox's
      and PyTorch's, the other way round.
    - None: embeddings, heads, norms, biases, routers; what has fewer than two axes longer than 1; depthwise
      convolutions, and those of images with up to four channels; a matrix of unknown name with an output for
      each token of a vocabulary, unless it is in a numbered module that the table is not in; and parameters of
      rank 3 or more whose names tell nothing.

    Args:
        overrides: axes, or None, by pattern of path (``re.search``), instead of these rules. The two factors of
            a LoRA adapter have to be named here.
        scanned: axis along which layers are stacked, by pattern of path, such as ``{"^layers/": 0}``; each
            layer is a matrix of its own. An empty mapping says that nothing is stacked.
        whole: whether embeddings and heads of rank 2 are matrices too, and fused queries, keys and values one,
            as SOAP has it.

    Returns:
        A function from a tree of parameters to the tree of :class:`Matrix` or None. On a whole tree it raises
        ValueError if there is no hidden matrix, if a pattern matches nothing, or if norms or attention have the
        shapes of stacked layers, unless ``scanned`` is empty. On any tree it raises ValueError for axes that do
        not fit and, without an override, for a factor of LoRA, for fused blocks that are not equal or of
        unknown order, for attention or an MLP with more axes than these rules know, and for what may be a head
        where Optax masks the embedding that would tell.

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
        kinds = kinds_by_path(reading)
        if reading.whole and scanned != {}:
            refuse_undeclared_stacks(reading, kinds, overrides)
        by_rule = functools.partial(_axes_by_rule, kinds=kinds, whole=whole, tables=_tables(reading, kinds))

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
_MOE = re.compile(r"(?i)(?:^|/)[^/]*moe[^/]*/")
_FUSED = {"qkv": 3, "kv": 2}
CONVOLUTION = re.compile(r"(?i)(?:^|/)(?:[^/]*conv[^/]*|shortcut|downsample)(?:/|$)")
WEIGHT = re.compile(r"(?:^|/)weight$")
# The innermost numbered module around a parameter's own.
_NUMBERED = re.compile(r"(.*\d/).+/")
# The first layer of a vision model, and tables of positions: inputs, as embeddings are.
_INPUT = re.compile(
    r"(?i)(?:^|/)(?:patch\w*|stem\w*|conv_in(?:it)?)(?:/|$)|(?:^|/)pos(?:_\w*|(?:ition|emb|enc)\w*)?$"
)
# Tables whose rows are not tokens, and what is no table.
_NO_VOCABULARY = re.compile(r"(?i)pos|type|segment|patch|relative|wpe|bias|conv_proj|(?:^|/)(?:cls|\w+_token)$")
_IMAGE_CHANNELS = 4


def _axes_by_rule(
    leaf: Leaf, *, kinds: Mapping[str, str], whole: bool, tables: Mapping[str, int | None]
) -> Matrix | None:
    """The axes of a parameter by its name, its rank and its shape."""
    kept = [axis for axis in range(len(leaf.shape)) if axis != leaf.scanned]
    shape = [leaf.shape[axis] for axis in kept]
    of, rank = kinds[leaf.path], leaf.rank
    vector = sum(side > 1 for side in shape) < 2 or 0 in leaf.shape
    if vector or of == "norm" or biases.test(leaf):
        return None
    if of in ("embedding", "head"):
        return Matrix(reduction=(kept[0],), output=(kept[1],)) if whole and rank == 2 else None
    if of == "router" or _INPUT.search(leaf.path):
        return None
    if _LORA.search(leaf.path):
        raise ValueError(
            f"{leaf.path} is a factor of LoRA, of which it is not known whether it suits as a matrix: name it, "
            'as in matrices={"lora": None} for AdamW or {"lora": groups.Matrix()} for a matrix'
        )
    found = sides(leaf, of)
    if found is None and of == "other":
        return None
    if found is None:
        raise unknown_axes(leaf, of, f'matrices={{"{leaf.path}": None}} for AdamW')
    if CONVOLUTION.search(leaf.path) and rank > 2:
        channels = 1 if WEIGHT.search(leaf.path) else -2
        if shape[channels] <= _IMAGE_CHANNELS:
            return None
    reduction, output = found
    if 1 in [math.prod(leaf.shape[axis] for axis in side) for side in found]:
        return None
    if whole and of in _FUSED:
        return Matrix(reduction=reduction, output=tuple(axis for axis in kept if axis not in reduction))
    if of == "other" and rank == 2 and not whole and _is_head(leaf, leaf.shape[output[0]], tables):
        return None
    sizes = _thirds(leaf, *reduction, *output) if rank == 2 and of == "qkv" else None
    return Matrix(reduction=reduction, output=output, sizes=sizes)


def sides(leaf: Leaf, of: str) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """The axes of the inputs and of the outputs of a parameter by its name and its shape; None if unknown.

    Vectors, biases and scales of norms have no inputs. Other axes count layers, experts or what is fused.

    Args:
        leaf: a parameter.
        of: its kind.
    """
    kept = tuple(axis for axis in range(len(leaf.shape)) if axis != leaf.scanned)
    rank = leaf.rank
    if rank < 2 or of == "norm" or biases.test(leaf):
        return (), kept
    reversed_axes = WEIGHT.search(leaf.path) is not None
    if CONVOLUTION.search(leaf.path) and rank > 2:
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
    if rank in (3, 4) and leaf.shape[kept[1]] == _FUSED.get(of):
        return kept[:1], kept[2:]
    experts = EXPERTS.search(leaf.path) or (of == "mlp" and _MOE.search(leaf.path))
    layer = kept[1:] if experts else kept
    if of == "mlp" and len(layer) == 3 and leaf.shape[layer[1]] == 2:  # a gate, and what it gates
        return layer[:1], layer[2:]
    return (kept[-2:-1], kept[-1:]) if experts else None


def unknown_axes(leaf: Leaf, of: str, such: str) -> ValueError:
    """What to raise where a parameter's name is known, and :func:`sides` does not find its axes.

    Args:
        leaf: the parameter.
        of: its kind.
        such: an override that names it, and what it does.
    """
    return ValueError(
        f'{leaf.path} of shape {leaf.shape} is named as "{of}", but has axes of unknown meaning: declare '
        f"stacked layers in scanned, or name it, as in {such}"
    )


def unknown_order(leaf: Leaf, such: str) -> ValueError:
    """What to raise where a name does not tell the order of what is fused; see :func:`unknown_axes`."""
    return ValueError(f"{leaf.path} fuses queries, keys and values in an unknown order: name it, as in {such}")


def _thirds(leaf: Leaf, first: int, second: int) -> tuple[int, ...]:
    """The lengths of queries, keys and values that are as long as the input."""
    width, length = leaf.shape[first], leaf.shape[second]
    if UNORDERED.search(leaf.path):
        such = f'matrices={{"{leaf.path}": groups.Matrix()}} for one matrix, or with the sizes of its blocks'
        raise unknown_order(leaf, such)
    if length != 3 * width:
        raise ValueError(
            f"{leaf.path} of shape {leaf.shape} fuses queries, keys and values of unknown lengths: name them, "
            f'as in matrices={{"{leaf.path}": groups.Matrix(sizes=(…, …, …))}}'
        )
    return (width,) * 3


def _tables(reading: Reading, kinds: Mapping[str, str]) -> dict[str, int | None]:
    """The number of tokens of each table by its path; None for a table that Optax masks."""
    leaves = {leaf.path: leaf for leaf in reading.leaves}
    found = {}
    for path in reading.paths:
        leaf = leaves.get(path)
        if kinds[path] != "embedding" or _NO_VOCABULARY.search(path):
            continue
        if leaf is not None and leaf.rank == len(leaf.shape) == 2:
            found[path] = leaf.shape[0]
        elif leaf is None and not reading.whole:
            found[path] = None
    return found


def _is_head(leaf: Leaf, outputs: int, tables: Mapping[str, int | None]) -> bool:
    """Whether a matrix has an output for each token of a table, and is in no layer beside that table."""
    module = _NUMBERED.match(leaf.path)
    near = [path for path in tables if module is None or path.startswith(module[1])]
    if leaf.scanned is not None or not near:
        return False
    if outputs in [tables[path] for path in near]:
        return True
    for path in near:
        if tables[path] is None:
            raise ValueError(
                f"{leaf.path} may be a head, which {path} would tell if it were not masked: name it, as in "
                f'matrices={{"{leaf.path}": None}} for AdamW, or groups.Matrix() for a matrix'
            )
    return False
