"""Grow a model in depth while it trains: the plan, and what happens to parameters and optimizer state.

At given shares of a run the stack of layers is doubled, layer i being copied to i + n: for example 4 → 8 → 16
layers at 12.5 % and 30 % of the budget, which the source found best. The early steps are those of a shallow
model and are charged as such. The function that the model computes changes when it grows; learning rate,
clipping and decay continue unchanged.

What happens to the optimizer's state is the plan's policy:

``"keep"``
    as in the source: existing layers keep their moments and counts, new layers start without moments, and their
    bias is corrected by their own count (see ``optimiz.training.methods.per_generation_counts``).
``"copy"``
    a new layer takes over the moments of the layer that it is a copy of.
``"reset"``
    all moments, and the counts that belong to them, are reset; a schedule continues.

State that belongs to no parameter, such as the count of a schedule or the key of an estimator, is kept if its
shape allows it. The optimizer must work at any depth: its masks must be rules, not trees of a fixed depth.

Source: arXiv 2307.06440; JeanKaddour/NoTrainNoGain at a7e6599.

Departure: in the source all layers exist from the start and the later ones are switched off; here they are
created when the model grows, and take no memory before.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from optimiz import checks
from optimiz.groups.layers import LAYER_INDEX
from optimiz.groups.state_paths import span_of_parameter
from optimiz.training.methods.layer_stack import KeyPath, Place, Stack
from optimiz.training.methods.per_generation_counts import PerGenerationState, own_counts, per_generation_counts

Policy = Literal["keep", "copy", "reset"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Growth:
    """When a model is doubled in depth.

    Args:
        depths: number of layers at the start and after each growth, each twice the one before.
        at: share of the budget (without a budget, of the steps) after which each growth takes place: ascending
            in (0, 1), one fewer than ``depths``.
        policy: what happens to the optimizer's state, see above.
        layers: a regular expression over paths with one group, the layer's index from 0.
        scanned: axis of stacked layers by pattern of path, such as ``{"^layers/": 0}``.

    Raises:
        TypeError: a depth is not an integer, or a share not a number.
        ValueError: a depth is not twice the one before, or a share is not within the run.

    Example:
        >>> plan = Growth(depths=(1, 2, 4), at=(0.125, 0.3))
        >>> grow(plan, optax.sgd(0.1), 1, {"layers": [2.0]}, optax.sgd(0.1).init(None))[0]
        {'layers': [2.0, 2.0]}
    """

    depths: Sequence[int]
    at: Sequence[float]
    policy: Policy = "keep"
    layers: str = LAYER_INDEX
    scanned: Mapping[str, int] | None = None

    def __post_init__(self) -> None:
        for depth in self.depths:
            checks.integer("each of depths", depth, ge=1)
        if len(self.depths) < 2 or any(2 * a != b for a, b in itertools.pairwise(self.depths)):
            raise ValueError(f"depths must be at least two, each twice the one before, got {self.depths}")
        for share in self.at:
            checks.number("each of at", share, gt=0, lt=1)
        if len(self.at) != len(self.depths) - 1 or any(a >= b for a, b in itertools.pairwise(self.at)):
            raise ValueError(f"at must ascend, with one share for each growth of {self.depths}, got {self.at}")
        checks.one_of("policy", self.policy, ("keep", "copy", "reset"))
        _ = self.stack  # checks the expression

    @property
    def stack(self) -> Stack:
        """Where the layers are."""
        return Stack(self.layers, self.scanned)

    def check(self, params: Any) -> None:
        """Check that a model has the depth at which the plan starts.

        Raises:
            ValueError: the model has no layers, or another number of them.
        """
        depth = self.stack.depth(params)
        if depth != self.depths[0]:
            raise ValueError(
                f"Growth(depths=) must start with the model's {depth} layers, got {self.depths[0]}"
            )

    def optimizer(self, tx: optax.GradientTransformation, stage: int) -> optax.GradientTransformation:
        """The optimizer after a number of growths."""
        if stage == 0 or self.policy != "keep":
            return tx
        return per_generation_counts(tx, self.stack, self.depths[: stage + 1])

    def described(self) -> dict[str, Any]:
        """The plan as plain JSON."""
        return {"depths": list(self.depths), "at": [float(share) for share in self.at], "policy": self.policy}


def grow(
    plan: Growth, tx: optax.GradientTransformation, stage: int, params: Any, opt_state: Any
) -> tuple[Any, Any]:
    """Double a model and adapt the optimizer's state to it; traceable.

    Args:
        plan: the plan of the run.
        tx: the optimizer, as it was passed to ``fit``.
        stage: number of growths, including this one, ≥ 1.
        params: the parameters.
        opt_state: the state of ``plan.optimizer(tx, stage - 1)``.

    Returns:
        The parameters, and the state of ``plan.optimizer(tx, stage)``.

    Raises:
        ValueError: there are no layers to double.
    """
    grown = plan.stack.doubled(params)
    fresh = tx.init(grown)
    if plan.policy != "keep":
        return grown, _fitted(plan, opt_state, fresh, params, grown)
    births, state = opt_state if stage > 1 else ((), opt_state)
    counts, first = own_counts(state, params), own_counts(fresh, grown)
    born = tuple(count - start for count, start in zip(counts.values(), first.values(), strict=True))
    return grown, PerGenerationState((*births, born), _fitted(plan, state, fresh, params, grown))


def _fitted(plan: Growth, state: Any, fresh: Any, params: Any, grown: Any) -> Any:
    """The state for the grown model, made from the state before and a fresh one."""
    there = dict(jax.tree_util.tree_leaves_with_path(state))
    places, sources = plan.stack.places(grown), plan.stack.sources(params)
    counts = own_counts(fresh, grown)

    def fit(path: KeyPath, new: Any) -> Any:
        span = span_of_parameter(path, places)
        if plan.policy == "reset" and (span is not None or path in counts):
            return new
        if span is None:
            return _if_alike(there.get(path), new)
        start, end = span
        parameter = path[start:end]
        place, source = places[parameter], sources[parameter]
        if source != parameter and plan.policy == "keep":
            return new
        old = there.get(path[:start] + source + path[end:])
        return _along_axis(old, new, place, plan.policy)

    return jax.tree_util.tree_map_with_path(fit, fresh)


def _along_axis(old: Any, new: Any, place: Place, policy: Policy) -> Any:
    """Concatenate the entries of existing and new layers, if they are in one array."""
    axis = place.axis
    if axis is None or old is None or jnp.ndim(old) <= axis or 2 * old.shape[axis] != new.shape[axis]:
        return _if_alike(old, new)
    added = old if policy == "copy" else jax.lax.slice_in_dim(new, old.shape[axis], None, axis=axis)
    return jnp.concatenate([old, added], axis)


def _if_alike(old: Any, new: Any) -> Any:
    alike = old is not None and (jnp.shape(old), old.dtype) == (jnp.shape(new), new.dtype)
    return old if alike else new
