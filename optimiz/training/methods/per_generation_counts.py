"""Layers of different ages under one optimizer: each generation has its own counts.

The moments of a new layer start at zero, so their bias must be corrected by the layer's own number of updates.
Optax's transformations, and those of this package, have one count for all parameters. Therefore the update is
computed once per generation, with the counts since that generation was added, and each layer takes the result
of its own generation. The rest is dead code, which the compiler removes: for unrolled layers the compiled
update costs no more than before.

A count belongs to the parameters if the same state holds something with one entry per parameter, such as
moments. The count of a schedule does not: layers share the learning rate.

An optimizer that evaluates the loss or the logits, such as a line search, decides for all layers at once; it is
run once, and the layers share its counts.
"""

import bisect
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optimiz.groups.state_paths import span_of_parameter
from optimiz.training.methods.layer_stack import KeyPath, Place, Stack
from optimiz.training.methods.recorded_calls import recorded

_COUNTS = ("count", "t")  # the latter in optax.contrib's Adan


class PerGenerationState(NamedTuple):
    """State of :func:`per_generation_counts`."""

    births: tuple[tuple[jax.Array, ...], ...]  # the counts when each generation but the first was added
    inner_state: Any  # the optimizer's state, with the counts of the first generation


def per_generation_counts(
    tx: optax.GradientTransformation, stack: Stack, depths: Sequence[int]
) -> optax.GradientTransformationExtraArgs:
    """An optimizer that corrects the moments of each layer by the layer's own count.

    ``init`` is for layers of the same age; :func:`optimiz.training.methods.growth.grow` makes the state of a
    model that has grown.

    Args:
        tx: the optimizer.
        stack: where the layers are.
        depths: number of layers at the start and after each growth, ascending.
    """
    tx = optax.with_extra_args_support(tx)

    def init_fn(params):
        state = tx.init(params)
        counts = own_counts(state, params)
        return PerGenerationState(tuple(tuple(map(jnp.zeros_like, counts.values())) for _ in depths[1:]), state)

    def update_fn(updates, state, params=None, **extra_args):
        places = stack.places(updates)
        called: set[str] = set()
        offered = {name: recorded(called, name, x) if callable(x) else x for name, x in extra_args.items()}

        def update(births):
            aged = _younger(state.inner_state, updates, births)
            return tx.update(updates, aged, params, **offered)

        outcomes = [tx.update(updates, state.inner_state, params, **offered)]
        if not called and any(state.births):
            outcomes += [update(births) for births in state.births]
        new_updates, inner_state = _assembled(outcomes, places, depths)
        return new_updates, PerGenerationState(state.births, inner_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def own_counts(state: Any, params: Any) -> dict[KeyPath, jax.Array]:
    """The counts of an optimizer's state that belong to the parameters, by key path."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    parameters = {path for path, _ in jax.tree_util.tree_leaves_with_path(params)}
    found = [(path, span_of_parameter(path, parameters)) for path, _ in leaves]
    # The state that holds a parameter's entry: the path without the name of the field.
    holders = {path[: span[0] - 1] for path, span in found if span is not None and span[0] > 0}
    return {
        path: leaf
        for path, leaf in leaves
        if path and getattr(path[-1], "name", None) in _COUNTS and path[:-1] in holders
    }


def _younger(state: Any, params: Any, births: Sequence[jax.Array]) -> Any:
    """The state with the counts of a generation."""
    counts = own_counts(state, params)
    ages = {path: count - born for (path, count), born in zip(counts.items(), births, strict=True)}
    return jax.tree_util.tree_map_with_path(lambda path, leaf: ages.get(path, leaf), state)


def _assembled(outcomes: Sequence[Any], places: Mapping[KeyPath, Place], depths: Sequence[int]) -> Any:
    """Assemble one tree of updates or states, in which each layer comes from its generation's tree."""

    def assemble(path: KeyPath, *leaves: jax.Array) -> jax.Array:
        span = span_of_parameter(path, places)
        place = Place(None, None) if span is None else places[path[slice(*span)]]
        if place.layer is not None:
            return leaves[bisect.bisect_right(depths, place.layer)]
        axis = place.axis
        if axis is None or jnp.ndim(leaves[0]) <= axis or jnp.shape(leaves[0])[axis] != depths[-1]:
            return leaves[0]
        bounds = itertools.pairwise((0, *depths))
        parts = [jax.lax.slice_in_dim(x, *b, axis=axis) for x, b in zip(leaves, bounds, strict=True)]
        return jnp.concatenate(parts, axis)

    if len(outcomes) == 1:
        return outcomes[0]
    return jax.tree_util.tree_map_with_path(assemble, *outcomes)
