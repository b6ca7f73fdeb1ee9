"""The parameters to evaluate and to keep, of an optimizer that keeps an average of them.

``optimiz.average`` and the schedule-free methods train one set of parameters and mean another one to be used.
Their states have a method ``averaged``, from the parameters that are trained to those that are meant.
"""

from collections.abc import Callable
from typing import Any

import jax
import optax


def averaged_params(state: optax.OptState, params: optax.Params) -> optax.Params:
    """The parameters to evaluate and to keep.

    ``optimiz.training.fit`` evaluates, saves and returns these by itself.

    Args:
        state: state of any optimizer, however nested; may be traced.
        params: the parameters that are trained, as after ``optax.apply_updates``.

    Returns:
        The averages in the parameters' dtypes. Parameters without an average, such as those that
        ``optax.masked`` leaves out, are returned as they are.

    Raises:
        TypeError: ``state`` is an optimizer.

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
    for part in jax.tree.leaves(state, is_leaf=_averages):
        if _averages(part):
            params = part.averaged(params)
    return params


def keeps_average(state: optax.OptState) -> bool:
    """Whether the parameters to evaluate differ from those that are trained.

    Args:
        state: as for :func:`averaged_params`.
    """
    return any(map(_averages, jax.tree.leaves(state, is_leaf=_averages)))


def where_kept(
    function: Callable[..., jax.Array], averages: Any, params: optax.Params, *others: Any
) -> optax.Params:
    """Map a function over averages and what belongs to them; without an average, a parameter is returned.

    Args:
        function: function of an average, its parameter and the leaves of the other trees.
        averages: tree like the parameters, with ``optax.MaskedNode`` where none is kept.
        params: the parameters.
        *others: trees like the averages.
    """

    def leaf(average: Any, p: Any, *rest: Any) -> Any:
        return p if isinstance(average, optax.MaskedNode) else function(average, p, *rest)

    is_leaf = lambda node: isinstance(node, optax.MaskedNode)  # noqa: E731
    return jax.tree.map(leaf, averages, params, *others, is_leaf=is_leaf)


def _averages(node: Any) -> bool:
    return callable(getattr(node, "averaged", None))
