"""Where each array of a run lies on a mesh of devices.

Every batch is split along the mesh's axis ``data``. A parameter lies as its partition rule says, or whole on
every device; what the optimizer keeps for a parameter lies as the parameter does, and with ``shard_state`` is
split along ``data`` as well (ZeRO, stage 1). The run lies so from its first array on, and the compiler adds the
communication: the numbers are those of one device, up to the order of sums.

An array is split along a dimension only where it divides evenly, because JAX splits no other way. A rule that
asks for more is refused; a part of the optimizer's state for which no dimension divides stays whole, and a
warning says so where it is large. Rows stay whole where another dimension divides.

Source: Rajbhandari et al., `ZeRO <https://arxiv.org/abs/1910.02054>`_ (SC 2020), section 5.1.
"""

import dataclasses
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from optimiz.groups.state_paths import span_of_parameter

DATA = "data"
"""The name of the mesh axis along which batches are split."""

_LARGE = 0.01  # of the optimizer's state

_log = logging.getLogger(__name__)


def make_mesh(description: str, devices: Sequence[Any] | None = None) -> Mesh:
    """Make a mesh from its description.

    Args:
        description: names and sizes of its axes, such as ``"data:4,model:2"``; along ``data`` lie the batches.
        devices: as many as the product of the sizes, in row-major order; default: all there are, of all
            processes.

    Returns:
        A mesh of axes of type ``Auto``: the compiler decides how the inner values of a step lie.

    Raises:
        ValueError: the description is none, names an axis twice, or is of another number of devices.

    Example:
        >>> dict(make_mesh("data:1,model:1").shape)
        {'data': 1, 'model': 1}
    """
    axes = [axis.partition(":") for axis in description.split(",")]
    if not all(name.isidentifier() and size.isdecimal() and int(size) for name, _, size in axes):
        raise ValueError(f'a mesh is described as "data:4,model:2", got "{description}"')
    names, shape = tuple(name for name, _, _ in axes), tuple(int(size) for _, _, size in axes)
    if len(set(names)) < len(names):
        raise ValueError(f'a mesh has each axis once, got "{description}"')
    devices = jax.devices() if devices is None else devices
    if math.prod(shape) != len(devices):
        raise ValueError(f'mesh "{description}" is of {math.prod(shape)} devices, there are {len(devices)}')
    return Mesh(np.array(devices).reshape(shape), names, axis_types=(AxisType.Auto,) * len(names))


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a run lies on a mesh.

    Args:
        mesh: of the devices of all processes; its axes are taken to be of type ``Auto``, for a task's loss is
            written without shardings in mind.
        partition: parameters → a tree of ``PartitionSpec``, such as ``groups.label({P(None, "model"):
            groups.path("query"), P(): groups.everything})``; None for whole parameters on every device.
        shard_state: whether what the optimizer keeps is split along ``data`` too.

    Example:
        >>> layout = Layout(make_mesh("data:1"))
        >>> layout.batch.shard_shape((32, 8))
        (32, 8)
    """

    mesh: Mesh
    partition: Callable[[Any], Any] | None = None
    shard_state: bool = False

    def __post_init__(self) -> None:
        auto = (AxisType.Auto,) * len(self.mesh.axis_names)
        if self.mesh.axis_types != auto:
            names, mesh = self.mesh.axis_names, self.mesh
            if isinstance(mesh, AbstractMesh):
                mesh = AbstractMesh(mesh.axis_sizes, names, axis_types=auto)
            else:
                mesh = Mesh(mesh.devices, names, axis_types=auto)
            object.__setattr__(self, "mesh", mesh)

    @property
    def whole(self) -> NamedSharding:
        """Where an array lies that every device has."""
        return NamedSharding(self.mesh, P())

    @property
    def batch(self) -> NamedSharding:
        """Where the arrays of a batch lie."""
        return NamedSharding(self.mesh, P(DATA) if DATA in self.mesh.shape else P())

    @property
    def share(self) -> tuple[int, int]:
        """Which part of each batch this process reads: (i, n) for the i-th of n equal parts.

        Processes whose devices lie at the same places along ``data`` read the same part.

        Raises:
            ValueError: the processes do not divide the axis ``data`` into equal, contiguous parts.
        """
        if self._data == 1:
            return 0, 1
        processes = np.vectorize(lambda device: device.process_index)(self.mesh.devices)
        rows = np.moveaxis(processes, self.mesh.axis_names.index(DATA), 0).reshape(self._data, -1)
        mine = np.flatnonzero((rows == jax.process_index()).any(axis=1))
        first, count = int(mine[0]), len(mine)
        if mine[-1] - first >= count or first % count or self._data % count:
            raise ValueError(
                f"process {jax.process_index()} has the places {mine.tolist()} of {self._data} along data; "
                "they must be one of several equal parts"
            )
        return first // count, self._data // count

    def place(self, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        """Lay out a batch, of which each process gives its :attr:`share`.

        Args:
            batch: name → array [B / n, …].

        Returns:
            Name → array [B, …].

        Raises:
            ValueError: the axis ``data`` does not divide B.
        """
        parts = self.share[1]
        for array in batch.values():
            if len(array) * parts % self._data:
                raise ValueError(
                    f"a batch of {len(array) * parts} examples cannot be split along data:{self._data}"
                )
        sharding = self.batch
        return {
            name: jax.make_array_from_process_local_data(
                sharding, np.asarray(array), (len(array) * parts, *array.shape[1:])
            )
            for name, array in batch.items()
        }

    def params(self, params: Any) -> Any:
        """Where each parameter lies.

        Args:
            params: arrays or ``jax.ShapeDtypeStruct``.

        Returns:
            The same tree of ``NamedSharding``.

        Raises:
            ValueError: a rule splits a parameter along an axis that is not the mesh's, or unevenly.
        """
        if self.partition is None:
            return jax.tree.map(lambda _: self.whole, params)
        leaves, structure = jax.tree_util.tree_flatten_with_path(params)
        specs = structure.flatten_up_to(self.partition(params))
        for (path, leaf), spec in zip(leaves, specs, strict=True):
            self._check("params" + jax.tree_util.keystr(path), leaf.shape, spec)
        return structure.unflatten(NamedSharding(self.mesh, spec) for spec in specs)

    def opt_state(self, opt_state: Any, params: Any) -> Any:
        """Where each array of an optimizer's state lies.

        Args:
            opt_state: arrays or ``jax.ShapeDtypeStruct``.
            params: likewise, those that it is the state for.

        Returns:
            The same tree as ``opt_state``, of ``NamedSharding``.

        Raises:
            ValueError: as :meth:`params`.
        """
        leaves = jax.tree_util.tree_leaves_with_path(params)
        specs = [sharding.spec for sharding in jax.tree.leaves(self.params(params))]
        owners = {path: (leaf.shape, spec) for (path, leaf), spec in zip(leaves, specs, strict=True)}

        def lies(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
            span = span_of_parameter(path, owners)
            shape, spec = ((), P()) if span is None else owners[path[slice(*span)]]
            axes = [axis for entry in spec for axis in _axes(entry)]
            if self.shard_state and DATA in self.mesh.shape and DATA not in axes:
                axes.append(DATA)
            if leaf.shape != shape:  # of a form of its own, such as factors or codes: split as far, elsewhere
                spec = P()
            for axis in axes:
                if not any(axis in _axes(entry) for entry in spec):
                    spec = self._split(leaf.shape, spec, axis)
            return NamedSharding(self.mesh, spec)

        return jax.tree_util.tree_map_with_path(lies, opt_state)

    def own(self, params: Any) -> Any:
        """Parameters as a process can use them alone.

        Returns:
            Them, in a run of one process, and where they are split between processes; else the copy on this
            process's first device.
        """
        shared = all(leaf.is_fully_replicated for leaf in jax.tree.leaves(params))
        if jax.process_count() == 1 or not shared:
            return params
        return jax.tree.map(lambda leaf: leaf.addressable_data(0), params)

    @property
    def _data(self) -> int:
        return self.mesh.shape.get(DATA, 1)

    def _check(self, name: str, shape: tuple[int, ...], spec: P) -> None:
        if len(spec) > len(shape):
            raise ValueError(f"{name} has shape {shape}, which {spec} cannot split")
        for dimension, entry in enumerate(spec):
            for axis in _axes(entry):
                if axis not in self.mesh.shape:
                    raise ValueError(
                        f"{spec} of {name} names axis {axis!r}; the mesh has {list(self.mesh.shape)}"
                    )
            parts = math.prod(self.mesh.shape[axis] for axis in _axes(entry))
            if shape[dimension] % parts:
                raise ValueError(
                    f"{name} has shape {shape}, and {spec} splits dimension {dimension} into {parts}: "
                    f"{shape[dimension]} is not a multiple"
                )

    def _split(self, shape: tuple[int, ...], spec: P, axis: str) -> P:
        """Split one of the dimensions that divide along one more axis.

        It is the longest on a device, and the last only where no other divides: rows that stay whole hold whole
        blocks of a state in eight bits, which are otherwise gathered, in float32, to find their scales.
        """
        entries = [_axes(entry) for entry in (*spec, *[None] * (len(shape) - len(spec)))]
        lengths = [
            size // math.prod(self.mesh.shape[axis] for axis in entry)
            for size, entry in zip(shape, entries, strict=True)
        ]
        parts = self.mesh.shape[axis]
        dividing = [i for i, length in enumerate(lengths) if length and length % parts == 0]
        if not dividing:
            return spec
        chosen = max(dividing, key=lambda i: (i < len(shape) - 1, lengths[i]))
        entries[chosen] = (*entries[chosen], axis)
        return P(*(entry[0] if len(entry) == 1 else entry or None for entry in entries))


def _axes(entry: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """The mesh axes along which one dimension is split."""
    return () if entry is None else (entry,) if isinstance(entry, str) else tuple(entry)


def bytes_per_device(tree: Any, shardings: Any) -> int:
    """The memory that a tree takes on each device.

    Args:
        tree: arrays or ``jax.ShapeDtypeStruct``.
        shardings: the same tree of where they lie, as of :meth:`Layout.params` or :meth:`Layout.opt_state`.

    Example:
        >>> layout = Layout(make_mesh("data:1"))
        >>> bytes_per_device({"w": np.zeros((4, 2), np.float32)}, {"w": layout.batch})
        32
    """
    return sum(
        math.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf, sharding in zip(jax.tree.leaves(tree), jax.tree.leaves(shardings), strict=True)
    )


def warn_of_whole(tree: Any, shardings: Any) -> None:
    """Log which large arrays of an optimizer's state no device is spared.

    Args:
        tree: arrays or ``jax.ShapeDtypeStruct``.
        shardings: the same tree of where they lie.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    size = {path: leaf.size * leaf.dtype.itemsize for path, leaf in leaves}
    whole = [
        f"{jax.tree_util.keystr(path)} {leaf.shape}"
        for (path, leaf), sharding in zip(leaves, jax.tree.leaves(shardings), strict=True)
        if sharding.is_fully_replicated
        and leaf.size >= sharding.mesh.size
        and size[path] > _LARGE * sum(size.values())
    ]
    if whole:
        _log.warning("no dimension divides, so every device keeps all of %s", ", ".join(whole))
