"""Something for every parameter: a tree, a prefix of one, or a function from the parameters to such a tree.

A tree is a tree, also where its class can be called, as an Equinox module's can: it is a tree of the
parameters' structure that decides, and not ``callable``.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from optimiz.checks.arguments import static
from optimiz.checks.misplaced import OfCount, OfProgress, uncalled

# What the optimizers call it.
_ARGUMENTS = {
    "the mask of the weight decay": "weight_decay_mask",
    "the mask of the trust ratio": "trust_ratio_mask",
}


def per_parameter(name: str, given: Any) -> Callable[[Any], Any]:
    """Check an argument that says something of every parameter, and make it a function of them.

    Args:
        name: the argument's name, for the message.
        given: a tree, a prefix of one, or a function from the parameters to such a tree.

    Returns:
        A function from a tree of parameters to the tree, or prefix. It raises TypeError where ``given`` returns
        a function.

    Raises:
        TypeError: ``given`` is a function that makes such functions, a class, a shape or a schedule.

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
    """Check an argument that says yes or no for every parameter, and make it a function of them.

    Args:
        name: the argument's name, for the message.
        given: a tree of booleans, a prefix of one, or a function from the parameters to such a tree.

    Returns:
        A function from a tree of parameters to the tree, or prefix, of bools. It raises TypeError for an answer
        that is neither yes nor no.

    Raises:
        TypeError: as :func:`per_parameter`, an answer of a tree is neither yes nor no, or ``given`` is an
            array.
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
