"""What an optimizer's update, or a whole training step, costs on given devices, by their own compiler.

Nothing runs and no parameter is allocated: shapes are compiled ahead of time, on any machine. A plan describes
the compiled program on one device: the memory it holds, the bytes it moves, its kernels and its collectives. It
does not measure time; the bytes moved, divided by the device's bandwidth, give a lower bound.
"""

import dataclasses
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, use_abstract_mesh
from jax.sharding import PartitionSpec as P

from optimiz import checks, numerics
from optimiz.plan import targets
from optimiz.plan.program import padded_size, parse
from optimiz.plan.traffic import Collective, Traffic, traffic
from optimiz.training import Layout, Task, bytes_per_device, device_memory, make_mesh
from optimiz.training.compiled_step import traced_step
from optimiz.training.distributed.offload import offloaded
from optimiz.training.distributed.sharding import HOST, held_on_host
from optimiz.training.step import StepSpec
from optimiz.training.task import batch_size
from optimiz.training.train_state import initial_state, state_shardings


@dataclasses.dataclass(frozen=True)
class Plan:
    """A program compiled for its devices; all bytes are per device. As a string, a table.

    Attributes:
        target: the devices, such as ``"v5e:4x4"``.
        mesh: axis → size.
        arguments: argument of the program → bytes in the device's memory; an update has ``parameters``,
            ``state`` and ``gradients``, a step ``parameters``, ``state`` and ``batch``, and ``frozen`` if its
            task has frozen arrays.
        temporary: bytes that the program holds besides its arguments and results, such as the activations and
            gradients of a step; None if the compiler found the program too large.
        peak: the most bytes held at any time, including arguments; None likewise.
        memory: bytes of memory that the device has; None if unknown.
        traffic: what one run of the program moves; None if the program was not compiled.
        bound: bytes that any such program must move: its inputs are read once and its outputs written once.
        bandwidth: bandwidth of the device's memory, in bytes per second; None if unknown.
        compile_seconds: compile time on this machine.
        failure: the compiler's message if the program does not fit; None if it was compiled.
        flops: floating-point operations of one run, as the compiler counts them; None if it does not.
        host: bytes of the arguments that lie in the host's memory.
        link: bandwidth between the host and the device's memory in each direction, in bytes per second; None if
            unknown.
        padding: argument of the program → bytes that the device holds besides those of its arrays, as a TPU
            fills up its tiles of 8 × 128; None if the program was not compiled.
    """

    target: str
    mesh: Mapping[str, int]
    arguments: Mapping[str, int]
    temporary: int | None
    peak: int | None
    memory: int | None
    traffic: Traffic | None
    bound: int
    bandwidth: int | None
    compile_seconds: float
    failure: str | None = None
    flops: float | None = None
    host: int = 0
    link: int | None = None
    padding: Mapping[str, int] | None = None

    @property
    def fits(self) -> bool | None:
        """Whether the program fits in the device's memory; None if unknown."""
        if self.failure is not None:
            return False
        return None if self.memory is None or self.peak is None else self.peak <= self.memory

    @property
    def collectives(self) -> Mapping[str, Collective]:
        """Collectives by kind; empty if the program was not compiled."""
        return {} if self.traffic is None else self.traffic.collectives

    @property
    def link_seconds_at_least(self) -> float | None:
        """Time of the copies from and to the host, both directions at once; None if that is unknown."""
        if self.traffic is None or self.link is None:
            return None
        return max(self.traffic.from_host, self.traffic.to_host) / self.link

    @property
    def seconds_at_least(self) -> float | None:
        """The bytes moved divided by the bandwidth, or the time of the copies from and to the host if longer.

        None if the bytes or the bandwidth is unknown.
        """
        if self.traffic is None or self.bandwidth is None:
            return None
        return max(self.traffic.greatest / self.bandwidth, self.link_seconds_at_least or 0)

    def __str__(self) -> str:
        mesh = ", ".join(f"{axis} {size}" for axis, size in self.mesh.items())
        rows = [("target", self.target), ("mesh", mesh)]
        rows += [(name, _size(size)) for name, size in self.arguments.items()]
        rows += [("on the host", _size(self.host))] if self.host else []
        rows += [(f"padding of {name}", _size(size)) for name, size in (self.padding or {}).items() if size]
        rows += [
            ("temporary", _size(self.temporary)),
            ("peak", _size(self.peak)),
            ("memory", _size(self.memory)),
        ]
        rows.append(("fits", {True: "yes", False: "no", None: "unknown"}[self.fits]))
        if self.traffic is not None:
            rows += [("moved", _range(self.traffic)), ("moved at least", _size(self.bound))]
            if self.host:
                rows += [
                    ("from the host", _size(self.traffic.from_host)),
                    ("to it", _size(self.traffic.to_host)),
                ]
            rows.append(("kernels", str(self.traffic.kernels)))
            rows += [(kind, f"{its.count}, {_size(its.bytes)}") for kind, its in self.collectives.items()]
        if self.flops is not None:
            rows.append(("operations", f"{self.flops:.3g}"))
        if self.seconds_at_least is not None:
            rows.append(("at least", f"{1e3 * self.seconds_at_least:.3g} ms"))
        rows.append(("compiled in", f"{self.compile_seconds:.1f} s"))
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:{width}}  {value}" for name, value in rows)


def update(
    tx: optax.GradientTransformation,
    params: Any,
    target: str,
    *,
    mesh: str | None = None,
    rules: Callable[[Any], Any] | None = None,
    shard_state: bool = False,
    offload_state: bool = False,
    **extra_args: Any,
) -> Plan:
    """Plan an optimizer's update: ``tx.update`` and ``optax.apply_updates``, parameters and state donated.

    Args:
        tx: any transformation.
        params: a tree of arrays or ``jax.ShapeDtypeStruct``; gradients have the same shapes and dtypes.
        target: the devices, as in :func:`optimiz.plan.target`.
        mesh: names and sizes of the mesh's axes, such as ``"data:4,model:4"``; by default all devices lie along
            ``data``.
        rules: parameters → a tree of ``PartitionSpec``, as in :class:`optimiz.training.Layout`; by default they
            are replicated on every device.
        shard_state: whether the state is split along ``data`` (ZeRO, stage 1).
        offload_state: whether the state lies in the host's memory between updates.
        **extra_args: further arguments of the update, such as ``value``: arrays or ``jax.ShapeDtypeStruct``,
            replicated on every device, or functions of the parameters.

    Returns:
        The plan of one update.

    Raises:
        ValueError: target, mesh and rules do not match, or the target has no memory of a host.
        ModuleNotFoundError: the target's compiler is not installed.

    Example:
        >>> import jax.numpy as jnp
        >>> params = {"kernel": jax.ShapeDtypeStruct((256, 256), jnp.float32)}
        >>> planned = update(optax.adamw(1e-3), params, "cpu")
        >>> planned.arguments["parameters"], planned.arguments["state"]
        (262144, 524292)
    """
    checks.transformation("tx", tx)
    tx = optax.with_extra_args_support(tx)
    devices = targets.target(target)
    layout = Layout(_mesh(devices, mesh), rules, shard_state, offload_state=offload_state)
    params = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype), params)
    state = jax.eval_shape(tx.init, params)
    params = _laid(params, layout.params(params))
    state = _laid(state, layout.opt_state(state, params))
    shardings = tuple(jax.tree.map(lambda x: x.sharding, tree) for tree in (params, state))
    functions = {name: value for name, value in extra_args.items() if callable(value)}
    arrays = {
        name: jax.tree.map(lambda x: jax.ShapeDtypeStruct(np.shape(x), x.dtype, sharding=layout.whole), value)
        for name, value in extra_args.items()
        if name not in functions
    }

    def step(params: Any, state: Any, gradients: Any, arrays: Any = None) -> Any:
        extra = (arrays or {}) | functions
        return numerics.update_and_apply(tx, gradients, state, params, shardings=shardings, **extra)

    arguments = {"parameters": params, "state": state, "gradients": params}
    if arrays:
        arguments["extra"] = arrays
    return _plan_of(devices, layout.mesh, offloaded(step), arguments, ("parameters", "state"), shardings)


def step(
    task: Task,
    tx: optax.GradientTransformation,
    target: str,
    *,
    mesh: str | None = None,
    rules: Callable[[Any], Any] | None = None,
    shard_state: bool = False,
    frozen_rules: Callable[[Any], Any] | None = None,
    offload_state: bool = False,
) -> Plan:
    """Plan a whole training step: the one that :func:`optimiz.training.fit` compiles for a task.

    Args:
        task: the task; its ``batches`` may return ``jax.ShapeDtypeStruct`` instead of arrays, and its ``init``
            and ``frozen`` are only traced.
        tx: any transformation.
        target: the devices, as in :func:`optimiz.plan.target`.
        mesh: names and sizes of the mesh's axes, such as ``"data:4,model:4"``; by default all devices lie along
            ``data``, along which the batch is split.
        rules: parameters → a tree of ``PartitionSpec``, as in :class:`optimiz.training.Layout`; by default they
            are replicated on every device.
        shard_state: whether the optimizer's state is split along ``data`` (ZeRO, stage 1).
        frozen_rules: as ``rules``, for the task's frozen arrays.
        offload_state: whether the optimizer's state lies in the host's memory between steps.

    Returns:
        The plan of one step. Its ``state`` is that of the optimizer and, if there is one, the model's.

    Raises:
        ValueError: target, mesh, rules and batch do not match, or the step cannot be compiled.
        ModuleNotFoundError: the target's compiler is not installed.

    Example:
        >>> import jax.numpy as jnp
        >>> task = Task(
        ...     init=lambda key: {"kernel": jax.random.normal(key, (256, 64))},
        ...     loss=lambda params, batch, key: jnp.sum((batch["x"] @ params["kernel"]) ** 2, axis=1),
        ...     batches=lambda step: {"x": jax.ShapeDtypeStruct((32, 256), jnp.float32)},
        ... )
        >>> step(task, optax.sgd(0.1), "cpu").arguments["parameters"]
        65536
    """
    checks.transformation("tx", tx)
    devices = targets.target(target)
    layout = Layout(_mesh(devices, mesh), rules, shard_state, frozen_rules, offload_state)
    start = jax.eval_shape(lambda: initial_state(task, tx, seed=0))
    spec = StepSpec.of(task, tx, start, task.batches(0))
    state, batch = spec.shapes
    if batch_size(batch) % (parts := layout.mesh.shape.get("data", 1)):
        raise ValueError(f"a batch of {batch_size(batch)} examples cannot be split along data:{parts}")
    places = state_shardings(state, layout)
    rest = {"params": None, "frozen": None}

    def named(arguments: tuple[Any, Any]) -> dict[str, Any]:
        state, batch = arguments
        frozen = {} if state.frozen is None else {"frozen": state.frozen}
        return {"parameters": state.params, **frozen, "state": state._replace(**rest), "batch": batch}

    laid = _laid((state, batch), (places, jax.tree.map(lambda _: layout.batch, batch)))
    return _plan(devices, layout.mesh, laid, named, lambda: traced_step(spec, layout).lower())


def call(
    function: Callable[..., Any],
    arguments: Mapping[str, Any],
    target: str,
    *,
    mesh: str | None = None,
    specs: Mapping[str, Any] | None = None,
    donate: Sequence[str] = (),
) -> Plan:
    """Plan a call of any function of arrays, such as a training step of your own.

    Args:
        function: takes ``arguments`` by position, in their order. The compiler lays out its results.
        arguments: name → a tree of arrays or ``jax.ShapeDtypeStruct``.
        target: the devices, as in :func:`optimiz.plan.target`.
        mesh: names and sizes of the mesh's axes, such as ``"data:4,model:4"``; by default all devices lie along
            ``data``.
        specs: argument → a tree of ``PartitionSpec``, or one for the whole argument; by default it is
            replicated on every device.
        donate: arguments whose memory the results may reuse.

    Returns:
        The plan of one call.

    Raises:
        ValueError: target and mesh do not match, or ``specs`` or ``donate`` names an unknown argument.
        ModuleNotFoundError: the target's compiler is not installed.

    Example:
        >>> import jax.numpy as jnp
        >>> x = jax.ShapeDtypeStruct((1024, 1024), jnp.float32)
        >>> call(lambda x: 2 * x, {"x": x}, "cpu", donate=["x"]).bound
        8388608
    """
    specs = specs or {}
    for name, given in (("specs", specs), ("donate", donate)):
        if unknown := [each for each in given if each not in arguments]:
            raise ValueError(f"{name} must name arguments ({', '.join(arguments)}), got {unknown[0]!r}")
    devices = targets.target(target)
    laid_on = _mesh(devices, mesh)
    laid = {}
    for name, tree in arguments.items():
        spec = specs.get(name, P())
        spec = jax.tree.map(lambda _: spec, tree) if isinstance(spec, P) else spec  # noqa: B023
        shardings = jax.tree.map(lambda s: NamedSharding(laid_on, s), spec, is_leaf=lambda s: isinstance(s, P))
        laid[name] = _laid(tree, shardings)
    return _plan_of(devices, laid_on, function, laid, donate)


def _mesh(devices: targets.Target, mesh: str | None) -> Mesh:
    return make_mesh(mesh or f"data:{len(devices.devices)}", devices.devices)


def _laid(tree: Any, shardings: Any) -> Any:
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings)


def _plan_of(
    devices: targets.Target,
    mesh: Mesh,
    function: Callable[..., Any],
    arguments: Mapping[str, Any],
    donate: Sequence[str],
    out_shardings: Any = None,
) -> Plan:
    names, laid = list(arguments), tuple(arguments.values())
    jitted = jax.jit(function, donate_argnums=tuple(map(names.index, donate)), out_shardings=out_shardings)

    def lower() -> jax.stages.Lowered:
        with use_abstract_mesh(mesh.abstract_mesh):  # for an optimizer that asks, as in a step of training
            return jitted.lower(*laid)

    return _plan(devices, mesh, laid, lambda trees: dict(zip(names, trees, strict=True)), lower)


def _plan(
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


def _size(size: int | None) -> str:
    if size is None:
        return "unknown"
    for unit, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if size >= unit:
            return f"{size / unit:.2f} {name}"
    return f"{size} B"


def _range(moved: Traffic) -> str:
    if moved.least == moved.greatest:
        return _size(moved.greatest)
    return f"{_size(moved.least)} to {_size(moved.greatest)}"
