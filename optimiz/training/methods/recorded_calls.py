"""Record which of the functions offered to an optimizer it calls while it is traced."""

from collections.abc import Callable
from typing import Any


def recorded(called: set[str], name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A function whose calls are recorded.

    Args:
        called: a set to which the name is added at each call.
        name: name of the function.
        function: the function to call.

    Example:
        >>> called = set()
        >>> recorded(called, "double", lambda x: 2 * x)(3), called
        (6, {'double'})
    """

    def call(*args: Any, **kwargs: Any) -> Any:
        called.add(name)
        return function(*args, **kwargs)

    return call
