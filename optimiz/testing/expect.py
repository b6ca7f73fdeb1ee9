"""The assertions of the checks. A message is one line that names the leaf, and the dtype and step if given."""

import contextlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from optimiz.testing.trees import DTYPES


@contextlib.contextmanager
def at(**where: Any) -> Iterator[None]:
    """Add to the message of a failed assertion where it failed.

    Args:
        **where: the place, such as ``step=2`` or ``parameters=jnp.bfloat16``.

    Yields:
        Nothing.

    Raises:
        AssertionError: the body raised an exception; the message is one line.

    Example:
        >>> with at(step=2, parameters=jnp.bfloat16):
        ...     finite({"w": jnp.array([1.0, jnp.nan])}, "updates")
        Traceback (most recent call last):
        AssertionError: updates['w'] is not finite: nan (step 2, parameters bfloat16)
    """
    words = ", ".join(f"{key.replace('_', ' ')} {_shown(value)}" for key, value in where.items())
    try:
        yield
    except AssertionError as error:
        raise AssertionError(f"{_one_line(str(error))} ({words})") from error
    except Exception as error:
        raise AssertionError(f"{type(error).__name__}: {_one_line(str(error))} ({words})") from error


def finite(tree: Any, what: str) -> None:
    """Assert that every entry is finite.

    Args:
        tree: tree of arrays.
        what: name of the tree, for the message.

    Raises:
        AssertionError: an entry is not; the message names the first such leaf.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.asarray(leaf, np.float64)
        bad = array[~np.isfinite(array)]
        assert not bad.size, f"{what}{jax.tree_util.keystr(path)} is not finite: {bad[0]}"


def zero(tree: Any, what: str) -> None:
    """Assert that every entry is exactly zero.

    Args:
        tree: tree of arrays.
        what: name of the tree, for the message.

    Raises:
        AssertionError: an entry is not; the message names the first such leaf.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        assert not np.any(np.asarray(leaf)), f"{what}{jax.tree_util.keystr(path)} is not zero: {leaf}"


def same_types(after: Any, before: Any, what: str) -> None:
    """Assert that two trees have the same structure, shapes, dtypes and weak types.

    Args:
        after: tree of arrays or of ``jax.ShapeDtypeStruct``.
        before: tree with the expected types.
        what: name of the first tree, for the message.

    Raises:
        AssertionError: the trees differ; the message names the first leaf that does.
    """
    chex.assert_trees_all_equal_structs(after, before)
    pairs = zip(jax.tree_util.tree_leaves_with_path(after), jax.tree.leaves(before), strict=True)
    for (path, x), y in pairs:
        assert _type(x) == _type(y), (
            f"{what}{jax.tree_util.keystr(path)} is {_named_type(x)}, expected {_named_type(y)}"
        )


def same_dtypes(after: Any, before: Any, what: str) -> None:
    """Assert that two trees have the same structure, shapes and dtypes.

    Args:
        after: tree of arrays or of ``jax.ShapeDtypeStruct``.
        before: tree with the expected types.
        what: name of the first tree, for the message.

    Raises:
        AssertionError: the trees differ; the message names the first leaf that does.
    """
    chex.assert_trees_all_equal_structs(after, before)
    pairs = zip(jax.tree_util.tree_leaves_with_path(after), jax.tree.leaves(before), strict=True)
    for (path, x), y in pairs:
        assert _type(x)[:2] == _type(y)[:2], (
            f"{what}{jax.tree_util.keystr(path)} is {_named_type(x)}, expected {_named_type(y)}"
        )


def strong(tree: Any, what: str) -> None:
    """Assert that no leaf is a Python number or a weakly typed array.

    Args:
        tree: tree of arrays.
        what: name of the tree, for the message.

    Raises:
        AssertionError: a leaf is; the message names the first.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        assert not _type(leaf)[2], f"{what}{jax.tree_util.keystr(path)} is weakly typed: {_named_type(leaf)}"


def close(actual: Any, wanted: Any, what: str, *, rtol: float, atol: float = 0.0) -> None:
    """Assert that two trees agree to a tolerance.

    Args:
        actual: tree of arrays.
        wanted: tree of the expected values.
        what: name of the first tree, for the message.
        rtol: relative tolerance.
        atol: absolute tolerance.

    Raises:
        AssertionError: the trees differ; the message names the leaves that do.
    """
    _explained(what, lambda: chex.assert_trees_all_close(actual, wanted, rtol=rtol, atol=atol))


def equal(actual: Any, wanted: Any, what: str) -> None:
    """Assert that two trees are equal bit for bit; NaN equals NaN.

    Args:
        actual: tree of arrays.
        wanted: tree of the expected values.
        what: name of the first tree, for the message.

    Raises:
        AssertionError: the trees differ; the message names the leaves that do.
    """
    _explained(what, lambda: chex.assert_trees_all_equal(actual, wanted, strict=True))


def _explained(what: str, assertion: Callable[[], None]) -> None:
    try:
        assertion()
    except AssertionError as error:
        raise AssertionError(f"{what}: {_one_line(str(error))}") from error


def _one_line(message: str) -> str:
    """Shorten chex's message to which leaves differ, and by how much."""
    leaves = re.search(r"differ in leaves '(.*?)'", message)
    if not leaves:
        return " ".join(message.split())
    largest = re.search(r"Max absolute difference among violations: (\S+)", message)
    dtypes = re.search(r"Original dtypes: (.+?)\.?$", message, re.MULTILINE)
    parts = [f"leaf {leaves[1]!r} differs"]
    parts += [f"by {largest[1].rstrip('.')}"] if largest else [" ".join(message.partition(":")[2].split())]
    parts += [f"({dtypes[1]})"] if dtypes else []
    return " ".join(parts)


def _type(x: Any) -> tuple[Any, ...]:
    kind = x if isinstance(x, jax.ShapeDtypeStruct) else jax.typeof(jnp.asarray(x))
    return kind.shape, kind.dtype, kind.weak_type


def _named_type(x: Any) -> str:
    shape, dtype, weak = _type(x)
    return f"{'weak ' if weak else ''}{dtype}{list(shape)}"


def _shown(value: Any) -> str:
    return jnp.dtype(value).name if value in DTYPES else f"{value}"
