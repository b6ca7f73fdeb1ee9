"""Refuse bad arguments by name, where the transform is built or traced.

Two kinds of mistake are caught before anything changes: a hyperparameter outside its domain, when the
transform is built, and a gradient tree that does not fit the parameters, when the update is traced. A
hyperparameter that is itself traced (under ``vmap``, ``jit`` or ``optax.inject_hyperparams``) has no value
yet and passes.
"""

import math
import numbers
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer

_LARGEST_COUNT = 2**31 - 1  # updates are counted in int32


def number(
    name: str,
    value: Any,
    *,
    ge: float = -math.inf,
    gt: float = -math.inf,
    le: float = math.inf,
    lt: float = math.inf,
) -> None:
    """Check that a scalar hyperparameter is a finite number within its bounds.

    Args:
        name: the argument's name, for the message.
        value: a Python, NumPy or JAX scalar; a traced value passes unchecked.
        ge: lower bound, included.
        gt: lower bound, excluded.
        le: upper bound, included.
        lt: upper bound, excluded.

    Raises:
        TypeError: ``value`` is not a scalar number (a string such as ``"1e-3"``, for one).
        ValueError: ``value`` is NaN, infinite, or outside the bounds.
    """
    if isinstance(value, Tracer):
        return
    is_array = isinstance(value, (np.ndarray, jax.Array)) and np.ndim(value) == 0
    if isinstance(value, (bool, np.bool_)) or not (is_array or isinstance(value, numbers.Real)):
        raise TypeError(f"{name} must be a number, got {value!r} of type {type(value).__name__}")
    x, low, high = float(value), max(ge, gt), min(le, lt)
    if not (math.isfinite(x) and ge <= x <= le and gt < x < lt):
        left = "(" if gt >= ge else "["
        right = ")" if lt <= le else "]"
        raise ValueError(f"{name} must be in {left}{low:g}, {high:g}{right}, got {value}")


def integer(name: str, value: Any, *, ge: int) -> None:
    """Check that a number of steps is an integer that an int32 counter can reach.

    Args:
        name: the argument's name, for the message.
        value: a Python, NumPy or JAX integer; a traced value passes unchecked.
        ge: lower bound, included.

    Raises:
        TypeError: ``value`` is not an integer scalar.
        ValueError: it is less than ``ge``, or more than 2^31 - 1.
    """
    if isinstance(value, Tracer):
        return
    is_array = isinstance(value, (np.ndarray, jax.Array)) and np.ndim(value) == 0
    integral = jnp.issubdtype(value.dtype, jnp.integer) if is_array else isinstance(value, numbers.Integral)
    if isinstance(value, bool) or not integral:
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if not ge <= int(value) <= _LARGEST_COUNT:
        raise ValueError(f"{name} must be in [{ge}, {_LARGEST_COUNT}], got {value}")


def key(name: str, value: Any) -> None:
    """Check that an argument is a random key, typed or the data of a threefry key, or an integer seed for one.

    Raises:
        TypeError: it is neither.
        ValueError: it is a seed that is negative or more than 2^31 - 1.
    """
    dtype, shape = getattr(value, "dtype", None), np.shape(value)
    typed = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key) and shape == ()
    if not (typed or (dtype == jnp.uint32 and shape == (2,))):
        integer(f"{name}, unless a random key,", value, ge=0)


def schedule(name: str, value: optax.ScalarOrSchedule) -> Callable[[jax.Array], jax.Array]:
    """Check a hyperparameter that may vary over the run, and make it a schedule if it does not.

    Args:
        name: the argument's name, for the message.
        value: a number that is not negative, or a schedule from the 0-based update count to a scalar.

    Returns:
        A schedule whose values are arrays of shape ().

    Raises:
        TypeError: ``value`` is neither callable nor a number.
        ValueError: it is NaN, infinite or negative; or, when the schedule is called, its value is not a
            scalar.
    """
    if not callable(value):
        number(name, value, ge=0)

    def at(count: jax.Array) -> jax.Array:
        scalar = jnp.asarray(value(count) if callable(value) else value)
        if scalar.shape != ():
            raise ValueError(f"{name} must be a scalar at each step, got shape {scalar.shape}")
        return scalar

    return at


def one_of(name: str, value: Any, allowed: Sequence[Any]) -> None:
    """Check that an argument is one of a few values.

    Raises:
        ValueError: it is not.
    """
    if not any(value is choice or value == choice for choice in allowed):
        choices = ", ".join(repr(choice) for choice in allowed)
        raise ValueError(f"{name} must be one of {choices}, got {value!r}")


def either(name: str, value: Any, other_name: str, other: Any) -> Any:
    """The one of two arguments for the same thing that was given, or None.

    Raises:
        ValueError: both were given.
    """
    if value is not None and other is not None:
        raise ValueError(f"{name} and {other_name} are the same thing; give one of them")
    return other if value is None else value


def is_zero(value: Any) -> bool:
    """Whether a hyperparameter is known, at construction, to be zero; a traced one is not."""
    return isinstance(value, (int, float)) and value == 0


def needs_params(params: optax.Params | None) -> None:
    """Check that ``update`` was given the parameters.

    Raises:
        ValueError: it was not.
    """
    if params is None:
        raise ValueError("this transformation needs the parameters: update(updates, state, params)")


def needs_loss(params: optax.Params, value: Any, grad: Any, value_fn: Any) -> None:
    """Check that ``update`` was given the extra arguments of a line search.

    Args:
        params: the parameters.
        value: the loss.
        grad: its gradient.
        value_fn: parameters → the loss.

    Raises:
        TypeError: ``value_fn`` is no function.
        ValueError: an argument is missing; ``value`` is not a scalar; or parameters are masked and ``value_fn``
            does not fill them in.
    """
    given = {"value": value, "grad": grad, "value_fn": value_fn}
    missing = [name for name, argument in given.items() if argument is None]
    if missing:
        raise ValueError(
            f"a line search needs {', '.join(missing)}: "
            "update(grads, state, params, value=value, grad=grads, value_fn=loss_of_params)"
        )
    if not callable(value_fn):
        raise TypeError(f"value_fn must be a function from parameters to the loss, got {value_fn!r}")
    if jnp.shape(value) != ():
        raise ValueError(f"value must be a scalar, got shape {jnp.shape(value)}")
    masked = any(
        isinstance(x, optax.MaskedNode)
        for x in jax.tree.leaves(params, is_leaf=lambda x: isinstance(x, optax.MaskedNode))
    )
    if masked and not getattr(value_fn, "fills_in_masked", False):
        raise ValueError(
            "a line search inside optax.masked or optax.partition would call value_fn without the masked "
            "parameters; put it around them, or use groups.freeze"
        )


def same_on_devices(name: str, x: jax.Array) -> None:
    """Check, where its type tells, that an array does not differ from device to device.

    Raises:
        ValueError: it does, over a mesh axis of ``jax.shard_map``.
    """
    kind: Any = jax.typeof(x)
    varying = kind.mat.varying if hasattr(kind, "mat") else kind.vma  # vma in JAX 0.9
    if varying:
        axes = ", ".join(sorted(varying))
        raise ValueError(f"{name} differs over the mesh axis {axes}; reduce it first, with jax.lax.pmean")


def same_shapes(name: str, tree: Any, reference_name: str, reference: Any) -> None:
    """Check that two trees have one structure and, leaf by leaf, one shape.

    Optax broadcasts a gradient of shape (1,) over a parameter of shape (4,) without a word; here it is an
    error, raised while tracing and so free at run time.

    Args:
        name: what ``tree`` is, for the message.
        tree: a pytree of arrays.
        reference_name: what ``reference`` is, for the message.
        reference: a pytree of arrays with the wanted structure and shapes.

    Raises:
        ValueError: naming the first path at which they differ.
    """
    leaves = dict(jax.tree_util.tree_leaves_with_path(tree))
    wanted = dict(jax.tree_util.tree_leaves_with_path(reference))
    for path in sorted(leaves.keys() ^ wanted.keys(), key=jax.tree_util.keystr):
        lacking, other = (reference_name, name) if path in leaves else (name, reference_name)
        if not path:
            raise ValueError(f"the {other} is a single array, but the {lacking} is a tree")
        raise ValueError(f"the {lacking} has no leaf at {jax.tree_util.keystr(path)}")
    for path, leaf in leaves.items():
        if np.shape(leaf) != np.shape(wanted[path]):
            at = f" at {jax.tree_util.keystr(path)}" if path else ""
            raise ValueError(
                f"the {name}{at} has shape {np.shape(leaf)}, but the {reference_name} has shape "
                f"{np.shape(wanted[path])}"
            )
