"""A kernel on the parts of arrays that a mesh splits: each device updates its own.

Parts hold whole blocks. Where a device's part of a row does not, rows are exchanged before and after the
kernel, so that each device has whole ones.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.custom_partitioning import (
    ArrayMapping,
    CompoundFactor,
    SdyShardingRule,
    custom_partitioning,
)
from jax.extend import core
from jax.sharding import Mesh, NamedSharding, PartitionSpec


def in_parts(
    run: Callable[..., list[jax.Array]],
    jaxpr: core.ClosedJaxpr,
    shape: tuple[int, ...],
    block: int,
    arguments: Sequence[jax.Array],
) -> list[jax.Array]:
    """Run a kernel on each device's part.

    Args:
        run: (arguments, origin) → results, of parts whose place in the array is ``origin``.
        jaxpr: the program that the kernel evaluates.
        shape: of the whole arrays.
        block: entries of a block.
        arguments: those of the program.
    """
    whole = custom_partitioning(lambda *args: run(args))

    def laid(avals: Sequence[Any], mesh: Mesh, spec: PartitionSpec) -> tuple[NamedSharding, ...]:
        return tuple(NamedSharding(mesh, spec if aval.ndim else PartitionSpec()) for aval in avals)

    def partition(mesh, operands, results):
        del results
        given = next(x.sharding.spec for x in operands if x.shape == shape)
        spec = with_whole_blocks(given, shape, block, mesh.shape)

        def on_device(*args):
            parts = [_parts(names, mesh.shape) for names in spec]
            return run(
                args,
                [
                    jnp.int32(0) if names is None else jax.lax.axis_index(names) * jnp.int32(size // n)
                    for names, size, n in zip(spec, shape, parts, strict=True)
                ],
            )

        return mesh, on_device, list(laid(jaxpr.out_avals, mesh, spec)), laid(jaxpr.in_avals, mesh, spec)

    whole.def_partition(partition, sharding_rule=_rule(jaxpr, shape, block))
    return whole(*arguments)


@functools.cache
def partitioned() -> core.ClosedJaxpr:
    """A program for the parameters of an operation that is lowered to :func:`in_parts`.

    JAX tells the devices only to programs that hold a ``custom_partitioning``.
    """
    identity = custom_partitioning(lambda x: x)
    identity.def_partition(lambda mesh, operands, result: (mesh, lambda x: x, result.sharding, operands))
    return jax.make_jaxpr(identity)(0.0)


def with_whole_blocks(spec: PartitionSpec, shape: tuple[int, ...], block: int, mesh: Any) -> PartitionSpec:
    """A layout whose parts hold whole blocks: the same, or with the rows split instead of the blocks.

    Args:
        spec: how an array is laid out.
        shape: of the array.
        block: entries of a block.
        mesh: axis → size.

    Example:
        >>> tuple(with_whole_blocks(PartitionSpec("x", "y"), (64, 512), 256, {"x": 4, "y": 2}))
        ('x', 'y')
        >>> tuple(with_whole_blocks(PartitionSpec("x", "y"), (64, 768), 256, {"x": 4, "y": 2}))
        (('x', 'y'), None)
    """
    *outer, rows, columns = (*spec, *[None] * (len(shape) - len(spec)))
    if shape[-1] % (_parts(columns, mesh) * block) == 0 or columns is None:
        return PartitionSpec(*outer, rows, columns)
    names = (*_names(rows), *_names(columns))
    return PartitionSpec(*outer, rows if shape[-2] % _parts(names, mesh) else names, None)


def _names(names: Any) -> tuple[str, ...]:
    return () if names is None else names if isinstance(names, tuple) else (names,)


def _parts(names: Any, mesh: Any) -> int:
    return math.prod(mesh[name] for name in _names(names))


def _rule(jaxpr: core.ClosedJaxpr, shape: tuple[int, ...], block: int) -> SdyShardingRule:
    """How the layouts of arguments and results belong together: entries to their blocks."""
    outer = [f"d{axis}" for axis in range(len(shape) - 1)]
    even = shape[-1] % block == 0
    last = CompoundFactor("blocks", "within") if even else "columns"
    sizes: dict[str, Any] = {"within": block} if even else {}

    def mapping(aval: Any) -> ArrayMapping:
        return ArrayMapping(*(() if aval.ndim == 0 else (*outer, last if aval.shape == shape else "blocks")))

    kept = ("within",) if even else ("columns", "blocks")
    return SdyShardingRule(
        tuple(map(mapping, jaxpr.in_avals)),
        tuple(map(mapping, jaxpr.out_avals)),
        need_replication_factors=kept,
        **sizes,
    )
