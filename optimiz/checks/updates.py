"""Checks of the arguments of ``update``, while it is traced: a tree that does not fit is refused by path."""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax


def needs_params(params: optax.Params | None) -> None:
    """Check that ``update`` was given the parameters.

    Raises:
        ValueError: ``params`` is None.
    """
    if params is None:
        raise ValueError("this transformation needs the parameters: update(updates, state, params)")


def needs_loss(params: optax.Params, value: Any, grad: Any, value_fn: Any) -> None:
    """Check that ``update`` was given the extra arguments of a line search.

    Args:
        params: the parameters.
        value: the loss.
        grad: gradient of the loss.
        value_fn: the loss as a function of the parameters.

    Raises:
        TypeError: ``value_fn`` is not a function.
        ValueError: an argument is missing; ``value`` is not a scalar; or parameters are masked and ``value_fn``
            does not fill them in.
    """
    given = {"value": value, "grad": grad, "value_fn": value_fn}
    missing = [name for name, argument in given.items() if argument is None]
    if missing:
        raise ValueError(
            f"a line search needs {', '.join(missing)}: "
            "update(grads, state, params, value=value, grad=grads, value_fn=loss_of_params); Flax's TrainState "
            "hands none of them on, see docs/recipes.md"
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


@contextlib.contextmanager
def calling(name: str) -> Iterator[None]:
    """Call a function that ``update`` was given, in the body: errors get a note on what it must not do.

    Args:
        name: name of the argument, for the note.
    """
    try:
        yield
    except Exception as error:
        if type(error).__name__ == "TraceContextError":  # of Flax NNX
            error.add_note(
                f"{name} is called under another trace, and must leave the model as it is: let it call "
                "nnx.merge(graphdef, params, rest, copy=True), as in docs/recipes.md"
            )
        raise


def varying_axes(x: jax.Array) -> frozenset[str]:
    """The axes of ``jax.shard_map`` over which an array varies, as far as its type shows."""
    kind: Any = jax.typeof(x)
    return kind.mat.varying if hasattr(kind, "mat") else kind.vma  # vma in JAX 0.9


def same_on_devices(name: str, x: jax.Array) -> None:
    """Check that an array does not differ between devices, as far as its type shows.

    Raises:
        ValueError: the array varies over a mesh axis of ``jax.shard_map``.
    """
    if varying := varying_axes(x):
        axes = ", ".join(sorted(varying))
        raise ValueError(f"{name} differs over the mesh axis {axes}; reduce it first, with jax.lax.pmean")


def same_shapes(name: str, tree: Any, reference_name: str, reference: Any) -> None:
    """Check that two trees have the same structure and the same shapes.

    Optax silently broadcasts a gradient of shape (1,) over a parameter of shape (4,). Here it is an error,
    raised while tracing and so free at run time.

    Args:
        name: name of ``tree``, for the message.
        tree: a pytree of arrays.
        reference_name: name of ``reference``, for the message.
        reference: a pytree of arrays with the expected structure and shapes.

    Raises:
        ValueError: they differ; the message names the first path.
    """
    if _shapes(tree) == _shapes(reference):
        return
    # Paths are slow, so they are computed only here. The trees may be of different classes.
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


def _shapes(tree: Any) -> tuple[Any, list[tuple[int, ...]]]:
    leaves, structure = jax.tree.flatten(tree)
    return structure, [np.shape(leaf) for leaf in leaves]
