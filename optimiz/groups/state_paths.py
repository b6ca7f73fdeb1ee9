"""Which parameter a leaf of an optimizer's state belongs to, by its key path.

What an optimizer keeps for a parameter has the parameter's path within its own: of
``.mu['layers'][0]['kernel']`` the part ``['layers'][0]['kernel']``.
"""

from collections.abc import Collection
from typing import Any


def span_of_parameter(path: tuple[Any, ...], parameters: Collection[tuple[Any, ...]]) -> tuple[int, int] | None:
    """Which part of a key path is that of a parameter.

    Args:
        path: of a leaf of the state.
        parameters: the key paths of all parameters.

    Returns:
        Start and end of the longest such part, of equally long ones the last, as a field of the state may have
        the name of a parameter; None if there is none.

    Example:
        >>> span_of_parameter(("mu", "layers", 0), {("layers", 0), ("head",)})
        (1, 3)
        >>> span_of_parameter(("mu", "sigma"), {("mu",), ("sigma",)})
        (1, 2)
    """
    places = range(len(path) + 1)
    spans = [(start, end) for start in places for end in places[start:] if path[start:end] in parameters]
    return max(spans, key=lambda span: (span[1] - span[0], span[0]), default=None)
