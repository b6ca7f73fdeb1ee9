"""The update of one parameter as one operation: a kernel on a TPU or a GPU, and elsewhere two passes.

The first pass finds the scales, from statistics that are computed for them alone; the second computes these
again, with the codes and the parameter (``numerics.fusion``, rule 1).
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend import core
from jax.interpreters import mlir
from jax.sharding import NamedSharding

from optimiz.numerics.block_kernels.in_parts import in_parts, part_of, with_whole_blocks
from optimiz.numerics.block_kernels.on_tile import leaf_of, tiles_of_byte
from optimiz.numerics.block_kernels.ops import CODE, SCALE, operation
from optimiz.numerics.fusion import rematerialise, results_of


def update_leaf(
    jaxpr: core.ClosedJaxpr,
    aliases: Sequence[tuple[int, int]],
    arguments: Sequence[jax.Array],
    sharding: NamedSharding | None = None,
) -> list[jax.Array]:
    """Evaluate the program of one parameter.

    Args:
        jaxpr: of block operations and operations entry by entry.
        aliases: pairs of an argument and a result that may take its memory.
        arguments: those of the program.
        sharding: how a mesh splits the codes; None if that is unknown, or they are on one device.
    """
    if leaf_of(jaxpr) is None:
        return in_two_passes(jaxpr, arguments)
    layout = None if sharding is None else (sharding.mesh.abstract_mesh, sharding.spec)
    return _LEAF.bind(*arguments, jaxpr=jaxpr, aliases=tuple(aliases), layout=layout)


def in_two_passes(jaxpr: core.ClosedJaxpr, arguments: Sequence[jax.Array]) -> list[jax.Array]:
    """Evaluate the program of one parameter without a kernel."""
    equations = jaxpr.jaxpr.eqns
    for_scales = [each for each in equations if each.primitive is SCALE]
    largest = {each.invars[0] for each in for_scales}
    known: dict[Any, Any] = {}
    if for_scales:
        statistics = _evaluated(jaxpr, rematerialise(list(arguments)), known, largest)
        groups: dict[Any, list[Any]] = {}
        for each in for_scales:
            groups.setdefault((each.params["fmt"], each.invars[0].aval.shape), []).append(each)
        for (fmt, _), members in groups.items():
            scales = fmt.scales(*(statistics[each.invars[0]] for each in members))
            known |= zip((each.outvars[0] for each in members), scales, strict=True)
    packed = {each.outvars[0] for each in equations if each.primitive is CODE and each.params["fmt"].packed}
    if packed:
        # Codes of another shape than the updates are made in another loop, for which XLA would hold statistics.
        codes = _evaluated(jaxpr, rematerialise(list(arguments)), known, packed)
        known |= {each: codes[each] for each in packed}
    values = _evaluated(jaxpr, arguments, known, set(jaxpr.jaxpr.outvars))
    return [values[each] for each in jaxpr.jaxpr.outvars]


def on_tiles(
    kernel: Any,
    jaxpr: core.ClosedJaxpr,
    aliases: Sequence[tuple[int, int]],
    arguments: Sequence[jax.Array],
    origin: Sequence[jax.Array] = (),
    **options: Any,
) -> list[jax.Array]:
    """Evaluate the program of one parameter in a kernel.

    Args:
        kernel: the page of the kernel, such as ``gpu``.
        jaxpr: a program that ``leaf_of`` knows.
        aliases: pairs of an argument and a result that takes its memory.
        arguments: those of the program, or a device's part of each.
        origin: place of the part in the array, int32 scalars; empty for whole arrays.
        **options: of the kernel.
    """
    leaf = leaf_of(jaxpr)
    assert leaf is not None
    shape, fmt = leaf
    return kernel.call(jaxpr, aliases, shape, fmt.size(shape), arguments, origin, **options)


def _evaluated(
    jaxpr: core.ClosedJaxpr, arguments: Sequence[Any], known: dict[Any, Any], wanted: set[Any]
) -> dict[Any, Any]:
    """The values of variables of a program, from those that are known, without what they do not need."""
    needed = set(wanted)
    for equation in reversed(jaxpr.jaxpr.eqns):
        if equation.outvars[0] in needed and equation.outvars[0] not in known:
            needed |= {v for v in equation.invars if not isinstance(v, core.Literal)}
    values = dict(known)
    values |= zip(jaxpr.jaxpr.constvars, jaxpr.consts, strict=True)
    values |= zip(jaxpr.jaxpr.invars, arguments, strict=True)
    for equation in jaxpr.jaxpr.eqns:
        if equation.outvars[0] in needed and equation.outvars[0] not in known:
            operands = [v.val if isinstance(v, core.Literal) else values[v] for v in equation.invars]
            values |= zip(equation.outvars, results_of(equation, operands), strict=True)
    return values


def _pure(*arguments, jaxpr, aliases, layout):
    del aliases, layout
    return in_two_passes(jaxpr, arguments)


_LEAF = operation("low_bit_leaf", _pure)


def _in_kernel(*arguments, jaxpr, aliases, layout, kernel):
    del layout
    return on_tiles(kernel, jaxpr, aliases, arguments)


def _in_parts(*arguments, jaxpr, aliases, layout, kernel):
    mesh, spec = layout
    leaf = leaf_of(jaxpr)
    assert leaf is not None
    run = functools.partial(on_tiles, kernel, jaxpr, aliases)
    return in_parts(run, jaxpr, leaf[0], mesh, spec, arguments)


def _kernel_for(platform: str, shape: tuple[int, ...], block: int) -> Any:
    """The page of the kernel that suits an array, or a part of one; None if none does."""
    # Imported late, because Pallas takes half a second.
    if platform == "tpu":
        from optimiz.numerics.block_kernels import tpu, tpu_turned

        kernels = (tpu, tpu_turned)
    else:
        from optimiz.numerics.block_kernels import gpu

        kernels = (gpu,)
    return next((each for each in kernels if each.suits(shape, block)), None)


_lower_pure = mlir.lower_fun(_pure)


def _lowering(platform: str) -> Callable[..., Any]:
    def lower(ctx, *arguments, jaxpr, aliases, layout):
        leaf = leaf_of(jaxpr)
        assert leaf is not None
        shape, fmt = leaf
        block, chosen = fmt.size(shape), _lower_pure
        if _is_on_one_device(ctx.module_context.axis_context):
            if kernel := _kernel_for(platform, shape, block):
                chosen = mlir.lower_fun(functools.partial(_in_kernel, kernel=kernel))
        elif layout is not None:
            mesh, given = layout
            spec = with_whole_blocks(given, shape, block * tiles_of_byte(jaxpr), mesh.shape)
            kernel = spec and _kernel_for(platform, part_of(shape, spec, mesh.shape), block)
            if kernel:
                chosen, layout = mlir.lower_fun(functools.partial(_in_parts, kernel=kernel)), (mesh, spec)
        static = {"jaxpr": jaxpr, "aliases": aliases, "layout": layout}
        try:
            return chosen(ctx, *arguments, **static)
        except NotImplementedError:  # Triton lacks some operations, such as jax.lax.erf
            return _lower_pure(ctx, *arguments, **static)

    return lower


def _is_on_one_device(context: Any) -> bool:
    """Whether what is lowered runs on one device: of one, or within ``shard_map`` or ``pmap``."""
    mesh, manual = getattr(context, "mesh", None), getattr(context, "manual_axes", ())
    if mesh is not None:
        return mesh.size == 1 or set(mesh.axis_names) == set(manual)
    return getattr(context, "num_devices", 1) in (None, 1)


mlir.register_lowering(_LEAF, _lowering("tpu"), platform="tpu")
mlir.register_lowering(_LEAF, _lowering("gpu"), platform="cuda")
