"""The equations of a traced function, evaluated one by one."""

from collections.abc import Sequence
from typing import Any

import jax
from jax.extend import core


def results_of(equation: core.JaxprEqn, operands: Sequence[Any]) -> list[Any]:
    """Evaluate an equation; traceable.

    Args:
        equation: an equation of a ``jax.make_jaxpr``.
        operands: a value for each of its operands.

    Returns:
        A value for each of its results.

    Example:
        >>> [equation] = jax.make_jaxpr(lambda x: x + x)(1.0).jaxpr.eqns
        >>> [float(x) for x in results_of(equation, [3.0, 4.0])]
        [7.0]
    """
    with equation.ctx.manager:
        results = equation.primitive.bind(*operands, **equation.primitive.get_bind_params(equation.params))
    return list(results) if equation.primitive.multiple_results else [results]


def inlined(equation: core.JaxprEqn) -> core.ClosedJaxpr | None:
    """The function that an equation calls, if its equations may stand in place of the call.

    Args:
        equation: an equation of a ``jax.make_jaxpr``.

    Returns:
        The function of a ``jit`` that specifies no sharding of an operand or a result; None for anything else.
    """
    if equation.primitive.name not in ("jit", "pjit"):
        return None
    layouts = (*equation.params["in_shardings"], *equation.params["out_shardings"])
    laid_out = any(isinstance(layout, jax.sharding.Sharding) for layout in layouts)
    return None if laid_out else equation.params["jaxpr"]
