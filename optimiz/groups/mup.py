r"""μP, the maximal update parametrization: what suits a narrow model suits a wide one of the same depth.

The rate, decay and other hyperparameters are tuned on a narrow *base*. For a wider model, each parameter gets a
multiplier of its step and a scale of its initial values, by how many times as many inputs, n_in, and outputs,
n_out, it has. A side that is as long as in the base, such as a vocabulary, counts as 1, and so do the inputs of
biases and of scales of norms.

=====================================  ==============================================
what                                   multiplier
=====================================  ==============================================
step of Adam, and of sign methods      1 / n_in
step of SGD, with momentum too         n_out / n_in
step of Muon with the scale κ          √(n_out / n_in) · κ(base) / κ
initial standard deviation             1 / √n_in; 1 / n_in if only the inputs grow
=====================================  ==============================================

Source: arXiv 2203.03466 (Yang et al., "Tensor Programs V"), table 3, in which no layer has a multiplier of its
own; arXiv 2310.17813 (Yang, Simon and Bernstein), whose condition, an update of the spectral norm √(n_out /
n_in), gives the same for Adam and SGD, and is what Muon's step is.

Departures from the authors' package, microsoft/mup: a head has a smaller initial scale and rate, in place of a
multiplier of its output; what is narrower than the base is refused; initial values are scaled to those of the
base, whatever the model's own initializers do with the width.
"""

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer

from optimiz.groups.kinds import kinds_by_path
from optimiz.groups.matrices import Matrix, sides
from optimiz.groups.matrices import matrices as find_matrices
from optimiz.groups.rules import Leaf, read
from optimiz.groups.stacks import refuse_undeclared_stacks


@dataclasses.dataclass(frozen=True)
class Growth:
    """How a parameter has grown from its base.

    Attributes:
        inputs: n_in ≥ 1, factor of the number of inputs.
        outputs: n_out ≥ 1, factor of the number of outputs.
        base: numbers of inputs and of outputs of the base.
    """

    inputs: float
    outputs: float
    base: tuple[int, int]


@dataclasses.dataclass(frozen=True, eq=False)
class Mup:
    """What :func:`mup` returns: functions from a tree of parameters to the tree of multipliers.

    Attributes:
        base: parameters of the base, or their shapes.
        matrices: axes by pattern of path, see :func:`mup`.
        scanned: axis along which layers are stacked, by pattern of path.
    """

    base: Any
    matrices: Mapping[str, Matrix | None]
    scanned: Mapping[str, int] | None

    def adam(self, params: optax.Params) -> Any:
        """Multipliers of the step of Adam, and of methods by signs, for ``optimiz.scale_by_groups``.

        Args:
            params: the parameters, or their shapes.

        Raises:
            ValueError: the parameters are not those of the base, but wider.

        Example:
            >>> wide = {"embed": jnp.ones((9, 8)), "up": jnp.ones((8, 16)), "head": jnp.ones((8, 9))}
            >>> mup({"embed": jnp.ones((9, 2)), "up": jnp.ones((2, 4)), "head": jnp.ones((2, 9))}).adam(wide)
            {'embed': 1.0, 'head': 0.25, 'up': 0.25}
        """
        return jax.tree.map(lambda grown: 1 / grown.inputs, self._growth(params))

    def sgd(self, params: optax.Params) -> Any:
        """Multipliers of the step of SGD, with or without momentum.

        Args:
            params: the parameters, or their shapes.

        Raises:
            ValueError: the parameters are not those of the base, but wider.

        Example:
            >>> wide = {"embed": jnp.ones((9, 8)), "up": jnp.ones((8, 16)), "head": jnp.ones((8, 9))}
            >>> mup({"embed": jnp.ones((9, 2)), "up": jnp.ones((2, 4)), "head": jnp.ones((2, 9))}).sgd(wide)
            {'embed': 4.0, 'head': 0.25, 'up': 1.0}
        """
        return jax.tree.map(lambda grown: grown.outputs / grown.inputs, self._growth(params))

    def muon(self, scale: Callable[[int, int], float]) -> Callable[[optax.Params], Any]:
        """Multipliers of the step of Muon for the hidden matrices, and of Adam for all others.

        Args:
            scale: the factor that Muon has by a matrix's numbers of inputs and outputs, such as
                ``matrix_scales.keller``.

        Returns:
            A function from the parameters to the multipliers, which raises as :meth:`adam` does.

        Example:
            >>> from optimiz import matrix_scales
            >>> narrow = mup({"up": jnp.ones((2, 4)), "head": jnp.ones((2, 9))})
            >>> wide = {"up": jnp.ones((8, 16)), "head": jnp.ones((8, 9))}
            >>> narrow.muon(matrix_scales.spectral)(wide), narrow.muon(matrix_scales.match_adam())(wide)
            ({'head': 0.25, 'up': 1.0}, {'head': 0.25, 'up': 0.5})
        """

        def of_matrix(grown: Growth) -> float:
            inputs, outputs = grown.base
            wide = scale(round(inputs * grown.inputs), round(outputs * grown.outputs))
            return math.sqrt(grown.outputs / grown.inputs) * scale(inputs, outputs) / wide

        def multipliers(params: optax.Params) -> Any:
            structure = jax.tree.structure(params)
            axes = structure.flatten_up_to(find_matrices(self.matrices, scanned=self.scanned)(params))
            growth = structure.flatten_up_to(self._growth(params))
            pairs = zip(growth, axes, strict=True)
            return structure.unflatten([1 / g.inputs if a is None else of_matrix(g) for g, a in pairs])

        return multipliers

    def initial(self, params: optax.Params) -> Any:
        """Multipliers of the initial standard deviation, relative to that of the base.

        Args:
            params: the parameters, or their shapes.

        Raises:
            ValueError: the parameters are not those of the base, but wider.

        Example:
            >>> wide = {"embed": jnp.ones((9, 8)), "up": jnp.ones((8, 16)), "head": jnp.ones((8, 9))}
            >>> mup({"embed": jnp.ones((9, 2)), "up": jnp.ones((2, 4)), "head": jnp.ones((2, 9))}).initial(wide)
            {'embed': 1.0, 'head': 0.25, 'up': 0.5}
        """

        def deviation(grown: Growth) -> float:
            return grown.inputs**-0.5 if grown.outputs > 1 else 1 / grown.inputs

        return jax.tree.map(deviation, self._growth(params))

    def rescaled(self, params: optax.Params) -> optax.Params:
        """Initial parameters, scaled to what μP asks for, given those of the base.

        The root mean square of each becomes that of the base times :meth:`initial`, whatever it was. Zeros stay
        zeros.

        Args:
            params: initial parameters.

        Raises:
            TypeError: the base is of shapes, not of values.
            ValueError: the parameters are not those of the base, but wider; or one is zero where that of the
                base is not, or the other way round.

        Example:
            >>> base = {"head": jnp.array([[3.0], [-3.0]]), "scale": jnp.ones(2)}
            >>> wide = {"head": jnp.array([[5.0], [-5.0], [5.0], [-5.0]]), "scale": jnp.ones(4)}
            >>> mup(base).rescaled(wide)["head"].tolist()
            [[1.5], [-1.5], [1.5], [-1.5]]
        """
        multipliers = jax.tree.leaves(self.initial(params))
        reading, base = read(params, self.scanned), read(self.base, self.scanned)
        narrow = {leaf.path: x for leaf, x in zip(base.leaves, jax.tree.leaves(self.base), strict=True)}
        rows = zip(reading.leaves, jax.tree.leaves(params), multipliers, strict=True)
        return reading.tree([_scaled(leaf.path, x, narrow[leaf.path], m) for leaf, x, m in rows])

    def _growth(self, params: optax.Params) -> Any:
        """The tree of how each parameter has grown."""
        reading, base = read(params, self.scanned), read(self.base, self.scanned)
        narrow = {leaf.path: leaf for leaf in base.leaves}
        kinds = kinds_by_path(reading)
        if reading.whole:
            if self.scanned != {}:
                refuse_undeclared_stacks(reading, kinds, self.matrices)
            for path in sorted(narrow.keys() - {leaf.path for leaf in reading.leaves}):
                raise ValueError(f"mup's base has {path}, and the parameters have not: {reading.some_paths()}")
        for leaf in reading.leaves:
            if leaf.path not in narrow:
                raise ValueError(
                    f"the parameters have {leaf.path}, and mup's base has not: it has the same layers, but "
                    f"narrower; it has {base.some_paths()}"
                )
        rows = [(leaf, narrow[leaf.path], kinds[leaf.path]) for leaf in reading.leaves]
        return reading.tree([_growth(*row, self.matrices) for row in rows])


def mup(
    base: optax.Params,
    *,
    matrices: Mapping[str, Matrix | None] | None = None,
    scanned: Mapping[str, int] | None = None,
) -> Mup:
    """Multipliers of μP for a model, by the shapes of its parameters and those of a narrower one.

    Args:
        base: parameters of the model that hyperparameters are tuned on, or their shapes: a tree like that of
            the model's, in which only widths differ.
        matrices: axes by pattern of path, as for :func:`matrices`, for parameters of three or more axes with
            names that tell nothing; None where those of Muon are not wanted.
        scanned: axis along which layers are stacked, by pattern of path, such as ``{"^layers/": 0}``.

    Returns:
        Functions of the parameters: ``adam``, ``sgd`` and ``muon`` for the multipliers of a step, ``initial``
        and ``rescaled`` for initial values. They raise ValueError, by path, where a parameter is missing, has
        another rank, another number of layers, experts or tokens, or is narrower than in the base, and where it
        is unknown which of three or more axes are inputs.

    Raises:
        TypeError: ``base`` has no parameters, or ``matrices`` does not map patterns to axes.

    Example:
        >>> narrow, wide = ({"up": jnp.ones((n, 4 * n)), "bias": jnp.ones(4 * n)} for n in (2, 8))
        >>> mup(narrow).adam(wide)
        {'bias': 1.0, 'up': 0.25}
    """
    if not jax.tree.leaves(base):
        raise TypeError(f"base must be the parameters of a narrower model, or their shapes, got {base!r}")
    overrides = {} if matrices is None else matrices
    find_matrices(overrides, scanned=scanned)  # checks them
    return Mup(base, overrides, scanned)


def _growth(leaf: Leaf, base: Leaf, of: str, matrices: Mapping[str, Matrix | None]) -> Growth:
    """How a parameter of a kind has grown."""
    ours, theirs = leaf.shape, base.shape

    def refused(why: str) -> ValueError:
        return ValueError(f"{leaf.path} has shape {ours}, and in mup's base {theirs}: {why}")

    if len(ours) != len(theirs):
        raise refused("the ranks differ")
    if any(a < b or b == 0 for a, b in zip(ours, theirs, strict=True)):
        raise refused("a base must not be wider than the model, nor without entries")
    axes = _axes(leaf, of, matrices)
    if axes is None:
        if ours == theirs:
            return Growth(1.0, 1.0, (1, 1))
        raise refused(
            "which axes are inputs is unknown; name them, as in "
            f'matrices={{"{leaf.path}": groups.Matrix(reduction=(0,), output=(1, 2))}}'
        )
    inputs, outputs = axes
    for axis in set(range(len(ours))) - {*inputs, *outputs}:
        if ours[axis] != theirs[axis]:
            raise refused(f"axis {axis} counts layers or experts, not a width; take as many for the base")
    named = any(re.search(pattern, leaf.path) for pattern, found in matrices.items() if found is not None)
    if of == "embedding" and not named and any(ours[i] != theirs[i] for i in inputs):
        raise refused("the rows of a table are tokens or positions, not a width; take as many for the base")
    (wide_in, narrow_in), (wide_out, narrow_out) = (
        [math.prod(shape[i] for i in side) for shape in (ours, theirs)] for side in (inputs, outputs)
    )
    return Growth(wide_in / narrow_in, wide_out / narrow_out, (narrow_in, narrow_out))


def _axes(
    leaf: Leaf, of: str, matrices: Mapping[str, Matrix | None]
) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """The axes of a parameter's inputs and of its outputs; None if they are not known."""
    for pattern, named in matrices.items():
        if named is not None and re.search(pattern, leaf.path):
            axes = dataclasses.replace(named, sizes=None).of(leaf.shape)  # blocks of another length in the base
            return axes.reduction, axes.output
    return sides(leaf, of)


def _scaled(path: str, x: jax.Array, narrow: Any, multiplier: float) -> jax.Array:
    """Initial values of a parameter, of the root mean square of the base's, times a multiplier."""
    if isinstance(narrow, jax.ShapeDtypeStruct):
        raise TypeError("mup's base must be parameters, whose scale rescaled takes over, got their shapes")
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    ours, theirs = (jnp.sqrt(jnp.mean(jnp.square(jnp.abs(a.astype(dtype))))) for a in (x, narrow))
    if not isinstance(ours, Tracer) and (ours == 0) != (theirs == 0):
        which = "the parameters" if ours == 0 else "mup's base"
        raise ValueError(f"{path} is zero in {which} alone, so that no factor gives it the other's scale")
    return (x * (multiplier * theirs / jnp.where(ours == 0, 1, ours))).astype(x.dtype)
