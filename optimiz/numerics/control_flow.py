"""Branches and loops that compile nothing outside of ``jit``.

``jax.lax`` compiles a branch or a loop when it is called, even outside of ``jit``, once for each function. The
functions of an update close over its arrays and so are new at every update, which would be compiled, and
cached, each time. So if the predicate has a value, Python takes the branch; under ``vmap`` alone, both branches
run. Within ``jit`` the three functions are those of ``jax.lax``. Only a loop under ``vmap`` alone whose lanes
do not end together is still compiled.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.core import Tracer

from optimiz.numerics.dispatch import dispatched_once

T = TypeVar("T")


def is_staged() -> bool:
    """Whether computations here become part of a compiled program, as under ``jit`` or ``scan``.

    Under ``vmap`` or ``grad`` alone they do not, although arrays are traced.

    Example:
        >>> is_staged(), jax.jit(lambda: jnp.array(is_staged()))().item()
        (False, True)
    """
    return isinstance(_zero(), Tracer)


_zero = dispatched_once(lambda: jnp.zeros([]))


def cond(predicate: jax.Array, if_true: Callable[..., T], if_false: Callable[..., T], *operands: Any) -> T:
    """``jax.lax.cond``; see the module docstring.

    Example:
        >>> cond(jnp.array(1) > 0, lambda x: 2 * x, lambda x: x, 3)
        6
    """
    known = _value(predicate)
    if known is not None:
        return if_true(*operands) if known else if_false(*operands)
    if is_staged():
        return jax.lax.cond(predicate, if_true, if_false, *operands)
    return jax.tree.map(lambda a, b: jnp.where(predicate, a, b), if_true(*operands), if_false(*operands))


def while_loop(goes_on: Callable[[T], jax.Array], body: Callable[[T], T], start: T) -> T:
    """``jax.lax.while_loop``; see the module docstring.

    Example:
        >>> while_loop(lambda x: x < 10, lambda x: 2 * x, jnp.array(3)).item()
        12
    """
    carry = start
    while known := _value(goes_on(carry)):
        carry = body(carry)
    return carry if known is False else jax.lax.while_loop(goes_on, body, carry)


def fori_loop(times: jax.Array | int, body: Callable[[jax.Array, T], T], start: T) -> T:
    """``jax.lax.fori_loop`` from 0; see the module docstring.

    Example:
        >>> fori_loop(4, lambda i, total: total + i, jnp.array(0)).item()
        6
    """
    if is_staged() or isinstance(times, Tracer):
        return jax.lax.fori_loop(jnp.int32(0), jnp.asarray(times, jnp.int32), body, start)
    for i in range(int(times)):
        start = body(jnp.int32(i), start)
    return start


def _value(predicate: jax.Array) -> bool | None:
    """The predicate's value, or None if it is not known yet."""
    if not isinstance(predicate, Tracer):
        return bool(predicate)
    try:
        return bool(predicate)  # within grad alone
    except jax.errors.ConcretizationTypeError:
        return None
