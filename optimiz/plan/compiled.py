"""Compile a program for its devices, and read off what it costs there."""

import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax.sharding import Mesh, use_abstract_mesh

from optimiz.plan import targets
from optimiz.plan.plan import Plan
from optimiz.plan.program import padded_size, parse
from optimiz.plan.traffic import traffic
from optimiz.training import bytes_per_device, device_memory
from optimiz.training.distributed.sharding import HOST, held_on_host


def plan_of_call(
    devices: targets.Target,
    mesh: Mesh,
    function: Callable[..., Any],
    arguments: Mapping[str, Any],
    donate: Sequence[str],
    out_shardings: Any = None,
) -> Plan:
    """The plan of a call.

    Args:
        devices: the devices.
        mesh: the mesh of these devices.
        function: takes the arguments by position.
        arguments: name → a tree of ``jax.ShapeDtypeStruct`` with shardings.
        donate: arguments whose memory the results may reuse.
        out_shardings: shardings of the results; None if the compiler lays them out.
    """
    names, laid = list(arguments), tuple(arguments.values())
    jitted = jax.jit(function, donate_argnums=tuple(map(names.index, donate)), out_shardings=out_shardings)

    def lower() -> jax.stages.Lowered:
        with use_abstract_mesh(mesh.abstract_mesh):  # for an optimizer that asks, as in a step of training
            return jitted.lower(*laid)

    return plan_of_program(devices, mesh, laid, lambda trees: dict(zip(names, trees, strict=True)), lower)


def plan_of_program(
    devices: targets.Target,
    mesh: Mesh,
    arguments: tuple[Any, ...],
    named: Callable[[tuple[Any, ...]], Mapping[str, Any]],
    lower: Callable[[], jax.stages.Lowered],
) -> Plan:
    """The plan of a program.

    Args:
        devices: the devices.
        mesh: the mesh of these devices.
        arguments: a tree of ``jax.ShapeDtypeStruct`` with shardings for each argument of the program.
        named: such a tuple of trees → name of an argument in the plan → its tree.
        lower: traces the program and lowers it for the devices.
    """
    laid = named(arguments)
    held = {name: (tree, jax.tree.map(lambda x: x.sharding, tree)) for name, tree in laid.items()}
    sizes = {name: bytes_per_device(*tree) for name, tree in held.items()}
    on_host = {name: bytes_per_device(*held_on_host(*tree)) for name, tree in held.items()}
    planned = {
        "target": devices.name,
        "mesh": dict(mesh.shape),
        "arguments": {name: size - on_host[name] for name, size in sizes.items()},
        "host": sum(on_host.values()),
        "memory": devices.device.memory,
        "bandwidth": devices.device.bandwidth,
        "link": devices.device.link,
    }
    begin = time.perf_counter()
    try:
        compiled = lower().compile(devices.device.options)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        message = re.sub(r"\s+", " ", str(error))
        reason = re.split(r" Largest program allocations| Total hbm usage", message)[0]
        planned |= {"temporary": None, "peak": None, "traffic": None, "bound": sum(sizes.values())}
        return Plan(**planned, compile_seconds=time.perf_counter() - begin, failure=reason)
    seconds = time.perf_counter() - begin
    memory: Any = compiled.memory_analysis()
    results = memory.output_size_in_bytes
    costs: Any = compiled.cost_analysis()  # None where a GPU is absent
    formats: Any = named(compiled.input_formats[0])
    padding = {name: _padding(tree, formats[name]) for name, tree in laid.items()}
    return Plan(
        **planned,
        temporary=memory.temp_size_in_bytes,
        peak=device_memory.needed(compiled),
        traffic=traffic(parse(compiled.as_text() or "")),
        bound=sum(sizes.values()) + sum(padding.values()) + results + memory.host_output_size_in_bytes,
        compile_seconds=seconds,
        flops=(costs or {}).get("flops"),
        padding=padding,
    )


def _padding(tree: Any, formats: Any) -> int:
    """Bytes of an argument's buffers on a device besides those of its arrays; of one that is not read, none."""
    added = 0
    for x, placed in zip(jax.tree.leaves(tree), jax.tree.leaves(formats), strict=True):
        layout = placed.layout
        if layout is not None and layout.tiling and x.sharding.memory_kind != HOST:
            shape = x.sharding.shard_shape(x.shape)
            by_place = [shape[i] for i in layout.major_to_minor]
            added += (padded_size(by_place, layout.tiling[0]) - math.prod(shape)) * x.dtype.itemsize
    return added
