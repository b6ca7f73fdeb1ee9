"""A kernel on the parts of arrays that a mesh splits: each device updates its own.

Parts hold whole blocks. Where a device's part of a row does not, rows are exchanged before and after the
kernel, so that each device has whole ones; where their number is not divisible, there is no kernel.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core
from jax.sharding import AbstractMesh, PartitionSpec


def in_parts(
    run: Callable[..., list[jax.Array]],
    jaxpr: core.ClosedJaxpr,
    shape: tuple[int, ...],
    mesh: AbstractMesh,
    spec: PartitionSpec,
    arguments: Sequence[jax.Array],
) -> list[jax.Array]:
    """Run a kernel on each device's part.

    Args:
        run: (arguments, origin) → results, of parts whose place in the array is ``origin``.
        jaxpr: the program that the kernel evaluates.
        shape: of the whole arrays.
        mesh: the devices.
        spec: a layout :func:`with_whole_blocks`; one entry per dimension.
        arguments: those of the program.
    """

    def specs(avals: Sequence[Any]) -> tuple[PartitionSpec, ...]:
        return tuple(_of_part(spec, aval.shape) for aval in avals)

    def on_device(*args):
        parts = part_of(shape, spec, mesh.shape)
        places = [jnp.int32(0) if names is None else jax.lax.axis_index(names) for names in spec]
        return tuple(run(args, [i * jnp.int32(size) for i, size in zip(places, parts, strict=True)]))

    into, out = specs(jaxpr.in_avals), specs(jaxpr.out_avals)
    return list(jax.shard_map(on_device, mesh=mesh, in_specs=into, out_specs=out, check_vma=False)(*arguments))


def _of_part(spec: PartitionSpec, shape: tuple[int, ...]) -> PartitionSpec:
    """How an array is split that goes with one of a layout: a scalar, or of one entry along some axes."""
    names = spec if shape else ()
    return PartitionSpec(*(None if n == 1 else name for n, name in zip(shape, names, strict=True)))


def with_whole_blocks(
    spec: PartitionSpec, shape: tuple[int, ...], block: int, mesh: Any
) -> PartitionSpec | None:
    """A layout whose parts hold whole blocks: the same, or with the rows split instead of the blocks.

    Args:
        spec: how an array is laid out.
        shape: of the array.
        block: entries of a block.
        mesh: axis → size.

    Returns:
        The layout, one entry per dimension; None if there is none.

    Example:
        >>> tuple(with_whole_blocks(PartitionSpec("x", "y"), (64, 512), 256, {"x": 4, "y": 2}))
        ('x', 'y')
        >>> tuple(with_whole_blocks(PartitionSpec("x", "y"), (64, 768), 256, {"x": 4, "y": 2}))
        (('x', 'y'), None)
        >>> with_whole_blocks(PartitionSpec(None, "y"), (63, 768), 256, {"x": 4, "y": 2})
    """
    *outer, rows, columns = (*spec, *[None] * (len(shape) - len(spec)))
    if columns is None or shape[-1] % (_parts(columns, mesh) * block) == 0:
        return PartitionSpec(*outer, rows, columns)
    names = (*_names(rows), *_names(columns))
    return None if shape[-2] % _parts(names, mesh) else PartitionSpec(*outer, names, None)


def part_of(shape: tuple[int, ...], spec: PartitionSpec, mesh: Any) -> tuple[int, ...]:
    """The shape of a device's part.

    Args:
        shape: of the array.
        spec: one entry per dimension, which it divides.
        mesh: axis → size.

    Example:
        >>> part_of((64, 512), PartitionSpec(("x", "y"), None), {"x": 4, "y": 2})
        (8, 512)
    """
    return tuple(size // _parts(names, mesh) for size, names in zip(shape, spec, strict=True))


def _names(names: Any) -> tuple[str, ...]:
    return () if names is None else names if isinstance(names, tuple) else (names,)


def _parts(names: Any, mesh: Any) -> int:
    return math.prod(mesh[name] for name in _names(names))
