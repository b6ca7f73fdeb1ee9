"""Arguments of the wrong kind: a shape instead of a schedule, a function instead of its result."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any


class OfProgress:
    """A function of a run's progress from 0 to 1, which becomes a schedule when bound to steps or a budget."""


class OfCount:
    """A schedule made by binding a shape."""


BINDING = "schedules.over_steps(shape, steps=…) or schedules.over_budget(shape)"

# Parameters of functions of this suite that are used as they are, not called to return what is used.
_USED_UNCALLED = {"params", "updates", "count"}


def uncalled(name: str, value: Any) -> None:
    """Check that an argument is not a class, or a function that should have been called.

    Args:
        name: the argument's name, for the message.
        value: the argument. Only functions of this suite and of Optax's schedules are recognized.

    Raises:
        TypeError: ``value`` is one.
    """
    if makes_things(value):
        raise TypeError(f"{name} got {described(value)}")


def bound(name: str, value: Any) -> None:
    """Check that an argument is not a shape that is not bound to steps or to a budget.

    Raises:
        TypeError: ``value`` is one.
    """
    if isinstance(value, OfProgress):
        raise TypeError(
            f"{name} must be a number or a schedule, a function of the update count; got a shape, a function "
            f"of a run's progress. Bind it: {BINDING}"
        )


def transformation(name: str, value: Any) -> None:
    """Check that an argument is a transformation, not the function that returns it.

    Args:
        name: the argument's name, for the message.
        value: anything with ``init`` and ``update``, such as an ``optax.GradientTransformation``.

    Raises:
        TypeError: ``value`` is not a transformation.
    """
    methods = (getattr(value, method, None) for method in ("init", "update"))
    if isinstance(value, type) or not all(map(callable, methods)):
        raise TypeError(
            f"{name} must be an optimizer or another optax.GradientTransformation, got {described(value)}"
        )


def kinds(expected: Mapping[str, tuple[Any, Any, str]]) -> None:
    """Check the types of several arguments.

    Args:
        expected: value, type or types, and a description of the type, by the argument's name.

    Raises:
        TypeError: an argument has another type; the message names the first.
    """
    for name, (value, kind, description) in expected.items():
        if not isinstance(value, kind):
            raise TypeError(f"{name} must be {description}; got {value!r}")


def makes_things(value: Any) -> bool:
    """Whether a value is a class, or a function of this suite or of Optax's schedules that should be called."""
    if isinstance(value, type):
        return True
    if not inspect.isfunction(value) or value.__qualname__ != value.__name__:
        return False
    known = str(value.__module__).startswith(("optimiz.", "optax.schedules."))  # None for what eval made
    return known and not _USED_UNCALLED & inspect.signature(value).parameters.keys()


def described(value: Any) -> str:
    """A value in a message: a function with the parentheses to add, a long representation cut off."""
    if isinstance(value, type) or inspect.isroutine(value):
        kind = "class" if isinstance(value, type) else "function"
        call = f"{value.__name__}({'…' if _needs_arguments(value) else ''})"
        return f"the {kind} {value.__name__} itself; call it: {call}"
    if isinstance(value, OfProgress):
        return f"a shape, a function of the progress of a run; bound, as {BINDING}, it is a schedule"
    shown = repr(value)
    return (shown if len(shown) <= 200 else f"{shown[:200]}…") + f" of type {type(value).__name__}"


def _needs_arguments(function: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return True
    return any(p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters)
