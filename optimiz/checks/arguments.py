"""Checks of hyperparameters, when a transformation is built."""

import math
import numbers
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer

from optimiz.checks.misplaced import OfProgress, bound, described, makes_things, uncalled

_FEW_BITS = (jnp.bfloat16, jnp.float16)
_IN_FLOAT32 = "; under optax.inject_hyperparams give hyperparam_dtype=jnp.float32"
_LARGEST_COUNT = 2**31 - 1  # updates are counted in int32


def number(
    name: str,
    value: Any,
    *,
    ge: float = -math.inf,
    gt: float = -math.inf,
    le: float = math.inf,
    lt: float = math.inf,
    typical: float | None = None,
) -> None:
    """Check that a scalar hyperparameter is a finite number within its bounds.

    Args:
        name: the argument's name, for the message.
        value: a Python, NumPy or JAX scalar; a traced value passes unchecked.
        ge: lower bound, included.
        gt: lower bound, excluded.
        le: upper bound, included.
        lt: upper bound, excluded.
        typical: a usual value, near 0 or 1. A dtype that rounds it to 0 or 1 is refused, even if traced.

    Raises:
        TypeError: ``value`` is not a scalar number, such as the string ``"1e-3"``.
        ValueError: ``value`` is NaN, infinite, outside the bounds, or of a dtype that cannot hold usual values.
    """
    if isinstance(value, Tracer):
        _not_rounded_away(name, value, typical)
        return
    if not _is_real(value):
        raise TypeError(f"{name} must be a number, got {_in_place_of_a_number(name, value)}")
    x, low, high = float(value), max(ge, gt), min(le, lt)
    if not (math.isfinite(x) and ge <= x <= le and gt < x < lt):
        left = "(" if gt >= ge else "["
        right = ")" if lt <= le else "]"
        raise ValueError(f"{name} must be in {left}{low:g}, {high:g}{right}, got {value}{_of_few_bits(value)}")
    _not_rounded_away(name, value, typical)


def _is_real(value: Any) -> bool:
    if isinstance(value, int | float):
        return not isinstance(value, bool)
    is_scalar = isinstance(value, np.ndarray | np.generic | jax.Array) and np.ndim(value) == 0
    return is_scalar and any(jnp.issubdtype(value.dtype, kind) for kind in (jnp.integer, jnp.floating))


def _in_place_of_a_number(name: str, value: Any) -> str:
    if not callable(value) or makes_things(value):
        return described(value)
    what = described(value) if isinstance(value, OfProgress) else "a function"
    return f"{what}; optax.inject_hyperparams takes a schedule for {name}"


def _not_rounded_away(name: str, value: Any, typical: float | None) -> None:
    dtype = getattr(value, "dtype", None)
    if typical is None or dtype not in _FEW_BITS:
        return
    rounded = float(np.asarray(typical, dtype))
    if rounded in (0, 1) and (isinstance(value, Tracer) or float(value) == rounded):
        raise ValueError(f"{name} must not be {dtype}, in which {typical:g} is {rounded:g}{_IN_FLOAT32}")


def _of_few_bits(value: Any) -> str:
    """What to do if rounding has moved a valid number outside its domain."""
    dtype = getattr(value, "dtype", None)
    return f", in {dtype}{_IN_FLOAT32}" if dtype in _FEW_BITS else ""


def integer(name: str, value: Any, *, ge: int) -> None:
    """Check that a number of steps is an integer that an int32 counter can reach.

    Args:
        name: the argument's name, for the message.
        value: a Python, NumPy or JAX integer; a traced value passes unchecked.
        ge: lower bound, included.

    Raises:
        TypeError: ``value`` is not an integer scalar.
        ValueError: ``value`` is less than ``ge``, or greater than 2^31 - 1.
    """
    if isinstance(value, Tracer):
        return
    is_array = isinstance(value, (np.ndarray, jax.Array)) and np.ndim(value) == 0
    integral = jnp.issubdtype(value.dtype, jnp.integer) if is_array else isinstance(value, numbers.Integral)
    if isinstance(value, bool) or not integral:
        raise TypeError(f"{name} must be an integer, got {described(value)}")
    if not ge <= int(value) <= _LARGEST_COUNT:
        raise ValueError(f"{name} must be in [{ge}, {_LARGEST_COUNT}], got {value}")


def static(name: str, value: Any, argument: str | None = None) -> None:
    """Check that an argument that must be known when the transformation is built is not an array.

    Args:
        name: name for the message.
        value: the argument.
        argument: name of the optimizer's argument; None for ``name``.

    Raises:
        TypeError: ``value`` is an array.
    """
    if isinstance(value, jax.Array):
        argument = argument or name
        where = f'static_args=("{argument}",)' if argument.isidentifier() else "static_args"
        raise TypeError(
            f"{name} must be known when the optimizer is built, got an array, {jax.typeof(value)}. "
            "optax.inject_hyperparams makes one of every number and of all that can be called: name it in "
            f"{where}"
        )


def floating(name: str, dtype: jax.typing.DTypeLike | None) -> None:
    """Check that the dtype of a statistic is floating point, or None.

    Raises:
        TypeError: ``dtype`` is not floating point (an integer would round an average to 0), or is an array.
    """
    static(name, dtype)
    if dtype is not None and not jnp.issubdtype(dtype, jnp.inexact):
        raise TypeError(
            f"{name} must be floating point, got {jnp.dtype(dtype).name}; optimiz.low_bit has eight bits"
        )


def key(name: str, value: Any) -> None:
    """Check that an argument is a random key, typed or as the data of a threefry key, or an integer seed.

    Raises:
        TypeError: ``value`` is neither.
        ValueError: ``value`` is a seed that is negative or greater than 2^31 - 1.
    """
    dtype, shape = getattr(value, "dtype", None), np.shape(value)
    typed = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key) and shape == ()
    if not (typed or (dtype == jnp.uint32 and shape == (2,))):
        integer(f"{name}, unless a random key,", value, ge=0)


def schedule(name: str, value: optax.ScalarOrSchedule) -> Callable[[jax.typing.ArrayLike], jax.Array]:
    """Check a hyperparameter that may be a schedule, and turn a number into one.

    Args:
        name: the argument's name, for the message.
        value: a number ≥ 0, or a schedule of the 0-based update count.

    Returns:
        A schedule whose values are arrays of shape ().

    Raises:
        TypeError: ``value`` is neither callable nor a number; it is a shape that is not bound to steps, or a
            function that returns schedules; or, when the schedule is called, its value is not a number.
        ValueError: ``value`` is NaN, infinite or negative; or, when the schedule is called, its value is not a
            scalar.
    """
    bound(name, value)
    uncalled(name, value)
    if not callable(value):
        number(name, value, ge=0)

    def at(count: jax.typing.ArrayLike) -> jax.Array:
        try:
            scalar = value(count) if callable(value) else value
        except TypeError as error:
            error.add_note(f"{name} is a schedule, and so is called with the update count alone")
            raise
        if callable(scalar):
            raise TypeError(
                f"{name} must be a schedule, a function of the update count; it returned {scalar!r}"
            )
        try:
            array = jnp.asarray(scalar) if callable(value) else _array(scalar)
        except (TypeError, ValueError):
            array = None
        if array is None or jnp.issubdtype(array.dtype, jnp.complexfloating):
            raise TypeError(f"{name} must be a schedule, a function to a number; it returned {scalar!r}")
        if array.shape != ():
            raise ValueError(f"{name} must be a scalar at each step, got shape {array.shape}")
        return array

    return at


_array = jax.jit(lambda number: number, inline=True)  # ten times as fast as jnp.asarray outside of jit


def at_first(name: str, at: Callable[[jax.typing.ArrayLike], jax.Array]) -> jax.Array:
    """The value of a schedule at the first update, which ``init`` checks.

    Args:
        name: the argument's name, for the message.
        at: schedule that :func:`schedule` returned.

    Raises:
        ValueError: the value is NaN, infinite or negative.
    """
    value = at(jnp.zeros([], jnp.int32))
    number(f"{name} at the first update", value, ge=0)
    return value


def one_of(name: str, value: Any, allowed: Sequence[Any]) -> None:
    """Check that an argument is one of a few values.

    Raises:
        ValueError: ``value`` is not allowed.
        TypeError: ``value`` is an array.
    """
    static(name, value)
    if not any(value is choice or value == choice for choice in allowed):
        choices = ", ".join(repr(choice) for choice in allowed)
        raise ValueError(f"{name} must be one of {choices}, got {value!r}")


def either(name: str, value: Any, other_name: str, other: Any) -> Any:
    """The value of an argument that has two names, or None.

    Raises:
        ValueError: both names are given.
    """
    if value is not None and other is not None:
        raise ValueError(f"{name} and {other_name} are the same thing; give one of them")
    return other if value is None else value


def is_zero(value: Any) -> bool:
    """Whether a hyperparameter is known to be zero at construction; a traced one is not."""
    return isinstance(value, (int, float)) and value == 0
