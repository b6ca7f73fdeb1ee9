"""Equal matrices of many arrays in one stack, shared out over the devices of a mesh.

A model has dozens of matrices of a few shapes. In one stack they are one product instead of dozens, and a stack
whose first axis is split over all devices needs no communication inside a function of whole matrices: it moves
once on the way in and once on the way out.

Where axes of the mesh are explicit, the layout of an array is part of its type, and the results return in it.
Where they are automatic, the compiler knows the layout, and here only the stack's is asked for.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from optimiz.numerics.dispatch import dispatched_once


class Axes(Protocol):
    """Along which axes an array is a stack of matrices; see ``groups.Matrix``."""

    @property
    def batch(self) -> tuple[int, ...]:
        """Axes along which matrices are stacked."""
        ...

    @property
    def reduction(self) -> tuple[int, ...]:
        """Axes of the input."""
        ...

    @property
    def output(self) -> tuple[int, ...]:
        """Axes of the output."""
        ...

    @property
    def sizes(self) -> tuple[int, ...] | None:
        """Lengths of the blocks of the output, or None."""
        ...


@dataclasses.dataclass(frozen=True)
class _Devices:
    """The devices that share a stack."""

    mesh: Mesh | AbstractMesh
    names: tuple[str, ...]
    explicit: bool

    @property
    def number(self) -> int:
        return math.prod(self.mesh.shape[name] for name in self.names)

    @property
    def one_by_one(self) -> list[tuple[str, ...] | None]:
        """How a stack is split on the way from none of the axes to all of them.

        XLA exchanges parts along one axis of a mesh, and gathers whole arrays where it is to change several at
        once. The last axis comes first, as it is the innermost one of a dimension that several axes split.
        """
        names = [name for name in reversed(self.names) if self.mesh.shape[name] > 1]
        return [tuple(names[:i]) or None for i in range(len(names) + 1)]

    def laid_out(self, x: jax.Array, spec: P) -> jax.Array:
        sharding = NamedSharding(self.mesh, spec)
        return (
            jax.sharding.reshard(x, sharding)
            if self.explicit
            else jax.lax.with_sharding_constraint(x, sharding)
        )


def map_matrices(
    function: Callable[..., tuple[jax.Array, ...]],
    axes: Sequence[Axes | tuple[Axes, ...]],
    *columns: Sequence[jax.Array],
    scalars: tuple[Any, ...] = (),
    mesh: Mesh | AbstractMesh | None = None,
) -> list[tuple[jax.Array, ...]]:
    """Apply a function of stacks of matrices to arrays that hold matrices.

    Args:
        function: from one stack per column, [..., in, out], to a tuple of stacks, of the shapes of the first
            columns or of all. It treats every matrix alone, and is equal at every update.
        axes: the axes of each array's matrices, with all axes named and counted from the front; or a tuple of
            them, one for each column, where the columns differ.
        *columns: arrays, one for each of ``axes``. Those of a column have the full shapes, or length 1 along
            the axes of the reduction or of the output; with axes of their own, any.
        scalars: further arguments of the function, pytrees of scalars.
        mesh: mesh whose devices share the stacks; None for that of ``jax.set_mesh``, if there is one.

    Returns:
        For each array the tuple of results, of the shapes of its columns.
    """
    devices = _devices(mesh)
    rows = list(zip(*columns, strict=True))
    by_column = [of if isinstance(of, tuple) else (of,) * len(columns) for of in axes]
    groups: dict[Any, list[int]] = {}
    for i, (row, of) in enumerate(zip(rows, by_column, strict=True)):
        groups.setdefault(_kind(row, of, devices, i), []).append(i)
    results: list[tuple[jax.Array, ...]] = [()] * len(rows)
    for members in groups.values():
        of_members = tuple(by_column[i] for i in members)
        mapped = _mapped(function, of_members, devices, [rows[i] for i in members], scalars)
        for i, result in zip(members, mapped, strict=True):
            results[i] = result
    return results


def _devices(mesh: Mesh | AbstractMesh | None) -> _Devices | None:
    """The devices that may share a stack here, if there are several."""
    within = jax.sharding.get_abstract_mesh()
    if mesh is None or AxisType.Manual in within.axis_types:  # inside of shard_map, only what is left
        mesh = within
    types = dict(zip(mesh.axis_names, mesh.axis_types, strict=True))
    explicit = tuple(name for name in types if types[name] == AxisType.Explicit)
    names = explicit or tuple(name for name in types if types[name] == AxisType.Auto)
    devices = _Devices(mesh, names, bool(explicit))
    return devices if devices.number > 1 else None


def _kind(row: tuple[jax.Array, ...], axes: tuple[Axes, ...], devices: _Devices | None, index: int) -> Any:
    """What arrays must have in common to be in one stack."""
    pairs = list(zip(row, axes, strict=True))
    lengths = tuple(
        tuple(tuple(x.shape[i] for i in side) for side in (of.reduction, of.output)) for x, of in pairs
    )
    dtypes, sizes = tuple(x.dtype for x in row), axes[0].sizes
    if devices is None:
        return dtypes, sizes, tuple(tuple(map(math.prod, of_column)) for of_column in lengths)
    specs = [_layered_spec(x, of) for x, of in pairs] if devices.explicit else []
    split = any(spec[0] is not None for spec in specs)  # along the layers, which stay where they are
    return dtypes, sizes, lengths, tuple(specs), index if split else None


def _spec(x: jax.Array) -> tuple[Any, ...]:
    """How explicit axes of a mesh split each axis of an array."""
    given = tuple(jax.typeof(x).sharding.spec)
    return given + (None,) * (x.ndim - len(given))


def _layered_spec(x: jax.Array, axes: Axes) -> tuple[Any, ...]:
    """The same for the array as :func:`_layered` returns it."""
    spec = _spec(x)
    layers = [spec[i] for i in axes.batch if spec[i] is not None]
    return (layers[0] if layers else None, *(spec[i] for i in axes.reduction + axes.output))


@functools.partial(dispatched_once, static=("function", "axes", "devices"))
def _mapped(
    function: Callable[..., tuple[jax.Array, ...]],
    axes: tuple[tuple[Axes, ...], ...],
    devices: _Devices | None,
    rows: list[tuple[jax.Array, ...]],
    scalars: tuple[Any, ...],
) -> list[tuple[jax.Array, ...]]:
    """The function of one stack of the matrices of all rows."""
    pairs = [list(zip(row, of, strict=True)) for row, of in zip(rows, axes, strict=True)]
    layered = [[_layered(x, of, devices) for x, of in row] for row in pairs]
    counts = [row[0].shape[0] for row in layered]
    if devices is None:  # what differs along several axes may be equal as matrices
        layered = [[_flat(x, of) for x, of in zip(row, axes[i], strict=True)] for i, row in enumerate(layered)]
    stacks = [jnp.concatenate(column) for column in zip(*layered, strict=True)]
    devices = _in_order(devices, stacks)
    whole = [_moved_in(stack, devices) for stack in stacks]
    flat = whole if devices is None else [_flat(x, of) for x, of in zip(whole, axes[0], strict=True)]
    of_stacks = functools.partial(_on_each, devices, function, scalars)
    sizes = axes[0][0].sizes
    mapped = of_stacks(*flat) if sizes is None else _by_blocks(of_stacks, sizes, flat)
    mapped = [
        _moved_out(y.reshape(x.shape), stack, devices)
        for y, x, stack in zip(mapped, whole, stacks, strict=False)
    ]

    results, start = [], 0
    for row, count in zip(pairs, counts, strict=True):
        parts = [y[start : start + count] for y in mapped]
        results.append(tuple(_unlayered(y, x, of, devices) for y, (x, of) in zip(parts, row, strict=False)))
        start += count
    return results


def _on_each(
    devices: _Devices | None,
    function: Callable[..., tuple[jax.Array, ...]],
    scalars: tuple[Any, ...],
    *stacks: jax.Array,
) -> tuple[jax.Array, ...]:
    """The function of the stacks, which each device computes for the matrices that it holds.

    Left to XLA, devices without a matrix would share the work of others, and communicate inside of a QR.
    """
    if devices is None:
        return function(*stacks, *scalars)
    split = P(devices.names if devices.explicit else devices.one_by_one[-1])
    mapped = jax.shard_map(
        function,
        mesh=devices.mesh,
        in_specs=(*(split for _ in stacks), *(P() for _ in scalars)),
        out_specs=split,
        axis_names=set(devices.names),
        check_vma=False,
    )
    return mapped(*stacks, *scalars)


def _layered(x: jax.Array, axes: Axes, devices: _Devices | None) -> jax.Array:
    """The array [B, in…, out…], with its batch axes as one."""
    order = axes.batch + axes.reduction + axes.output
    rest = tuple(x.shape[i] for i in axes.reduction + axes.output)
    spec = _layered_spec(x, axes) if devices is not None and devices.explicit else None
    return _reshaped(jnp.transpose(x, order), (math.prod(x.shape[i] for i in axes.batch), *rest), spec, devices)


def _unlayered(y: jax.Array, x: jax.Array, axes: Axes, devices: _Devices | None) -> jax.Array:
    """The inverse of :func:`_layered`, for the array x."""
    order = axes.batch + axes.reduction + axes.output
    spec = tuple(_spec(x)[i] for i in order) if devices is not None and devices.explicit else None
    y = _reshaped(y, tuple(x.shape[i] for i in order), spec, devices)
    return jnp.transpose(y, tuple(order.index(i) for i in range(x.ndim)))


def _reshaped(x: jax.Array, shape: tuple[int, ...], spec: Any, devices: _Devices | None) -> jax.Array:
    if x.shape == shape or devices is None or spec is None:
        return x.reshape(shape)
    return jax.lax.reshape(x, shape, out_sharding=NamedSharding(devices.mesh, P(*spec)))


def _flat(x: jax.Array, axes: Axes) -> jax.Array:
    """Matrices [B, in, out] of an array [B, in…, out…]."""
    end = 1 + len(axes.reduction)
    return x.reshape(x.shape[0], math.prod(x.shape[1:end]), math.prod(x.shape[end:]))


def _by_blocks(
    function: Callable[..., tuple[jax.Array, ...]], sizes: tuple[int, ...], stacks: Sequence[jax.Array]
) -> list[jax.Array]:
    """The function of blocks of the output, put together again."""
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes) - 1)]
    blocks = zip(*(jnp.split(x, ends, axis=-1) for x in stacks), strict=True)
    if len(set(sizes)) == 1:  # in one stack
        mapped = function(*(jnp.stack(column, 1) for column in zip(*blocks, strict=True)))
        return [jnp.concatenate([y[:, i] for i in range(len(sizes))], axis=-1) for y in mapped]
    return [jnp.concatenate(column, axis=-1) for column in zip(*(function(*x) for x in blocks), strict=True)]


def _in_order(devices: _Devices | None, stacks: Sequence[jax.Array]) -> _Devices | None:
    """The devices, with the axes that split all of these stacks, in the order that suits the one split most.

    They are those of the layers where these are split, or else all: first the axes over which that stack is
    replicated, then those of one dimension after the other, from the last.
    """
    if devices is None or not devices.explicit:
        return devices
    specs = [[_names(entry) for entry in _spec(stack)] for stack in stacks]
    layers = next((spec[0] for spec in specs if spec[0]), ())
    most = max(specs, key=lambda spec: sum(map(len, spec)))
    split = [name for names in reversed(most) for name in names]
    free = [name for name in devices.names if name not in split]
    return dataclasses.replace(devices, names=layers or (*free, *split))


def _moved_in(stack: jax.Array, devices: _Devices | None) -> jax.Array:
    """The stack, of which each device holds some matrices, and these whole; zeros fill it up."""
    if devices is None:
        return stack
    rest = [None] * (stack.ndim - 1)
    missing = -stack.shape[0] % devices.number
    padded = jnp.pad(stack, [(0, missing)] + [(0, 0)] * len(rest)) if missing else stack
    if not devices.explicit:
        # What splits the stack must not reach the arrays, as it would if the stack were not said to be whole.
        for names in devices.one_by_one[:-1]:
            padded = devices.laid_out(padded, P(names, *[P.UNCONSTRAINED] * len(rest)))
        return devices.laid_out(padded, P(devices.one_by_one[-1], *rest))
    for spec in _way(stack, devices):
        padded = devices.laid_out(padded, spec)
    return padded


def _moved_out(y: jax.Array, stack: jax.Array, devices: _Devices | None) -> jax.Array:
    """The results for a stack, laid out as the stack was."""
    if devices is None:
        return y
    if not devices.explicit:
        for names in reversed(devices.one_by_one[:-1]):
            y = devices.laid_out(y, P(names, *[P.UNCONSTRAINED] * (y.ndim - 1)))
        return y[: stack.shape[0]]
    for spec in reversed(_way(stack, devices)[:-1]):
        y = devices.laid_out(y, spec)
    return devices.laid_out(y, P(*_spec(stack)))[: stack.shape[0]]


def _way(stack: jax.Array, devices: _Devices) -> list[P]:
    """How a stack, split by explicit axes as it is given, is split on the way to whole matrices.

    Axes that split one dimension move at once. Along those over which the stack is replicated a device drops
    what it need not hold, and nothing is sent. See `_Devices.one_by_one`.
    """
    _, *rest = dimensions = [_names(entry) for entry in _spec(stack)]
    dimension = {name: i for i, names in enumerate(dimensions) for name in names}
    over, way = (), []
    for _, names in itertools.groupby(devices.names, dimension.get):
        over += tuple(names)
        way.append(P(over, *(tuple(name for name in names if name not in over) for names in rest)))
    return [*way[:-1], P(over)]


def _names(entry: Any) -> tuple[str, ...]:
    """The axes of a mesh that split a dimension, from its entry in a ``PartitionSpec``."""
    return entry if isinstance(entry, tuple) else () if entry is None else (entry,)
