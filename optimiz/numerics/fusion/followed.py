"""Functions whose results are deferred: what they compute entry by entry waits, all else is computed at once.

A function is traced once. What is not computed entry by entry (sums, matrix products, loops, callbacks) is
computed once and in order; branches are followed inside.
"""

import math
from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax
from jax.core import Tracer
from jax.extend import core

from optimiz.numerics.control_flow import is_staged
from optimiz.numerics.fusion.deferred import (
    LARGE,
    Deferred,
    behind_a_barrier,
    hold,
    materialise,
    materialised_apart,
    shape_of,
)
from optimiz.numerics.fusion.equations import inlined, results_of

# Each entry of the result depends on one entry of every operand. An operation that is missing here is computed
# once, which may cost memory and is still correct.
_NAMES = (
    "abs add and atan2 bitcast_convert_type broadcast_in_dim cbrt ceil clamp complex conj "
    "convert_element_type copy cos div eq erf exp exp2 expm1 floor ge gt imag integer_pow iota is_finite le "
    "log log1p logistic lt max min mul ne neg not or pow pvary real reduce_precision rem reshape round rsqrt "
    "select_n shift_left slice shift_right_arithmetic shift_right_logical sign sin sqrt square squeeze sub "
    "tan tanh xor"
)
_ENTRY_BY_ENTRY = frozenset(_NAMES.split())
# Deferred as well, by the size of what they read or make; see numerics.block_kernels.
_BLOCK_BY_BLOCK = frozenset(("decode_blocks", "scale_blocks", "code_blocks"))


def deferred(function: Callable[..., Any]) -> Callable[..., Any]:
    """Defer the results of a function.

    Args:
        function: a function from pytrees of arrays to a pytree of arrays. It may close over anything.

    Returns:
        A function to the tree of results, with a :class:`Deferred` for each. Outside of ``jit`` the arrays are
        computed at once.

    Example:
        >>> [array] = deferred(lambda x: [2 * x])(jax.numpy.array([1.0, 3.0]))
        >>> materialise(array).tolist()
        [2.0, 6.0]
    """
    return _traced(function, keep=False)


def given(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compute the results of a function at once; arguments and results as for :func:`deferred`.

    Example:
        >>> [array] = given(lambda x: [2 * x])(jax.numpy.array([1.0, 3.0]))
        >>> materialise(array).tolist()
        [2.0, 6.0]
    """
    return lambda *args: jax.tree.map(Deferred, function(*args))


def low_memory(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let a function hold no large array for two loops, unless the array is a result.

    On a CPU a result is computed as soon as its equation is reached, and what follows is computed from it. So
    a new moment can take the place of the old one in memory before the direction is read off the new one.

    Args:
        function: a function from pytrees of arrays to a pytree of arrays. It may close over anything.

    Returns:
        A function with the same results, up to rounding.

    Example:
        >>> low_memory(lambda x: x / x.sum())(jax.numpy.array([1.0, 3.0])).tolist()
        [0.25, 0.75]
    """
    traced = _traced(function, keep=True)
    return lambda *args: materialise(traced(*args))


def _traced(function: Callable[..., Any], keep: bool) -> Callable[..., Any]:
    def traced(*args: Any) -> Any:
        if not (any(isinstance(x, Tracer) for x in jax.tree.leaves(args)) and is_staged()):
            return jax.tree.map(Deferred, function(*args))
        closed, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
        kept = closed.jaxpr.outvars if keep else ()
        results = _followed(closed, [Deferred(x) for x in jax.tree.leaves(args)], kept)
        return jax.tree.unflatten(jax.tree.structure(shapes), results)

    return traced


def _followed(
    closed: core.ClosedJaxpr,
    operands: Sequence[Deferred],
    kept: Collection[Any] = (),
) -> list[Deferred]:
    """The results of a traced function. What it does not compute entry by entry is computed here.

    Args:
        closed: the traced function.
        operands: its arguments.
        kept: variables that are held in memory once they are computed.
    """
    jaxpr = closed.jaxpr
    known = dict(zip(jaxpr.constvars, map(Deferred, closed.consts), strict=True))
    known |= dict(zip(jaxpr.invars, operands, strict=True))
    held: dict[Any, Deferred] = {}
    kept = {variable for variable in kept if not isinstance(variable, core.Literal)}

    def read(atom: Any) -> Deferred:
        return Deferred(atom.val) if isinstance(atom, core.Literal) else known[atom]

    for equation in jaxpr.eqns:
        given, name = [read(atom) for atom in equation.invars], equation.primitive.name
        pending = any(not array.held for array in given)
        large = _any_large([*equation.invars, *equation.outvars])
        inner = inlined(equation) if pending or large else None
        if inner is not None:
            pairs = zip(inner.jaxpr.outvars, equation.outvars, strict=True)
            kept_within = [within for within, without in pairs if without in kept]
            results = _followed(inner, given, kept_within)
        elif name == "cond" and pending and not is_entry_by_entry(equation):
            results = _branched(equation, given)
        elif name == "optimization_barrier" and pending:
            results = [behind_a_barrier(x) for x in given]
        elif _is_deferred(equation) or _is_of_scales(equation, given):
            results = [Deferred(None, False, equation, given)]
        else:
            results = list(map(Deferred, results_of(equation, [materialised_apart(array) for array in given])))
        for variable, array in zip(equation.outvars, results, strict=True):
            known[variable] = array
            if variable in kept:
                known[variable], held[variable] = hold(array), array
    known |= held
    return [read(atom) for atom in jaxpr.outvars]


def _is_deferred(equation: core.JaxprEqn) -> bool:
    by_block = equation.primitive.name in _BLOCK_BY_BLOCK
    codes = equation.invars[:1] if by_block else []
    return (by_block or is_entry_by_entry(equation)) and _any_large([*equation.outvars, *codes])


def _any_large(atoms: Sequence[Any]) -> bool:
    return any(math.prod(atom.aval.shape) >= LARGE for atom in atoms)


def _is_of_scales(equation: core.JaxprEqn, operands: Sequence[Deferred]) -> bool:
    """Whether an operation goes on with what is not computed yet, and small: the scales of blocks."""
    shapes = [shape_of(x) for x in operands if not x.held]
    avals: list[Any] = [x.aval for x in equation.outvars]
    return is_entry_by_entry(equation) and any(x.shape in shapes for x in avals)


def is_entry_by_entry(equation: core.JaxprEqn) -> bool:
    """Whether each entry of the result depends on one entry of every operand, as far as is known."""
    name = equation.primitive.name
    if name in ("jit", "pjit"):
        return all(map(is_entry_by_entry, equation.params["jaxpr"].jaxpr.eqns))
    if name == "cond" and equation.params.get("branches_platforms") and len(equation.outvars) == 1:
        # The branch is known once the program is compiled for a platform.
        return all(is_entry_by_entry(each) for b in equation.params["branches"] for each in b.jaxpr.eqns)
    return name in _ENTRY_BY_ENTRY


def _branched(equation: core.JaxprEqn, operands: Sequence[Deferred]) -> list[Deferred]:
    """The results of the branch that is taken; deferred operands are computed inside of it."""
    index, *given = operands

    def taken(branch: core.ClosedJaxpr) -> Callable[[], list[jax.Array]]:
        return lambda: [materialised_apart(array) for array in _followed(branch, given)]

    return list(map(Deferred, jax.lax.switch(index.value, [taken(b) for b in equation.params["branches"]])))
