"""Arrays that are computed entry by entry, deferred until it is known which loops need them.

Nearly all of an update is computed entry by entry from a gradient, parameters and state. Where two loops need
an array in between, such as a direction whose norm is summed before the direction is scaled, XLA holds it in
memory. A deferred array is the equations that lead to it from arrays that are in memory. Each sum over it
evaluates those equations again, as one loop that writes nothing.

A function is traced once. What is not computed entry by entry (sums, matrix products, loops, callbacks) is
computed once and in order; branches are followed inside.

Of equal parameters the equations are equal too. They become calls of one function, which is traced and lowered
once; so do calls on scalars that a function makes by ``jit``.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Collection, Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.extend import core

from optimiz.numerics.control_flow import is_staged
from optimiz.numerics.fusion.equations import inlined, results_of

# An array with fewer entries is held, not computed twice.
_LARGE = 1 << 14

# Each entry of the result depends on one entry of every operand. An operation that is missing here is computed
# once, which may cost memory and is still correct.
_NAMES = (
    "abs add and bitcast_convert_type broadcast_in_dim cbrt ceil clamp complex conj convert_element_type copy "
    "cos div eq erf exp exp2 expm1 floor ge gt imag integer_pow iota is_finite le log log1p logistic lt max "
    "min mul ne neg not or pow pvary real reduce_precision rem reshape round rsqrt select_n shift_left slice "
    "shift_right_arithmetic shift_right_logical sign sin sqrt square squeeze sub tan tanh xor"
)
_ENTRY_BY_ENTRY = frozenset(_NAMES.split())
# Deferred as well, by the size of what they read or make; see numerics.block_kernels.
_BLOCK_BY_BLOCK = frozenset(("decode_blocks", "scale_blocks", "code_blocks"))


@dataclasses.dataclass(eq=False)
class Deferred:
    """An array, or the equation that computes it.

    Attributes:
        value: the array; None until it is materialised.
        held: whether it is in memory in any case.
        equation: the equation that computes it; None for an array that is given.
        operands: what the equation takes.
        users: number of computations that rematerialise this array.
    """

    value: Any = None
    held: bool = True
    equation: core.JaxprEqn | None = None
    operands: Sequence["Deferred"] = ()
    users: int = 0


def deferred(function: Callable[..., Any]) -> Callable[..., Any]:
    """Defer the results of a function.

    Args:
        function: a function from pytrees of arrays to a pytree of arrays. It may close over anything.

    Returns:
        A function to the tree of results, with a :class:`Deferred` for each. Outside of ``jit`` the arrays are
        computed at once.

    Example:
        >>> [array] = deferred(lambda x: [2 * x])(jnp.array([1.0, 3.0]))
        >>> materialise(array).tolist()
        [2.0, 6.0]
    """
    return _traced(function, keep=False)


def given(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compute the results of a function at once; arguments and results as for :func:`deferred`.

    Example:
        >>> [array] = given(lambda x: [2 * x])(jnp.array([1.0, 3.0]))
        >>> materialise(array).tolist()
        [2.0, 6.0]
    """
    return lambda *args: jax.tree.map(Deferred, function(*args))


def low_memory(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let a function hold no large array for two loops, unless the array is a result.

    A result is computed as soon as its equation is reached, and what follows is computed from it. So a new
    moment can take the place of the old one in memory before the direction is read off the new one.

    Args:
        function: a function from pytrees of arrays to a pytree of arrays. It may close over anything.

    Returns:
        A function with the same results, up to rounding.

    Example:
        >>> low_memory(lambda x: x / jnp.sum(x))(jnp.array([1.0, 3.0])).tolist()
        [0.25, 0.75]
    """
    traced = _traced(function, keep=True)
    return lambda *args: materialise(traced(*args))


def materialise(tree: Any) -> Any:
    """Compute deferred arrays; what several have in common is computed once.

    Args:
        tree: a pytree of :class:`Deferred`.

    Returns:
        The tree of arrays.
    """
    wanted = list(dict.fromkeys(x for x in jax.tree.leaves(tree) if x.value is None))
    for members in _connected([_pending([array]) for array in wanted]):
        arrays = [wanted[i] for i in members]
        for array, value in zip(arrays, _computed_together(arrays), strict=True):
            array.value = value
    return jax.tree.map(lambda array: array.value, tree)


def reduced(
    reduction: Callable[..., Sequence[Any]], arrays: Sequence[Deferred], *others: Sequence[Any]
) -> list[Any]:
    """Reduce arrays that are computed for this alone; they are computed again where they are materialised.

    Args:
        reduction: a function of arrays of one shape, with one result for each. It is called with those that
            read the same arrays of a parameter's size, such as the moments of one parameter.
        arrays: deferred.
        *others: further arguments for each array; the function gets a list of each, after its arrays.

    Returns:
        The results, of a loop that does not write the arrays to memory.

    Example:
        >>> reduced(lambda x: [jnp.max(x)], deferred(lambda x: [2 * x])(jnp.array([1.0, 3.0])))
        [Array(6., dtype=float32)]
    """
    results: list[Any] = [None] * len(arrays)
    for members in _reading_the_same(arrays):
        values = materialise(_apart([arrays[i] for i in members]))
        given = ([each[i] for i in members] for each in others)
        for i, result in zip(members, reduction(*values, *given), strict=True):
            results[i] = result
    return results


def _reading_the_same(arrays: Sequence[Deferred]) -> list[list[int]]:
    """Indices of arrays in groups; no two of one shape read the same large array in memory."""
    return _connected([{(x, _shape(array)) for x in _held_for(array) if _is_large(x)} for array in arrays])


def _shape(array: Deferred) -> tuple[int, ...]:
    if array.equation is None:
        return jnp.shape(array.value)
    result: Any = array.equation.outvars[0].aval
    return result.shape


def programs(arrays: Sequence[Deferred]) -> list[tuple[list[int], core.ClosedJaxpr, list[Any]]]:
    """The computations that remain, one for each group of arrays that read the same arrays in memory.

    Args:
        arrays: deferred.

    Returns:
        For each group, the indices of its arrays, the function that computes them, and its arguments. Arrays
        that are in memory are in no group.
    """
    remaining = [i for i, array in enumerate(arrays) if not array.held]
    groups = _connected([[x for x in _held_for(arrays[i]) if jnp.ndim(x.value)] for i in remaining])
    return [_program([remaining[i] for i in group], arrays) for group in groups]


def _program(members: list[int], arrays: Sequence[Deferred]) -> tuple[list[int], core.ClosedJaxpr, list[Any]]:
    order = _equations([arrays[i] for i in members])
    held = dict.fromkeys(x for each in order for x in each.operands if isinstance(x.value, jax.Array))

    def function(*values: Any) -> list[Any]:
        known: dict[Deferred, Any] = dict(zip(held, values, strict=True))
        for each in order:
            operands = [known.get(x, x.value) for x in each.operands]
            known[each] = _computed(each, operands)
        return [known[arrays[i]] for i in members]

    given = [x.value for x in held]
    return members, jax.make_jaxpr(function)(*given), given


def any_nan(array: Deferred) -> jax.Array:
    """Whether an array of zeros and NaN holds a NaN, in one loop that writes nothing.

    Args:
        array: deferred, real or complex, of any shape.

    Returns:
        A boolean scalar.

    Example:
        >>> any_nan(deferred(lambda x: x - x)(jnp.array([1.0, jnp.inf]))).item()
        True
    """
    x = _materialise_apart(array)
    if jnp.iscomplexobj(x):
        x = x.real + x.imag
    return jnp.isnan(x) if x.ndim == 0 else _any_nan(x)


@jax.jit
def _any_nan(x: jax.Array) -> jax.Array:
    return jax.lax.platform_dependent(x, cpu=_any_nan_of_pairs, default=_nan_in_sum)


def _nan_in_sum(x: jax.Array) -> jax.Array:
    return jnp.isnan(jnp.sum(x))


def _any_nan_of_pairs(x: jax.Array) -> jax.Array:
    # For a sum, or for one of the two alone, XLA may hold the array on a CPU. A reduction to a pair is fused
    # with anything. For an H200 it takes a third longer to compile than a sum, in a guard of 28 matrices.
    infinity = jnp.asarray(jnp.inf, x.dtype)
    least, most = jax.lax.reduce((x, x), (infinity, -infinity), _least_and_most, (x.ndim - 1,))
    return jnp.any(jnp.isnan(least) | jnp.isnan(most))


# At module level, because JAX compiles a reduction once per function.
def _least_and_most(a: Any, b: Any) -> tuple[jax.Array, jax.Array]:
    return jnp.minimum(a[0], b[0]), jnp.maximum(a[1], b[1])


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
            results = [_behind_a_barrier(x) for x in given]
        elif _is_deferred(equation) or _is_of_scales(equation, given):
            results = [Deferred(None, False, equation, given)]
        else:
            results = list(map(Deferred, results_of(equation, [_materialise_apart(array) for array in given])))
        for variable, array in zip(equation.outvars, results, strict=True):
            known[variable] = array
            if variable in kept:
                _hold(array)
    return [read(atom) for atom in jaxpr.outvars]


def _is_deferred(equation: core.JaxprEqn) -> bool:
    by_block = equation.primitive.name in _BLOCK_BY_BLOCK
    codes = equation.invars[:1] if by_block else []
    return (by_block or is_entry_by_entry(equation)) and _any_large([*equation.outvars, *codes])


def _any_large(atoms: Sequence[Any]) -> bool:
    return any(math.prod(atom.aval.shape) >= _LARGE for atom in atoms)


def _is_of_scales(equation: core.JaxprEqn, operands: Sequence[Deferred]) -> bool:
    """Whether an operation goes on with what is not computed yet, and small: the scales of blocks."""
    shapes = [_shape(x) for x in operands if not x.held]
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
        return lambda: [_materialise_apart(array) for array in _followed(branch, given)]

    return list(map(Deferred, jax.lax.switch(index.value, [taken(b) for b in equation.params["branches"]])))


def _apart(arrays: Sequence[Deferred]) -> list[Deferred]:
    """The same arrays, computed together, without sharing anything with others."""
    order = _equations(arrays)
    if not order:
        return list(arrays)
    held = list(dict.fromkeys(x for each in order for x in each.operands if x.held))
    large = list(filter(_is_large, held))
    user = 1 + max((x.users for x in large), default=0)
    for x in large:
        x.users = user
    # With their scalars, see rule 1.
    values = [jnp.asarray(x.value) for x in held]
    for _ in range(user):  # XLA merges two barriers with the same operands
        values = jax.lax.optimization_barrier(values)
    copies = dict(zip(held, map(Deferred, values), strict=True))
    for each in order:
        copies[each] = Deferred(None, False, each.equation, [copies[x] for x in each.operands])
    return [array if array.held else copies[array] for array in arrays]


def _is_large(array: Deferred) -> bool:
    return jnp.size(array.value) >= _LARGE


def _behind_a_barrier(array: Deferred) -> Deferred:
    return Deferred(jax.lax.optimization_barrier(array.value)) if array.held else _apart([array])[0]


def _materialise_apart(array: Deferred) -> Any:
    return materialise(_apart([array])[0])


def _hold(array: Deferred) -> None:
    materialise(array)
    array.held = True


def _equations(arrays: Sequence[Deferred]) -> list[Deferred]:
    """What remains to be computed for some arrays, from arrays that are in memory."""
    return _in_order(arrays, lambda x: x.held)


def _in_order(wanted: Sequence[Deferred], is_done: Callable[[Deferred], bool]) -> list[Deferred]:
    """Some arrays and all that they need, without those that are done, each after its operands."""
    order: dict[Deferred, None] = {}
    stack = [*wanted]
    while stack:
        array = stack.pop()
        if array in order or is_done(array):
            continue
        waiting = [x for x in array.operands if x not in order and not is_done(x)]
        if waiting:
            stack += [array, *waiting]
        else:
            order[array] = None
    return list(order)


def _pending(arrays: Sequence[Deferred]) -> list[Deferred]:
    """What has no value yet of some arrays and of all that they need."""
    return _in_order(arrays, lambda x: x.value is not None)


def _held_for(array: Deferred) -> list[Deferred]:
    """The arrays in memory that an array is computed from."""
    return [x for each in _equations([array]) for x in each.operands if x.held]


def _connected(collections: Sequence[Collection[Any]]) -> list[list[int]]:
    """Indices of collections in groups; those of two groups have no element in common."""
    owner: dict[Any, tuple[set[Any], list[int]]] = {}
    groups: list[list[int]] = []
    for i, each in enumerate(collections):
        elements, members = set(each), [i]
        for others, theirs in {id(owner[x]): owner[x] for x in each if x in owner}.values():
            elements |= others
            members += theirs
            theirs.clear()
        owner |= dict.fromkeys(elements, (elements, members))
        groups.append(members)
    return [sorted(members) for members in groups if members]


def _computed_together(wanted: Sequence[Deferred]) -> list[Any]:
    """The values of arrays, by a function that is traced once for all parameters that need the same one."""
    order = _pending(wanted)
    given = list(dict.fromkeys(x for each in order for x in each.operands if x.value is not None))
    places = {x: i for i, x in enumerate((*given, *order))}
    steps = tuple(_Step.of(each, [places[x] for x in each.operands]) for each in order)
    return _function_of(steps, tuple(places[x] for x in wanted))(*(x.value for x in given))


@dataclasses.dataclass(frozen=True)
class _Step:
    """An equation of a function; its operands are places among the function's arguments and steps.

    Two steps are equal if they do the same: ``what`` they do, to the same ``operands``.
    """

    equation: core.JaxprEqn = dataclasses.field(compare=False)
    what: Hashable
    operands: tuple[int, ...]

    @classmethod
    def of(cls, array: Deferred, operands: Sequence[int]) -> "_Step":
        equation = array.equation
        assert equation is not None
        what = equation.primitive, tuple(sorted(equation.params.items())), equation.ctx
        return cls(equation, what, tuple(operands))


@functools.lru_cache(maxsize=1024)
def _function_of(steps: tuple[_Step, ...], results: tuple[int, ...]) -> Callable[..., list[Any]]:
    def function(*values: Any) -> list[Any]:
        known = list(values)
        for step in steps:
            known += results_of(step.equation, [known[i] for i in step.operands])
        return [known[i] for i in results]

    return jax.jit(function)


def _computed(array: Deferred, operands: Sequence[Any]) -> Any:
    assert array.equation is not None
    [result] = results_of(array.equation, operands)
    return result
