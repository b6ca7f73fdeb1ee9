"""One thing given where another is meant: a shape for a schedule, a function for what it makes."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any


class OfProgress:
    """A function of a run's progress from 0 to 1: no schedule before it is bound to steps or to a budget."""


class OfCount:
    """A schedule made by binding a shape."""


BINDING = "schedules.over_steps(shape, steps=…) or schedules.over_budget(shape)"

# What tells a function of the suite that is used as it stands from one that makes what is used.
_USED_AS_IT_STANDS = {"params", "updates", "count"}


def uncalled(name: str, value: Any) -> None:
    """Check that an argument is not a class, or a function that makes things, instead of what they make.

    Args:
        name: the argument's name, for the message.
        value: whatever was given. Of functions only those of this suite, and Optax's that make schedules, are
            known to make things.

    Raises:
        TypeError: it is one.
    """
    if makes_things(value):
        raise TypeError(f"{name} got {described(value)}")


def bound(name: str, value: Any) -> None:
    """Check that an argument is not a shape that nobody has bound to steps or to a budget.

    Raises:
        TypeError: it is one.
    """
    if isinstance(value, OfProgress):
        raise TypeError(
            f"{name} must be a number or a schedule, a function of the update count; got a shape, a function "
            f"of a run's progress. Bind it: {BINDING}"
        )


def transformation(name: str, value: Any) -> None:
    """Check that an argument is a transformation, and not the function that makes it.

    Args:
        name: the argument's name, for the message.
        value: anything with ``init`` and ``update``, such as an ``optax.GradientTransformation``.

    Raises:
        TypeError: it is something else.
    """
    methods = (getattr(value, method, None) for method in ("init", "update"))
    if isinstance(value, type) or not all(map(callable, methods)):
        raise TypeError(
            f"{name} must be an optimizer or another optax.GradientTransformation, got {described(value)}"
        )


def kinds(asked_for: Mapping[str, tuple[Any, Any, str]]) -> None:
    """Check that arguments are of the kinds that are asked for.

    Args:
        asked_for: the argument's name → its value, the type or types, and what is asked for in words.

    Raises:
        TypeError: naming the first that is of another.
    """
    for name, (value, kind, asked) in asked_for.items():
        if not isinstance(value, kind):
            raise TypeError(f"{name} must be {asked}; got {value!r}")


def makes_things(value: Any) -> bool:
    """Whether an argument is a class, or a function of this suite or of Optax's schedules that makes things."""
    if isinstance(value, type):
        return True
    if not inspect.isfunction(value) or value.__qualname__ != value.__name__:
        return False
    known = value.__module__.startswith(("optimiz.", "optax.schedules."))
    return known and not _USED_AS_IT_STANDS & inspect.signature(value).parameters.keys()


def described(value: Any) -> str:
    """An argument as a message shows it: what makes things with the parentheses to add, what is long cut."""
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
