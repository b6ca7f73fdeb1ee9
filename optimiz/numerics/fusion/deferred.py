"""Arrays that are computed entry by entry, deferred until it is known which loops need them.

Nearly all of an update is computed entry by entry from a gradient, parameters and state. Where two loops need
an array in between, such as a direction whose norm is summed before the direction is scaled, XLA holds it in
memory. A deferred array is the equations that lead to it from arrays that are in memory. Each sum over it
evaluates those equations again, as one loop that writes nothing.

Of equal parameters the equations are equal too. They become calls of one function, which is traced and lowered
once. The functions that make such arrays are in ``optimiz.numerics.fusion.followed``.
"""

import dataclasses
import functools
from collections.abc import Callable, Collection, Hashable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.extend import core

from optimiz.numerics.fusion.equations import results_of

# An array with fewer entries is held, not computed twice.
LARGE = 1 << 14


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


def hold(array: Deferred) -> Deferred:
    """Compute an array as a result, which is in memory in any case.

    Args:
        array: deferred; it is held from now on.

    Returns:
        The same array for what follows. A CPU reads it from memory. On an accelerator it is computed again,
        which XLA does there in the loop that writes the result, so that less is moved.
    """
    materialise(array)
    array.held = True
    if array.equation is None or not _is_large(array):
        return array
    again = Deferred(None, False, array.equation, array.operands)
    [equation] = jax.make_jaxpr(_held_on_cpu)(array.value, array.value).jaxpr.eqns
    return Deferred(None, False, equation, [array, again])


@jax.jit
def _held_on_cpu(held: jax.Array, again: jax.Array) -> jax.Array:
    return jax.lax.platform_dependent(held, again, cpu=lambda x, _: x, default=lambda _, x: x)


def apart(arrays: Sequence[Deferred]) -> list[Deferred]:
    """The same arrays, computed together, without sharing anything with others that are computed."""
    order = _equations(arrays)
    if not order:
        return list(arrays)
    held = list(dict.fromkeys(x for each in order for x in each.operands if x.held))
    large = list(filter(_is_large, held))
    user = 1 + max((x.users for x in large), default=0)
    for x in large:
        x.users = user
    results = [x for x in large if x.equation is not None]  # of hold: no accelerator reads them here
    given = [x for x in held if x not in results]
    # With their scalars, see rule 1.
    values, on_cpu = [jnp.asarray(x.value) for x in given], [x.value for x in results]
    for _ in range(user):  # XLA merges two barriers with the same operands
        values, on_cpu = jax.lax.optimization_barrier(values), list(map(_barrier_on_cpu, on_cpu))
    copies = dict(zip([*given, *results], map(Deferred, [*values, *on_cpu]), strict=True))
    for each in order:
        copies[each] = Deferred(None, False, each.equation, [copies[x] for x in each.operands])
    return [array if array.held else copies[array] for array in arrays]


@jax.jit
def _barrier_on_cpu(x: jax.Array) -> jax.Array:
    return jax.lax.platform_dependent(x, cpu=jax.lax.optimization_barrier, default=lambda x: x)


def materialised_apart(array: Deferred) -> Any:
    """The value of an array, computed without sharing anything with others."""
    return materialise(apart([array])[0])


def after_sums(flag: jax.Array, arrays: Sequence[Deferred], given: Sequence[Any]) -> jax.Array:
    """The same boolean, which XLA has only after the sums that are needed for some arrays, such as their norms.

    What is selected by it can then take the place in memory of what the sums were read from.

    Args:
        flag: a boolean scalar.
        arrays: deferred.
        given: what they are computed from in the end, and no sum: gradients, parameters, state.
    """
    known = {id(x) for x in given}
    needed = dict.fromkeys(x for array in arrays for x in _held_for(array) if id(x.value) not in known)
    # An order of data, as XLA drops a barrier before it orders loops. It does not see that all of it is true.
    return jnp.all(jnp.stack([flag, *(_always(x.value) for x in needed if _may_be_sum(x))]))


def _may_be_sum(array: Deferred) -> bool:
    """Whether an array is as a sum over the blocks of a parameter is; scalars come from counters."""
    x = array.value
    small = isinstance(x, Tracer) and x.ndim > 0 and not _is_large(array)
    return small and bool(jnp.issubdtype(x.dtype, jnp.floating))


@jax.jit
def _always(x: jax.Array) -> jax.Array:
    return jnp.all((jax.lax.bitcast_convert_type(x, jnp.uint8) | 1) != 0)


def behind_a_barrier(array: Deferred) -> Deferred:
    """The same array, with nothing computed across ``jax.lax.optimization_barrier``."""
    return Deferred(jax.lax.optimization_barrier(array.value)) if array.held else apart([array])[0]


def shape_of(array: Deferred) -> tuple[int, ...]:
    """The shape of an array, whether it is computed yet or not."""
    if array.equation is None:
        return jnp.shape(array.value)
    result: Any = array.equation.outvars[0].aval
    return result.shape


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
        >>> from optimiz.numerics import deferred
        >>> reduced(lambda x: [jnp.max(x)], deferred(lambda x: [2 * x])(jnp.array([1.0, 3.0])))
        [Array(6., dtype=float32)]
    """
    results: list[Any] = [None] * len(arrays)
    for members in _reading_the_same(arrays):
        values = materialise(apart([arrays[i] for i in members]))
        given = ([each[i] for i in members] for each in others)
        for i, result in zip(members, reduction(*values, *given), strict=True):
            results[i] = result
    return results


def _reading_the_same(arrays: Sequence[Deferred]) -> list[list[int]]:
    """Indices of arrays in groups; no two of one shape read the same large array in memory."""
    return _connected([{(x, shape_of(array)) for x in _held_for(array) if _is_large(x)} for array in arrays])


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
        >>> from optimiz.numerics import deferred
        >>> any_nan(deferred(lambda x: x - x)(jnp.array([1.0, jnp.inf]))).item()
        True
    """
    x = materialised_apart(array)
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


def _is_large(array: Deferred) -> bool:
    return jnp.size(array.value) >= LARGE


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
