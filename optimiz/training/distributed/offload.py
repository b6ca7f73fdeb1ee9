"""Keep an optimizer's state in the host's memory, and bring it to the device for its update, part by part.

Within a step, what the optimizer keeps for a parameter is copied to the device, updated and copied back. XLA
by itself starts all copies at once, so that the state takes more of the device's memory than if it had never
left: 12 bytes per parameter for AdamW, as it does not overwrite what it has fetched. Here the step is traced,
and its equations are evaluated parameter by parameter. The state of a parameter is fetched only when that of
the parameter before the last is on the host again, so that few are on the device at any time, and copies
overlap with updates. The smallest parameters come first: by the time that the largest state is fetched, the
gradients of the others have been freed.

An optimizer whose first result depends on all of its state, such as ``optimiz.guard``, which tests the whole
update before it makes any of it, has all of it on the device at once. So does an update within a branch or a
loop, such as that of ``optimiz.accumulate``. The results are the same.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend import core

from optimiz import numerics

_TURNS_AT_ONCE = 2  # with one, no copy overlaps with another


def offloaded(function: Callable[..., Any]) -> Callable[..., Any]:
    """A step that takes and returns arrays in the host's memory, from one that computes on the device.

    Args:
        function: a traceable function of pytrees of arrays. Its results begin with the new values of its
            arguments, in their order: of the leaves of its results, the k-th replaces the k-th leaf of its
            arguments if that one is in the host's memory.

    Returns:
        The function of the same arguments, to be jitted. What replaces an argument in the host's memory is
        there too.
    """

    @functools.wraps(function)
    def step(*args: Any) -> Any:
        leaves = jax.tree.leaves(args)
        if not any(map(numerics.is_on_host, leaves)):
            return function(*args)
        traced, shapes = jax.make_jaxpr(function, return_shape=True)(*jax.tree.map(_on_device_like, args))
        return jax.tree.unflatten(jax.tree.structure(shapes), _Turns(leaves).results(traced))

    return step


@dataclasses.dataclass(eq=False)
class _Value:
    """An array of the traced step; None until it is computed by its source."""

    array: Any = None
    source: "_Source | None" = None


@dataclasses.dataclass(eq=False)
class _Source:
    """What computes some values from others; once."""

    compute: Callable[..., Sequence[Any]]
    operands: Sequence[_Value]
    results: Sequence[_Value] = ()
    is_done: bool = False


class _Turns:
    """A step in evaluation. In each turn some of the state is fetched, updated and written back.

    Args:
        arguments: the leaves of the step's arguments.
    """

    def __init__(self, arguments: Sequence[jax.Array]):
        self._arguments = arguments
        self._fetched: list[int] = []  # in this turn, and not yet written back
        self._written: list[list[jax.Array]] = []  # by turn

    def results(self, traced: core.ClosedJaxpr) -> list[jax.Array]:
        """The leaves of the step's results."""
        operands = [
            _result_of(functools.partial(self._fetch, i)) if numerics.is_on_host(x) else _Value(x)
            for i, x in enumerate(self._arguments)
        ]
        values, effects = _graph(traced, operands)
        for source in effects:  # in their order
            _run(source)
        found: dict[int, jax.Array] = {}
        for i in self._order(traced.out_avals):
            if i not in found:
                array = _computed(values[i])
                found |= self._turn(values)
                found.setdefault(i, array)
        return [found[i] for i in range(len(values))]

    def _order(self, results: Sequence[Any]) -> list[int]:
        """Indices of the results; what stands behind the state, such as metrics, may depend on all of it."""
        last = max(i for i, x in enumerate(self._arguments) if numerics.is_on_host(x))
        return sorted(range(len(results)), key=lambda i: (i > last, getattr(results[i], "size", 0)))

    def _fetch(self, i: int) -> list[jax.Array]:
        self._fetched.append(i)
        array = self._arguments[i]
        if len(self._written) >= _TURNS_AT_ONCE:
            array, _ = jax.lax.optimization_barrier((array, self._written[-_TURNS_AT_ONCE]))
        return [jax.device_put(array, jax.memory.Space.Device)]

    def _turn(self, values: Sequence[_Value]) -> dict[int, jax.Array]:
        """Write back what has been fetched, and what had to be fetched for that."""
        back = {}
        while self._fetched:
            i = self._fetched.pop()
            back[i] = jax.device_put(_computed(values[i]), jax.memory.Space.Host)
        if back:
            self._written.append([*back.values()])
        return back


def _graph(traced: core.ClosedJaxpr, operands: Sequence[_Value]) -> tuple[list[_Value], list[_Source]]:
    """The results of a traced function, not yet computed, and what has effects."""
    known = dict(zip(traced.jaxpr.constvars, map(_Value, traced.consts), strict=True))
    known |= dict(zip(traced.jaxpr.invars, operands, strict=True))
    effects: list[_Source] = []

    def read(atom: Any) -> _Value:
        return _Value(atom.val) if isinstance(atom, core.Literal) else known[atom]

    for equation in traced.jaxpr.eqns:
        given = [read(atom) for atom in equation.invars]
        if (inner := numerics.inlined(equation)) is not None:
            results, within = _graph(inner, given)
            effects += within
        else:
            compute = functools.partial(lambda equation, *given: numerics.results_of(equation, given), equation)
            source = _Source(compute, given)
            source.results = results = [_Value(source=source) for _ in equation.outvars]
            effects += [source] if equation.effects else []
        known |= dict(zip(equation.outvars, results, strict=True))
    return [read(atom) for atom in traced.jaxpr.outvars], effects


def _result_of(compute: Callable[[], Sequence[Any]]) -> _Value:
    source = _Source(compute, ())
    value = _Value(source=source)
    source.results = [value]
    return value


def _computed(value: _Value) -> Any:
    if value.source is not None:
        _run(value.source)
    return value.array


def _run(wanted: _Source) -> None:
    """Compute the results of a source, after those that it needs."""
    stack = [wanted]
    while stack:
        source = stack[-1]
        needed = [x.source for x in source.operands if x.source is not None and not x.source.is_done]
        if needed:
            stack += needed
            continue
        stack.pop()
        if not source.is_done:
            source.is_done = True
            arrays = source.compute(*(x.array for x in source.operands))
            for value, array in zip(source.results, arrays, strict=True):
                value.array = array


def _on_device_like(x: Any) -> jax.ShapeDtypeStruct:
    aval = jax.typeof(x)
    return jax.ShapeDtypeStruct(aval.shape, aval.dtype, weak_type=aval.weak_type)
