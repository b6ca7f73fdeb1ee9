"""Branches and loops that compile nothing where nothing is compiled.

``jax.lax`` compiles a branch or a loop when it is called, also outside of ``jit``, once for each pair of
functions. Those of an update are new at every update, for they close over its arrays: an update would be
compiled each time, and what was compiled be kept. So where the predicate has a value Python takes the branch,
and where ``vmap`` alone gives it several both are taken, as ``vmap`` has it. Within ``jit`` the three are
``jax.lax``'s own. What is left is a loop within ``vmap`` alone whose lanes do not end together.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.core import Tracer

from optimiz.numerics.dispatch import dispatched_once

T = TypeVar("T")


def is_staged() -> bool:
    """Whether what is computed here becomes part of a program: within ``jit``, ``scan`` and their like.

    Within ``vmap`` or ``grad`` alone it does not, although arrays are traced.

    Example:
        >>> is_staged(), jax.jit(lambda: jnp.array(is_staged()))().item()
        (False, True)
    """
    return isinstance(_zero(), Tracer)


_zero = dispatched_once(lambda: jnp.zeros([]))


def cond(predicate: jax.Array, if_true: Callable[..., T], if_false: Callable[..., T], *operands: Any) -> T:
    """``jax.lax.cond``, see above.

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
    """``jax.lax.while_loop``, see above.

    Example:
        >>> while_loop(lambda x: x < 10, lambda x: 2 * x, jnp.array(3)).item()
        12
    """
    carry = start
    while known := _value(goes_on(carry)):
        carry = body(carry)
    return carry if known is False else jax.lax.while_loop(goes_on, body, carry)


def fori_loop(times: jax.Array | int, body: Callable[[jax.Array, T], T], start: T) -> T:
    """``jax.lax.fori_loop`` from an int32 0, see above.

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
    """The predicate's value, or None where it has none yet."""
    if not isinstance(predicate, Tracer):
        return bool(predicate)
    try:
        return bool(predicate)  # within grad alone
    except jax.errors.ConcretizationTypeError:
        return None
