"""What an optimizer is doing, read from its state for a log: learning rate, counts, norms.

A reading is a scalar field of a state, such as ``skipped`` of ``guard``; the ``rate`` of
``scale_by_learning_rate`` is shown as ``learning_rate``. States are known by how Optax and this suite declare
them: NamedTuples whose names end in ``State``.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

_NAMES = {"rate": "learning_rate"}

# How ``guard`` and ``optax.apply_if_finite`` call the number of steps skipped since the last good one.
_SKIPPED_IN_A_ROW = ("skipped_in_a_row", "notfinite_count")


def hyperparams(state: Any) -> dict[str, jax.typing.ArrayLike]:
    """The scalars of an optimizer's state, by name.

    Args:
        state: of any optimizer, however nested; may be traced.

    Returns:
        Numbers by the name of their field, which follows the label of its group under ``optax.partition``
        (``"head/learning_rate"``) and, where several parts of a chain have such a field, its place in the chain
        (``"1/learning_rate"``). Only ``count``, of which each part has its own, is shown once. What
        ``optax.inject_hyperparams`` injects is shown in place of what the optimizer within kept of it. The
        moments of a parameter that is one bare scalar are scalars, and shown.

    Example:
        >>> import optimiz
        >>> state = optimiz.adamw(0.5).init(jnp.zeros(1))
        >>> {name: float(value) for name, value in hyperparams(state).items()}
        {'count': 0.0, 'learning_rate': 0.5}
    """
    if _is_state(state):
        fields = state._asdict()
        if isinstance(state, optax.InjectStatefulHyperparamsState):
            fields = {"count": state.count, **state.hyperparams, "inner_state": state.inner_state}
        readings = {}
        for value in fields.values():
            readings |= hyperparams(value)
        return readings | {_NAMES.get(name, name): x for name, x in fields.items() if _is_number(x)}
    if isinstance(state, Mapping):
        return {
            f"{label}/{name}": value
            for label, part in state.items()
            for name, value in hyperparams(part).items()
        }
    if isinstance(state, tuple | list):
        return _in_chain([hyperparams(part) for part in state])
    return {}


def skipped_in_a_row(readings: Mapping[str, Any]) -> list[Any]:
    """How many steps whatever skips bad ones has skipped since the last good one; empty where nothing does.

    Args:
        readings: by name, as :func:`hyperparams` gives them.

    Example:
        >>> skipped_in_a_row({"count": 7, "head/skipped": 3, "head/skipped_in_a_row": 2})
        [2]
    """
    return [count for name, count in readings.items() if name.rpartition("/")[2] in _SKIPPED_IN_A_ROW]


def _in_chain(parts: list[dict[str, jax.typing.ArrayLike]]) -> dict[str, jax.typing.ArrayLike]:
    times = Counter(name for part in parts for name in part)
    readings = {}
    for place, part in enumerate(parts):
        for name, value in part.items():
            if times[name] == 1 or name.rpartition("/")[2] == "count":
                readings.setdefault(name, value)
            else:
                readings[f"{place}/{name}"] = value
    return readings


def _is_state(x: Any) -> bool:
    return isinstance(x, tuple) and hasattr(x, "_asdict") and type(x).__name__.endswith("State")


def _is_number(x: Any) -> bool:
    is_scalar = isinstance(x, jax.Array | np.ndarray | np.generic | int | float) and np.ndim(x) == 0
    return is_scalar and jnp.issubdtype(jnp.asarray(x).dtype, jnp.number)
