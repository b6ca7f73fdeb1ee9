"""An argument with a value per parameter: a tree, a prefix of one, or a function of the parameters.

A tree with the parameters' structure is a tree even if it is callable, as an Equinox module is.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from optimiz.checks.arguments import static
from optimiz.checks.misplaced import OfCount, OfProgress, uncalled

# Names of the optimizers' arguments.
_ARGUMENTS = {
    "the mask of the weight decay": "weight_decay_mask",
    "the mask of the trust ratio": "trust_ratio_mask",
}


def per_parameter(name: str, given: Any) -> Callable[[Any], Any]:
    """Check an argument with a value per parameter, and make it a function of the parameters.

    Args:
        name: the argument's name, for the message.
        given: a tree, a prefix of one, or a function of the parameters that returns one.

    Returns:
        A function from a tree of parameters to the tree, or prefix. It raises TypeError where ``given`` returns
        a function.

    Raises:
        TypeError: ``given`` is a function that should have been called, a class, a shape or a schedule.

    Example:
        >>> per_parameter("mask", {"stem": False, "head": True})({"stem": 1.0, "head": 1.0})
        {'stem': False, 'head': True}
    """
    uncalled(name, given)
    if isinstance(given, OfProgress | OfCount):
        raise TypeError(f"{name} must be a tree or a function of the parameters, got a schedule or its shape")
    if not callable(given):
        return lambda params: given

    def of(params: Any) -> Any:
        if _is_tree_of(given, params):
            return given
        try:
            answers = given(params)
        except Exception as error:
            error.add_note(f"{name} can be called and is no tree like the parameters: it was called with them")
            raise
        if callable(answers) and _is_leaf(answers):
            raise TypeError(f"{name} must be a function from the parameters to a tree, it returned {answers!r}")
        return answers

    return of


def mask(name: str, given: Any) -> Callable[[Any], Any]:
    """Check an argument with a boolean per parameter, and make it a function of the parameters.

    Args:
        name: the argument's name, for the message.
        given: a tree of booleans, a prefix of one, or a function of the parameters that returns one.

    Returns:
        A function from a tree of parameters to the tree, or prefix, of bools. It raises TypeError for a value
        that is not a boolean.

    Raises:
        TypeError: as for :func:`per_parameter`; or a value is not a boolean, or ``given`` is an array.
    """
    static(name, given, _ARGUMENTS.get(name, name))
    of = per_parameter(name, given)

    def checked(tree: Any) -> Any:
        return jax.tree_util.tree_map_with_path(functools.partial(_yes_or_no, name), tree)

    if not callable(given):
        checked(given)
    return lambda params: checked(of(params))


def _yes_or_no(name: str, path: Any, answer: Any) -> bool:
    is_scalar = np.shape(answer) == () and not isinstance(answer, str)
    if isinstance(answer, Tracer) or (is_scalar and answer in (0, 1)):
        return bool(answer)
    at = f" at {jax.tree_util.keystr(path)}" if path else ""
    raise TypeError(f"{name} must say True or False of each parameter, got {answer!r}{at}")


def _is_tree_of(given: Any, params: Any) -> bool:
    if _is_leaf(given):
        return False
    try:
        jax.tree.broadcast(given, params)
    except (TypeError, ValueError):
        return type(given) is type(params)
    return True


def _is_leaf(x: Any) -> bool:
    return isinstance(x, functools.partial) or jax.tree_util.all_leaves([x])
