"""The moments in a state of ours, by the paths of their parameters: set, and read."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optimiz.groups.rules import read
from optimiz.optimizers.adafactor import ScaleByFactoredRmsState
from optimiz.optimizers.amsgrad import ScaleByAmsgradState, ScaleByUncorrectedAmsgradState
from optimiz.primitives.decoupled_weight_decay import DecoupledWeightDecayState
from optimiz.primitives.momentum import DampenedTraceState, TraceState
from optimiz.primitives.scale_by_adam import ScaleByAdamState
from optimiz.primitives.scale_by_learning_rate import ScaleByConstantRateState, ScaleByLearningRateState

_MOMENTS = {
    ScaleByAdamState: ("mu", "nu"),
    ScaleByUncorrectedAmsgradState: ("mu", "nu", "nu_max"),
    TraceState: ("trace",),
    DampenedTraceState: ("trace",),
    ScaleByFactoredRmsState: ("v_row", "v_col", "v"),
}
_KINDS = (
    *_MOMENTS,
    ScaleByAmsgradState,
    DecoupledWeightDecayState,
    ScaleByConstantRateState,
    ScaleByLearningRateState,
)


class Found(NamedTuple):
    """The moments of a parameter."""

    fields: Mapping[str, np.ndarray]
    count: int | None  # of updates; None where the state does not count them


def _is_kind(node: Any) -> bool:
    return isinstance(node, _KINDS)


def filled(
    state: optax.OptState,
    moments: Mapping[str, Mapping[str, np.ndarray]],
    steps: int,
    updates: int,
    rate: float,
) -> optax.OptState:
    """A fresh state with moments and counts.

    Args:
        state: state of a transformation that ``recipes`` has made.
        moments: by path and field; without a field, the state stays.
        steps: updates that the moments are of.
        updates: updates that the run is of.
        rate: learning rate of the last.
    """

    def node(x: Any) -> Any:
        if isinstance(x, DecoupledWeightDecayState):
            return x._replace(count=jnp.asarray(updates, jnp.int32))
        if isinstance(x, ScaleByLearningRateState):
            return ScaleByLearningRateState(jnp.asarray(updates, jnp.int32), jnp.asarray(rate, jnp.float32))
        if isinstance(x, ScaleByConstantRateState):
            return x._replace(steps=jnp.asarray(updates, jnp.int32))
        if type(x) not in _MOMENTS:
            return x
        changed = {field: _filled(getattr(x, field), moments, field) for field in _MOMENTS[type(x)]}
        if "count" in x._fields:
            changed["count"] = jnp.asarray(steps, jnp.int32)
        return x._replace(**changed)

    return jax.tree.map(node, state, is_leaf=_is_kind)


def _filled(tree: Any, moments: Mapping[str, Mapping[str, np.ndarray]], field: str) -> Any:
    reading = read(tree)
    return reading.tree(
        [  # copies: PyTorch's next step changes its arrays in place
            jnp.array(moments[leaf.path][field], x.dtype) if field in moments[leaf.path] else x
            for leaf, x in zip(reading.leaves, jax.tree.leaves(tree), strict=True)
        ]
    )


def found_in(state: optax.OptState, name: str) -> dict[str, Found]:
    """The moments in a state, by path.

    Args:
        state: any state; moments may be in parts of it, for some of the parameters each.
        name: class of ``torch.optim``, for the message.

    Raises:
        ValueError: it holds other arrays, or two moments of a parameter.
    """
    found: dict[str, Found] = {}
    for keys, x in jax.tree_util.tree_leaves_with_path(state, is_leaf=_is_kind):
        if isinstance(x, ScaleByAmsgradState):
            raise ValueError(
                "PyTorch keeps the largest second moment before its correction, this state the largest after "
                "it: only that of optimiz.amsgrad(max_before_correction=True) is PyTorch's"
            )
        if type(x) not in _MOMENTS:
            if not _is_kind(x) and np.ndim(x) > 0:
                raise ValueError(
                    f"the state has state{jax.tree_util.keystr(keys)} of shape {np.shape(x)}, for which "
                    f"torch.optim.{name} has no place"
                )
            continue
        trees = {field: _by_path(getattr(x, field)) for field in _MOMENTS[type(x)]}
        for path in next(iter(trees.values())):
            if path in found:
                raise ValueError(f"the state has two sets of moments of {path}")
            fields = {field: tree[path] for field, tree in trees.items()}
            found[path] = Found(fields, int(x.count) if "count" in x._fields else None)
    return found


def _by_path(tree: Any) -> dict[str, np.ndarray]:
    leaves = zip(read(tree).leaves, jax.tree.leaves(tree), strict=True)
    return {leaf.path: np.asarray(x) for leaf, x in leaves}
