"""Scalars of an optimizer's state for a log: learning rate, counts, norms.

A reading is a scalar field of a state, such as ``skipped`` of ``guard``; the ``rate`` of
``scale_by_learning_rate`` is shown as ``learning_rate``. States are NamedTuples whose names end in ``State``,
as in Optax and this suite. Their arrays may be wrapped, as by ``flax.nnx.Variable``, and their tuples may be
mappings, as in ``flax.nnx.state`` and checkpoints.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

_NAMES = {"rate": "learning_rate", "steps": "count"}

# Names in ``guard`` and ``optax.apply_if_finite`` of the number of steps skipped since the last good one.
_SKIPPED_IN_A_ROW = ("skipped_in_a_row", "notfinite_count")


def hyperparams(state: Any) -> dict[str, jax.typing.ArrayLike]:
    """The scalars of an optimizer's state, by name.

    Args:
        state: state of any optimizer, however nested; may be traced. Arrays may be wrapped and tuples may be
            mappings, as in ``flax.nnx.Optimizer(...).opt_state`` and ``flax.nnx.state(optimizer)``; of an
            object with an attribute ``opt_state``, that is read.

    Returns:
        Numbers by the name of their field, prefixed by the label of their group under ``optax.partition``
        (``"head/learning_rate"``) and, if several parts of a chain have such a field, by their place in the
        chain (``"1/learning_rate"``). ``count``, which several parts have, is shown once. Values that
        ``optax.inject_hyperparams`` injects are shown instead of the inner optimizer's copies. If the
        parameters are a single scalar, its moments are scalars and shown too.

    Raises:
        TypeError: ``state`` is an optimizer.

    Example:
        >>> import optimiz
        >>> state = optimiz.adamw(0.5).init(jnp.zeros(1))
        >>> {name: float(value) for name, value in hyperparams(state).items()}
        {'count': 0.0, 'learning_rate': 0.5}
    """
    if isinstance(state, optax.GradientTransformation):
        raise TypeError(
            "state must be an optimizer's state, got the optimizer; what its init and update return is one"
        )
    return _read(state, of_state=True)


def bare(node: Any) -> Any:
    """The array inside a wrapper such as ``flax.nnx.Variable``; anything else is returned as it is.

    Args:
        node: any node of a pytree.
    """
    if isinstance(node, tuple | list | Mapping) or _is_array(node):
        return node
    children = _children(node)
    return bare(children["value"]) if children.keys() == {"value"} else node


def _read(node: Any, *, of_state: bool) -> dict[str, jax.typing.ArrayLike]:
    """The readings of a part of a state; the numbers of a mapping are shown if it is ``of_state``."""
    node = bare(node)
    if isinstance(node, Mapping):
        return _of_mapping(node, of_state)
    if isinstance(node, tuple | list) and not _is_state(node):
        return _in_chain({place: _read(part, of_state=of_state) for place, part in enumerate(node)})
    if isinstance(node, tuple):
        return _of_fields(node._asdict(), of_state=False)  # pyright: ignore[reportAttributeAccessIssue]
    fields = _children(node)
    if "opt_state" in fields:  # such as flax.nnx.Optimizer
        return _read(fields["opt_state"], of_state=True)
    if _is_state(node):
        return _of_fields(fields, of_state=False)
    return _merged(_read(child, of_state=False) for child in fields.values())


def _of_mapping(node: Mapping[Any, Any], of_state: bool) -> dict[str, jax.typing.ArrayLike]:
    if "opt_state" in node:
        return _read(node["opt_state"], of_state=True)
    if node and all(str(key).isdecimal() for key in node):  # a tuple, without its empty states
        return _in_chain({key: _read(part, of_state=of_state) for key, part in node.items()})
    if of_state and any(_is_number(bare(part)) or _holds_states(key) for key, part in node.items()):
        return _of_fields(node, of_state=True)
    return {
        f"{label}/{name}": value
        for label, part in node.items()
        for name, value in _read(part, of_state=of_state).items()
    }


def _of_fields(fields: Mapping[str, Any], of_state: bool) -> dict[str, jax.typing.ArrayLike]:
    """Readings of one state: those of the states inside it, and its own numbers.

    In a mapping, a state is distinguished from the parameters' moments by its name.
    """
    if {"hyperparams", "inner_state"} <= fields.keys():  # of optax.inject_hyperparams
        injected = bare(fields["hyperparams"])
        fields = {"count": fields["count"], **injected, "inner_state": fields["inner_state"]}
    within = (_read(x, of_state=of_state and _holds_states(name)) for name, x in fields.items())
    own = {_NAMES.get(name, name): bare(x) for name, x in fields.items()}
    return _merged(within) | {name: x for name, x in own.items() if _is_number(x)}


def skipped_in_a_row(readings: Mapping[str, Any]) -> list[Any]:
    """The numbers of steps skipped since the last good one; empty if nothing skips steps.

    Args:
        readings: scalars by name, as :func:`hyperparams` returns them.

    Example:
        >>> skipped_in_a_row({"count": 7, "head/skipped": 3, "head/skipped_in_a_row": 2})
        [2]
    """
    return [count for name, count in readings.items() if name.rpartition("/")[2] in _SKIPPED_IN_A_ROW]


def _in_chain(parts: Mapping[Any, dict[str, jax.typing.ArrayLike]]) -> dict[str, jax.typing.ArrayLike]:
    times = Counter(name for part in parts.values() for name in part)
    readings = {}
    for place, part in parts.items():
        for name, value in part.items():
            if times[name] == 1 or name.rpartition("/")[2] == "count":
                readings.setdefault(name, value)
            else:
                readings[f"{place}/{name}"] = value
    return readings


def _merged(parts: Iterable[dict[str, jax.typing.ArrayLike]]) -> dict[str, jax.typing.ArrayLike]:
    return {name: value for part in parts for name, value in part.items()}


def _children(node: Any) -> dict[str, Any]:
    """The children of a pytree node, by name; empty for a leaf."""
    entries = jax.tree_util.tree_leaves_with_path(node, is_leaf=lambda x: x is not node)
    return {jax.tree_util.keystr(path, simple=True): child for path, child in entries if path}


def _holds_states(name: Any) -> bool:
    return str(name).endswith(("_state", "_states"))


def _is_state(node: Any) -> bool:
    return type(node).__name__.endswith("State") and (not isinstance(node, tuple) or hasattr(node, "_asdict"))


def _is_array(x: Any) -> bool:
    return isinstance(x, jax.Array | np.ndarray | np.generic | int | float)


def _is_number(x: Any) -> bool:
    return _is_array(x) and np.ndim(x) == 0 and jnp.issubdtype(jnp.asarray(x).dtype, jnp.number)
