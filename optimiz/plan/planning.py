"""What an optimizer's update, or a whole training step, costs on given devices, by their own compiler.

Nothing runs and no parameter is allocated: shapes are compiled ahead of time, on any machine. A plan describes
the compiled program on one device: the memory it holds, the bytes it moves, its kernels and its collectives. It
does not measure time; the bytes moved, divided by the device's bandwidth, give a lower bound.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from optimiz import checks, numerics
from optimiz.plan import targets
from optimiz.plan.compiled import plan_of_call, plan_of_program
from optimiz.plan.plan import Plan
from optimiz.training import Layout, Task, make_mesh
from optimiz.training.compiled_step import traced_step
from optimiz.training.distributed.offload import offloaded
from optimiz.training.step import StepSpec
from optimiz.training.task import batch_size
from optimiz.training.train_state import initial_state, state_shardings


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
    return plan_of_call(devices, layout.mesh, offloaded(step), arguments, ("parameters", "state"), shardings)


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
    return plan_of_program(devices, layout.mesh, laid, named, lambda: traced_step(spec, layout).lower())


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
    return plan_of_call(devices, laid_on, function, laid, donate)


def _mesh(devices: targets.Target, mesh: str | None) -> Mesh:
    return make_mesh(mesh or f"data:{len(devices.devices)}", devices.devices)


def _laid(tree: Any, shardings: Any) -> Any:
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings)
