"""Decoding and encoding as single operations of a traced program, that a kernel can take over.

What they compile to by themselves is the arithmetic of the format. They exist only while :func:`tracing`.
"""

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from jax import core as core_types
from jax.extend import core
from jax.interpreters import ad, batching, mlir

_TRACING: contextvars.ContextVar[Any] = contextvars.ContextVar("tracing", default=None)


@contextlib.contextmanager
def tracing() -> Iterator[None]:
    """Within it, ``low_bit`` traces these operations instead of their arithmetic."""
    token = _TRACING.set(core.get_opaque_trace_state())
    try:
        yield
    finally:
        _TRACING.reset(token)


def is_traced() -> bool:
    """Whether the caller is within :func:`tracing`, but not in a branch, loop or function traced apart."""
    return _TRACING.get() is not None and _TRACING.get() == core.get_opaque_trace_state()


def operation(name: str, function: Callable[..., Sequence[jax.Array]]) -> core.Primitive:
    """An operation that is compiled, batched and differentiated as a function.

    Args:
        name: its name.
        function: a function from arrays, and static arguments by name, to a sequence of arrays.
    """
    primitive = core.Primitive(name)
    primitive.multiple_results = True

    @primitive.def_abstract_eval
    def shapes(*operands, **static):
        results = jax.eval_shape(functools.partial(function, **static), *operands)
        return [core_types.ShapedArray(each.shape, each.dtype) for each in results]

    def batched(operands, axes, **static):
        results = jax.vmap(functools.partial(function, **static), axes)(*operands)
        return results, [0] * len(results)

    def differentiated(operands, tangents, **static):
        tangents = list(map(ad.instantiate_zeros, tangents))
        return jax.jvp(functools.partial(function, **static), operands, tangents)

    mlir.register_lowering(primitive, mlir.lower_fun(function))
    batching.primitive_batchers[primitive] = batched
    ad.primitive_jvps[primitive] = differentiated
    return primitive


def _decoded(codes: jax.Array, scales: jax.Array, *, fmt: Any, shape: tuple[int, ...]) -> list[jax.Array]:
    return [fmt.decode(codes, scales, jax.ShapeDtypeStruct(shape, jax.numpy.float32))]


DECODE = operation("decode_blocks", _decoded)
SCALE = operation("scale_blocks", lambda x, fmt: fmt.scales(x))
CODE = operation("code_blocks", lambda x, scales, salt, fmt: [fmt.codes(x, scales, salt)])


def decoded(fmt: Any, codes: jax.Array, scales: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """``fmt.decode`` as an operation, of codes of an array of a shape."""
    return DECODE.bind(codes, scales, fmt=fmt, shape=shape)[0]


def encoded(fmt: Any, x: jax.Array, salt: jax.Array) -> tuple[jax.Array, jax.Array]:
    """``fmt.encode`` as two operations; see there."""
    [scales] = SCALE.bind(x, fmt=fmt)
    return CODE.bind(x, scales, salt, fmt=fmt)[0], scales
