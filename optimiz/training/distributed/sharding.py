"""Where each array of a run lies on a mesh of devices.

Every batch is split along the mesh's axis ``data``. A parameter is split as its partition rule specifies, or
replicated; what the optimizer keeps for a parameter is split like the parameter, and with ``shard_state`` also
along ``data`` (ZeRO, stage 1). All arrays are laid out like this from the start, and the compiler adds the
communication: the results are those of one device, up to the order of sums.

A dimension is split only if its size is divisible, as JAX supports no other splits. A rule that requires
another split is refused; an array of the optimizer's state without a divisible dimension is replicated, with a
warning if it is large. Rows stay whole if another dimension is divisible.

With ``offload_state`` the optimizer's state lies in the memory of the device's host, see ``offload.py``.

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

HOST = "pinned_host"
"""JAX's name of a host's memory from which a device copies by itself."""

_LARGE = 0.01  # of the optimizer's state
_WORTH_A_COPY = 2**16  # bytes of an array

_log = logging.getLogger(__name__)


def make_mesh(description: str, devices: Sequence[Any] | None = None) -> Mesh:
    """Make a mesh from its description.

    Args:
        description: names and sizes of its axes, such as ``"data:4,model:2"``; batches are split along
            ``data``.
        devices: as many devices as the product of the sizes, in row-major order; by default all devices of all
            processes.

    Returns:
        A mesh with axes of type ``Auto``: the compiler decides how intermediate values are laid out.

    Raises:
        ValueError: the description is malformed, names an axis twice, or does not fit the number of devices.

    Example:
        >>> dict(make_mesh("data:1,model:1").shape)
        {'data': 1, 'model': 1}
    """
    axes = [axis.partition(":") for axis in description.split(",")]
    if not all(name.isidentifier() and size.isdecimal() and int(size) for name, _, size in axes):
        raise ValueError(f'a mesh must be described as in "data:4,model:2", got "{description}"')
    names, shape = tuple(name for name, _, _ in axes), tuple(int(size) for _, _, size in axes)
    if len(set(names)) < len(names):
        raise ValueError(f'the axes of a mesh must have different names, got "{description}"')
    devices = jax.devices() if devices is None else devices
    if math.prod(shape) != len(devices):
        raise ValueError(f'mesh "{description}" needs {math.prod(shape)} devices, got {len(devices)}')
    return Mesh(np.array(devices).reshape(shape), names, axis_types=(AxisType.Auto,) * len(names))


@dataclasses.dataclass(frozen=True)
class Layout:
    """How a run's arrays are laid out on a mesh.

    Args:
        mesh: mesh of the devices of all processes. Its axes are converted to type ``Auto``, because a task's
            loss is written without shardings in mind.
        partition: parameters → a tree of ``PartitionSpec``, such as ``groups.label({P(None, "model"):
            groups.path("query"), P(): groups.everything})``; None to replicate all parameters.
        shard_state: whether the optimizer's state is split along ``data`` too.
        frozen_partition: as ``partition``, for a task's frozen arrays.
        offload_state: whether the optimizer's state lies in the memory of the host between steps. Within a step
            it is brought to the device in parts, so that it takes little of the device's memory, at the cost of
            two copies per step. What is smaller than 64 KiB, or belongs to no parameter, stays on the device.

    Raises:
        ValueError: state is to be offloaded, and the devices, or this version of JAX on a CPU, cannot.

    Example:
        >>> layout = Layout(make_mesh("data:1"))
        >>> layout.batch.shard_shape((32, 8))
        (32, 8)
    """

    mesh: Mesh
    partition: Callable[[Any], Any] | None = None
    shard_state: bool = False
    frozen_partition: Callable[[Any], Any] | None = None
    offload_state: bool = False

    def __post_init__(self) -> None:
        auto = (AxisType.Auto,) * len(self.mesh.axis_names)
        if self.mesh.axis_types != auto:
            names, mesh = self.mesh.axis_names, self.mesh
            if isinstance(mesh, AbstractMesh):
                mesh = AbstractMesh(mesh.axis_sizes, names, axis_types=auto)
            else:
                mesh = Mesh(mesh.devices, names, axis_types=auto)
            object.__setattr__(self, "mesh", mesh)
        if self.offload_state and isinstance(self.mesh, Mesh):
            _check_offloads(self.mesh.devices.flat[0])

    @property
    def whole(self) -> NamedSharding:
        """The sharding of a replicated array."""
        return NamedSharding(self.mesh, P())

    @property
    def batch(self) -> NamedSharding:
        """The sharding of the arrays of a batch."""
        return NamedSharding(self.mesh, P(DATA) if DATA in self.mesh.shape else P())

    @property
    def share(self) -> tuple[int, int]:
        """The part of each batch that this process reads, as (i, n) for the i-th of n equal parts.

        Processes whose devices have the same positions along ``data`` read the same part.

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
                f"process {jax.process_index()} has positions {mine.tolist()} of {self._data} along data; they "
                "must be one of several equal, contiguous parts"
            )
        return first // count, self._data // count

    def place(self, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
        """Lay out a batch, of which each process provides its :attr:`share`.

        Args:
            batch: name → array [B / n, …].

        Returns:
            Name → array [B, …].

        Raises:
            ValueError: B is not divisible by the size of the axis ``data``.
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
        """The sharding of each parameter.

        Args:
            params: arrays or ``jax.ShapeDtypeStruct``.

        Returns:
            The same tree of ``NamedSharding``.

        Raises:
            ValueError: a rule splits a parameter unevenly, or along an axis that the mesh lacks.
        """
        return self._by_rules("params", params, self.partition)

    def frozen(self, frozen: Any) -> Any:
        """The sharding of each frozen array; arguments and errors as for :meth:`params`."""
        return self._by_rules("frozen", frozen, self.frozen_partition)

    def _by_rules(self, name: str, tree: Any, partition: Callable[[Any], Any] | None) -> Any:
        if partition is None:
            return jax.tree.map(lambda _: self.whole, tree)
        leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
        specs = structure.flatten_up_to(partition(tree))
        for (path, leaf), spec in zip(leaves, specs, strict=True):
            self._check(name + jax.tree_util.keystr(path), leaf.shape, spec)
        return structure.unflatten(NamedSharding(self.mesh, spec) for spec in specs)

    def opt_state(self, opt_state: Any, params: Any) -> Any:
        """The sharding of each array of an optimizer's state.

        Args:
            opt_state: arrays or ``jax.ShapeDtypeStruct``.
            params: the parameters that it belongs to, likewise.

        Returns:
            The same tree as ``opt_state``, of ``NamedSharding``.

        Raises:
            ValueError: as for :meth:`params`.
        """
        leaves = jax.tree_util.tree_leaves_with_path(params)
        specs = [sharding.spec for sharding in jax.tree.leaves(self.params(params))]
        owners = {path: (leaf.shape, spec) for (path, leaf), spec in zip(leaves, specs, strict=True)}

        def sharding_of(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
            span = span_of_parameter(path, owners)
            shape, spec = ((), P()) if span is None else owners[path[slice(*span)]]
            axes = [axis for entry in spec for axis in _axes(entry)]
            if self.shard_state and DATA in self.mesh.shape and DATA not in axes:
                axes.append(DATA)
            if leaf.shape != shape and not self._divides(leaf.shape, shape, spec):
                spec = P()  # such as factors: split along the same axes, in other dimensions
            for axis in axes:
                if not any(axis in _axes(entry) for entry in spec):
                    spec = self._split(leaf.shape, spec, axis)
            is_small = leaf.size * leaf.dtype.itemsize < _WORTH_A_COPY
            return self._on(spec, None if not self.offload_state or span is None or is_small else HOST)

        return jax.tree_util.tree_map_with_path(sharding_of, opt_state)

    def own(self, params: Any) -> Any:
        """Parameters in a form that this process can use on its own.

        Returns:
            The parameters themselves in a run of one process, or if they are split between processes; otherwise
            the copy on this process's first device.
        """
        shared = all(leaf.is_fully_replicated for leaf in jax.tree.leaves(params))
        if jax.process_count() == 1 or not shared:
            return params
        return jax.tree.map(lambda leaf: leaf.addressable_data(0), params)

    @property
    def _data(self) -> int:
        return self.mesh.shape.get(DATA, 1)

    def _on(self, spec: P, memory: str | None) -> NamedSharding:
        sharding = NamedSharding(self.mesh, spec, memory_kind=memory)
        if memory is not None and sharding.memory_kind is None:
            # A GPU that can only compile lists no memories, and a mesh of such devices drops the kind.
            return NamedSharding(self.mesh.abstract_mesh, spec, memory_kind=memory)
        return sharding

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
                    f"{shape[dimension]} is not divisible"
                )

    def _divides(self, shape: tuple[int, ...], like: tuple[int, ...], spec: P) -> bool:
        """Whether a parameter's spec splits another array of its rank evenly, such as scales."""
        return len(shape) == len(like) and all(
            length % math.prod(self.mesh.shape[axis] for axis in _axes(entry)) == 0
            for length, entry in zip(shape, spec, strict=False)
        )

    def _split(self, shape: tuple[int, ...], spec: P, axis: str) -> P:
        """Split one more dimension, along an axis.

        It is the longest divisible dimension on a device, and the last only if no other is divisible: rows that
        stay whole hold whole blocks of an 8-bit state, which otherwise must be gathered, in float32, to find
        their scales.
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


def _check_offloads(device: Any) -> None:
    """Refuse a device without a host's memory to keep state in."""
    kinds = [memory.kind for memory in device.addressable_memories()]
    if kinds and HOST not in kinds:
        raise ValueError(f"offload_state needs a device with memory {HOST!r}, {device} has {', '.join(kinds)}")
    if device.platform == "cpu" and jax.__version_info__ < (0, 10, 2):
        raise ValueError(f"offload_state needs jax>=0.10.2 on a CPU, got {jax.__version__}")


def _axes(entry: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """The mesh axes along which one dimension is split."""
    return () if entry is None else (entry,) if isinstance(entry, str) else tuple(entry)


def bytes_per_device(tree: Any, shardings: Any) -> int:
    """The memory that a tree of arrays takes on each device.

    Args:
        tree: arrays or ``jax.ShapeDtypeStruct``.
        shardings: the same tree of shardings, as from :meth:`Layout.params` or :meth:`Layout.opt_state`.

    Example:
        >>> layout = Layout(make_mesh("data:1"))
        >>> bytes_per_device({"w": np.zeros((4, 2), np.float32)}, {"w": layout.batch})
        32
    """
    return sum(
        math.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf, sharding in zip(jax.tree.leaves(tree), jax.tree.leaves(shardings), strict=True)
    )


def held_on_host(tree: Any, shardings: Any) -> tuple[Any, Any]:
    """The arrays that lie in the host's memory, and their shardings, as lists.

    Args:
        tree: arrays or ``jax.ShapeDtypeStruct``.
        shardings: the same tree of shardings.
    """
    pairs = zip(jax.tree.leaves(tree), jax.tree.leaves(shardings), strict=True)
    kept = [(leaf, sharding) for leaf, sharding in pairs if sharding.memory_kind == HOST]
    return [leaf for leaf, _ in kept], [sharding for _, sharding in kept]


def warn_of_whole(tree: Any, shardings: Any) -> None:
    """Warn of large arrays of an optimizer's state that are replicated.

    Args:
        tree: arrays or ``jax.ShapeDtypeStruct``.
        shardings: the same tree of shardings.
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
        _log.warning("no dimension is divisible, so every device keeps all of %s", ", ".join(whole))
