"""The parameters to evaluate and to keep, of an optimizer that keeps an average of them.

``optimiz.average`` and the schedule-free methods train one set of parameters and mean another one to be used.
Their states have a method ``averaged``, from the parameters that are trained to those that are meant.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from optimiz.hyperparams import bare

# Fields by which such a state is recognised where it has become a mapping, as in a checkpoint.
_FIELDS = ({"steps", "weight", "average"}, {"count", "weight_sum", "z"})


def averaged_params(state: optax.OptState, params: optax.Params) -> optax.Params:
    """The parameters to evaluate and to keep.

    ``optimiz.training.fit`` evaluates, saves and returns these by itself.

    Args:
        state: state of any optimizer, however nested; may be traced. Arrays may be wrapped, as in
            ``flax.nnx.Optimizer(...).opt_state``.
        params: the parameters that are trained, as after ``optax.apply_updates``. Arrays may be wrapped, as in
            ``flax.nnx.state(model, flax.nnx.Param)``.

    Returns:
        The averages in the parameters' dtypes. Parameters without an average, such as those that
        ``optax.masked`` leaves out, and integers are returned as they are.

    Raises:
        TypeError: ``state`` is an optimizer, or the state of an average has become a mapping, as in
            ``flax.nnx.state(optimizer)`` and in what ``flax.serialization.to_state_dict`` returns.

    Example:
        >>> import jax.numpy as jnp
        >>> import optimiz
        >>> tx = optimiz.average(optax.sgd(1.0), decay=1.0)  # the mean of all
        >>> params = jnp.array(0.0)
        >>> state = tx.init(params)
        >>> for g in (-2.0, -4.0):  # parameters 2, 6
        ...     updates, state = tx.update(jnp.array(g), state, params)
        ...     params = optax.apply_updates(params, updates)
        >>> float(params), float(averaged_params(state, params))
        (6.0, 4.0)
    """
    if isinstance(state, optax.GradientTransformation):
        raise TypeError("state must be an optimizer's state, got the optimizer")
    averages, structure = _averages_in(_unwrapped(state)), jax.tree.structure(params)
    params = _unwrapped(params)
    for part in averages:
        params = part.averaged(params)
    return structure.unflatten(jax.tree.leaves(params))


def keeps_average(state: optax.OptState) -> bool:
    """Whether the parameters to evaluate differ from those that are trained.

    Args:
        state: as for :func:`averaged_params`.
    """
    return bool(_averages_in(state))


def where_kept(
    function: Callable[..., jax.Array], averages: Any, params: optax.Params, *others: Any
) -> optax.Params:
    """Map a function over averages and what belongs to them; other parameters, and integers, are returned.

    Args:
        function: function of an average, its parameter and the leaves of the other trees.
        averages: tree like the parameters, with ``optax.MaskedNode`` where none is kept.
        params: the parameters.
        *others: trees like the averages.
    """

    def leaf(average: Any, p: Any, *rest: Any) -> Any:
        if isinstance(average, optax.MaskedNode) or not jnp.issubdtype(p.dtype, jnp.inexact):
            return p
        return function(average, p, *rest)

    is_leaf = lambda node: isinstance(node, optax.MaskedNode)  # noqa: E731
    return jax.tree.map(leaf, averages, params, *others, is_leaf=is_leaf)


def _averages_in(state: Any) -> list[Any]:
    """The parts of a state that have averages."""
    parts = jax.tree.leaves(state, is_leaf=lambda node: _averages(node) or _was_state(node))
    if any(map(_was_state, parts)):
        raise TypeError(
            "state must hold NamedTuples, as init returns it, got a mapping with the fields of an average: of "
            "Flax NNX give optimizer.opt_state; or flax.serialization.from_state_dict(tx.init(params), state)"
        )
    return list(filter(_averages, parts))


def _averages(node: Any) -> bool:
    return callable(getattr(node, "averaged", None))


def _was_state(node: Any) -> bool:
    return isinstance(node, Mapping) and any(fields <= set(node) for fields in _FIELDS)


def _unwrapped(tree: Any) -> Any:
    """The same tree with the arrays inside of wrappers such as ``flax.nnx.Variable``."""
    return jax.tree.map(bare, tree, is_leaf=lambda node: bare(node) is not node)
