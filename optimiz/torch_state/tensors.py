"""Which entries of ours a parameter of PyTorch holds, and how to move arrays between the two."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import optax

from optimiz.groups.rules import read


@dataclasses.dataclass(frozen=True)
class Tensor:
    """Where the entries of a parameter of PyTorch are.

    Attributes:
        paths: path of the parameter here, its keys joined by ``/``; or several, of parameters that PyTorch has
            as one, concatenated along their last axis.
        axes: their axes in PyTorch's order, such as (1, 0) for a kernel whose weight is the transpose; None for
            the same order.

    Example:
        >>> Tensor("dense/kernel", axes=(1, 0)).paths
        ('dense/kernel',)
    """

    paths: tuple[str, ...]
    axes: tuple[int, ...] | None = None

    def __init__(self, *paths: str, axes: tuple[int, ...] | None = None) -> None:
        object.__setattr__(self, "paths", paths)
        object.__setattr__(self, "axes", None if axes is None else tuple(axes))


@dataclasses.dataclass(frozen=True)
class Place:
    """A tensor, with the shapes and dtypes of its parameters."""

    name: str
    tensor: Tensor
    leaves: tuple[jax.ShapeDtypeStruct, ...]

    @property
    def axes(self) -> tuple[int, ...]:
        """Axes of ours in PyTorch's order."""
        return tuple(range(self.leaves[0].ndim)) if self.tensor.axes is None else self.tensor.axes

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of PyTorch's parameter."""
        whole = self.leaves[0].shape
        if len(self.leaves) > 1:
            whole = (*whole[:-1], sum(leaf.shape[-1] for leaf in self.leaves))
        return tuple(whole[axis] for axis in self.axes)

    def to_ours(self, array: np.ndarray) -> dict[str, np.ndarray]:
        """An array of the shape of PyTorch's parameter, as arrays by path."""
        whole = array.transpose(np.argsort(self.axes))
        if len(self.leaves) == 1:
            return {self.tensor.paths[0]: whole}
        ends = np.cumsum([leaf.shape[-1] for leaf in self.leaves])[:-1]
        return dict(zip(self.tensor.paths, np.split(whole, ends, -1), strict=True))

    def to_torch(self, arrays: Mapping[str, np.ndarray]) -> np.ndarray:
        """The inverse of :meth:`to_ours`."""
        parts = [arrays[path] for path in self.tensor.paths]
        whole = parts[0] if len(parts) == 1 else np.concatenate(parts, -1)
        # Of any rank; np.ascontiguousarray makes a scalar a vector.
        return np.array(whole.transpose(self.axes), order="C")


def places_of(tensors: Mapping[str, Tensor | str], params: optax.Params) -> dict[str, Place]:
    """The place of each parameter of PyTorch, by name, once all are known to fit.

    Args:
        tensors: tensor, or path, by the name of PyTorch's parameter.
        params: our parameters, or their shapes.

    Raises:
        ValueError: a path is no parameter, a parameter has no name in ``tensors``, or axes or shapes do not
            fit.
    """
    reading = read(params)
    leaves = {
        leaf.path: jax.ShapeDtypeStruct(np.shape(x), x.dtype)
        for leaf, x in zip(reading.leaves, jax.tree.leaves(params), strict=True)
    }
    places = {}
    for name, given in tensors.items():
        tensor = Tensor(given) if isinstance(given, str) else given
        unknown = [path for path in tensor.paths if path not in leaves]
        if unknown or not tensor.paths:
            found = ", ".join(map(repr, unknown)) or "no path"
            raise ValueError(f"tensors[{name!r}] names {found}; params has {reading.some_paths()}")
        if len(set(tensor.paths)) < len(tensor.paths):
            raise ValueError(f"tensors[{name!r}] names a parameter twice: {', '.join(tensor.paths)}")
        place = Place(name, tensor, tuple(leaves[path] for path in tensor.paths))
        shapes = [leaf.shape for leaf in place.leaves]
        if sorted(place.axes) != list(range(len(shapes[0]))):
            raise ValueError(
                f"the axes of tensors[{name!r}] must be an order of the {len(shapes[0])} of "
                f"{tensor.paths[0]}, got {tensor.axes}"
            )
        if len(shapes) > 1 and (() in shapes or len({shape[:-1] for shape in shapes}) > 1):
            raise ValueError(
                f"tensors[{name!r}] concatenates parameters along their last axis, which shapes "
                f"{', '.join(map(str, shapes))} do not allow"
            )
        places[name] = place
    named = {path for place in places.values() for path in place.tensor.paths}
    if nameless := [path for path in leaves if path not in named]:
        raise ValueError(f"tensors must have a name for every parameter; none is of {', '.join(nameless[:8])}")
    return places


def array_of(what: str, value: Any) -> np.ndarray:
    """A value of a state as an array of NumPy.

    Args:
        what: its name, for the message.
        value: a number, an array, or what NumPy turns into one.

    Raises:
        TypeError: it is none of them, or complex.
    """
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError):
        array = None
    if array is None or array.dtype == object:
        raise TypeError(
            f"{what} must be an array of NumPy, got {type(value).__name__}; x.detach().float().cpu().numpy() "
            "is one of a tensor x"
        )
    if np.iscomplexobj(array):
        raise TypeError(f"{what} must be real, got {array.dtype}: moments of complex numbers are not converted")
    return array
