"""Arrays that are computed entry by entry, kept as recipes until one knows what needs them.

Nearly all of an update is computed entry by entry, of a gradient, parameters and state. Where two loops need
one array in between, such as a direction whose norm is summed before it is scaled, XLA holds it in memory for
them: a parameter's bytes are written, and read again, to save a few operations per entry. Here such an array is
a recipe: the equations that lead to it from arrays that are in memory. Each sum over it follows the recipe
anew, and becomes one loop that writes nothing.

A function is traced once. What is not computed entry by entry (sums, products of matrices, loops, callbacks)
is computed once and in order, as it would be without this page; in a branch recipes are followed within.
"""

import dataclasses
import math
from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.extend import core

from optimiz.numerics.control_flow import is_staged

# Entries: what has fewer is held, rather than computed twice.
_LARGE = 1 << 14

# Each entry of the result is made of one entry of every operand. What is not named here is computed once: that
# may cost memory, and is right all the same.
_NAMES = (
    "abs add and bitcast_convert_type broadcast_in_dim cbrt ceil clamp complex conj convert_element_type copy "
    "cos div eq erf exp exp2 expm1 floor ge gt imag integer_pow iota is_finite le log log1p logistic lt max "
    "min mul ne neg not or pow pvary real reduce_precision rem reshape round rsqrt select_n shift_left "
    "shift_right_arithmetic shift_right_logical sign sin sqrt square squeeze sub tan tanh xor"
)
_ENTRY_BY_ENTRY = frozenset(_NAMES.split())


@dataclasses.dataclass(eq=False)
class Recipe:
    """An array, or how it is computed."""

    value: Any = None  # the array; None while it is not made
    held: bool = True  # whether it is in memory in any case
    equation: core.JaxprEqn | None = None
    operands: Sequence["Recipe"] = ()
    users: int = 0  # of those that compute something of this array for themselves, how many there are


def recipes(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, whose results are recipes.

    Args:
        function: of pytrees of arrays, to a pytree of arrays. It may close over anything.

    Returns:
        A function to the tree of results, with a :class:`Recipe` for each. Where nothing is compiled there is
        no compiler to be told anything: the arrays are made at once.

    Example:
        >>> [recipe] = recipes(lambda x: [2 * x])(jnp.array([1.0, 3.0]))
        >>> made(recipe).tolist()
        [2.0, 6.0]
    """
    return _traced(function, keep=False)


def lean(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, in which no large array is held for two loops, unless it is a result.

    A result is made as soon as it is known, and what follows from it is computed of it. So a new moment can
    take the place of the old one in memory, before the direction is read off the new one.

    Args:
        function: see :func:`recipes`.

    Returns:
        A function with the same results, to rounding.

    Example:
        >>> lean(lambda x: x / jnp.sum(x))(jnp.array([1.0, 3.0])).tolist()
        [0.25, 0.75]
    """
    traced = _traced(function, keep=True)
    return lambda *args: made(traced(*args))


def made(tree: Any) -> Any:
    """A tree of recipes as one of arrays. What several have in common is computed once."""
    for recipe in _in_order(jax.tree.leaves(tree), lambda x: x.value is not None):
        recipe.value = _computed(recipe, [x.value for x in recipe.operands])
    return jax.tree.map(lambda recipe: recipe.value, tree)


def any_nan(recipe: Recipe) -> jax.Array:
    """Whether an array of zeros and NaN holds a NaN, found out in one loop that writes nothing.

    Args:
        recipe: of the array, real or complex, of any shape.

    Example:
        >>> any_nan(recipes(lambda x: x - x)(jnp.array([1.0, jnp.inf]))).item()
        True
    """
    x = _made_apart(recipe)
    if jnp.iscomplexobj(x):
        x = x.real + x.imag
    if x.ndim == 0:
        return jnp.isnan(x)

    # For a sum, or for one of the two, XLA may hold what it is taken of. Both in one loop take in anything.
    infinity = jnp.asarray(jnp.inf, x.dtype)
    least, most = jax.lax.reduce((x, x), (infinity, -infinity), _least_and_most, (x.ndim - 1,))
    return jnp.any(jnp.isnan(least) | jnp.isnan(most))


# Not within: JAX knows by the function whether it has compiled a reduction.
def _least_and_most(a: Any, b: Any) -> tuple[jax.Array, jax.Array]:
    return jnp.minimum(a[0], b[0]), jnp.maximum(a[1], b[1])


def _traced(function: Callable[..., Any], keep: bool) -> Callable[..., Any]:
    def traced(*args: Any) -> Any:
        if not (any(isinstance(x, Tracer) for x in jax.tree.leaves(args)) and is_staged()):
            return jax.tree.map(Recipe, function(*args))
        closed, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
        kept = closed.jaxpr.outvars if keep else ()
        results = _followed(closed, [Recipe(x) for x in jax.tree.leaves(args)], kept)
        return jax.tree.unflatten(jax.tree.structure(shapes), results)

    return traced


def _followed(
    closed: core.ClosedJaxpr,
    operands: Sequence[Recipe],
    kept: Collection[Any] = (),
) -> list[Recipe]:
    """The results of a traced function; what it does other than entry by entry is done here.

    Args:
        closed: the function.
        operands: its arguments.
        kept: variables that are held in memory once they are known.
    """
    jaxpr = closed.jaxpr
    known = dict(zip(jaxpr.constvars, map(Recipe, closed.consts), strict=True))
    known |= dict(zip(jaxpr.invars, operands, strict=True))
    kept = {variable for variable in kept if not isinstance(variable, core.Literal)}

    def read(atom: Any) -> Recipe:
        return Recipe(atom.val) if isinstance(atom, core.Literal) else known[atom]

    for equation in jaxpr.eqns:
        given, name = [read(atom) for atom in equation.invars], equation.primitive.name
        unmade = any(not recipe.held for recipe in given)
        if name in ("jit", "pjit") and not _is_laid_out(equation):
            inner = equation.params["jaxpr"]
            pairs = zip(inner.jaxpr.outvars, equation.outvars, strict=True)
            kept_within = [within for within, without in pairs if without in kept]
            results = _followed(inner, given, kept_within)
        elif name == "cond" and unmade:
            results = _branched(equation, given)
        elif name == "optimization_barrier" and unmade:
            results = [Recipe(jax.lax.optimization_barrier(x.value)) if x.held else _apart(x) for x in given]
        elif name in _ENTRY_BY_ENTRY and math.prod(equation.outvars[0].aval.shape) >= _LARGE:
            results = [Recipe(None, False, equation, given)]
        else:
            results = list(map(Recipe, _results(equation, [_made_apart(recipe) for recipe in given])))
        for variable, recipe in zip(equation.outvars, results, strict=True):
            known[variable] = recipe
            if variable in kept:
                _hold(recipe)
    return [read(atom) for atom in jaxpr.outvars]


def _branched(equation: core.JaxprEqn, operands: Sequence[Recipe]) -> list[Recipe]:
    """The results of the branch taken. Recipes are followed in it: before it, they would be made for all."""
    index, *given = operands

    def taken(branch: core.ClosedJaxpr) -> Callable[[], list[jax.Array]]:
        return lambda: [_made_apart(recipe) for recipe in _followed(branch, given)]

    return list(map(Recipe, jax.lax.switch(index.value, [taken(b) for b in equation.params["branches"]])))


def _apart(recipe: Recipe) -> Recipe:
    """The same recipe, which shares nothing that it computes with any other."""
    if recipe.held:
        return recipe
    order = _equations(recipe)
    held = list(dict.fromkeys(x for each in order for x in each.operands if x.held))
    large = [x for x in held if jnp.size(x.value) >= _LARGE]
    user = 1 + max((x.users for x in large), default=0)
    for x in large:
        x.users = user
    # Scalars too: one that several loops have in common would be held in memory, broadcast to their shape.
    values = [jnp.asarray(x.value) for x in held]
    for _ in range(user):  # XLA takes two barriers in front of the same arrays for one
        values = jax.lax.optimization_barrier(values)
    copies = dict(zip(held, map(Recipe, values), strict=True))
    for each in order:
        copies[each] = Recipe(None, False, each.equation, [copies[x] for x in each.operands])
    return copies[recipe]


def _made_apart(recipe: Recipe) -> Any:
    return made(_apart(recipe))


def _hold(recipe: Recipe) -> None:
    made(recipe)
    recipe.held = True


def _equations(recipe: Recipe) -> list[Recipe]:
    """What is to be computed for a recipe of what is in memory."""
    return _in_order([recipe], lambda x: x.held)


def _in_order(wanted: Sequence[Recipe], is_done: Callable[[Recipe], bool]) -> list[Recipe]:
    """What is not done of some recipes and of all that they need, each after its operands."""
    order: dict[Recipe, None] = {}
    stack = [*wanted]
    while stack:
        recipe = stack.pop()
        if recipe in order or is_done(recipe):
            continue
        waiting = [x for x in recipe.operands if x not in order and not is_done(x)]
        if waiting:
            stack += [recipe, *waiting]
        else:
            order[recipe] = None
    return list(order)


def _computed(recipe: Recipe, operands: Sequence[Any]) -> Any:
    assert recipe.equation is not None
    [result] = _results(recipe.equation, operands)
    return result


def _results(equation: core.JaxprEqn, operands: Sequence[Any]) -> list[Any]:
    with equation.ctx.manager:
        results = equation.primitive.bind(*operands, **equation.primitive.get_bind_params(equation.params))
    return list(results) if equation.primitive.multiple_results else [results]


def _is_laid_out(equation: core.JaxprEqn) -> bool:
    """Whether a jitted function says where its operands or its results are to be."""
    layouts = (*equation.params["in_shardings"], *equation.params["out_shardings"])
    return any(isinstance(layout, jax.sharding.Sharding) for layout in layouts)
