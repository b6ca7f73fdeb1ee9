"""Which parameters of a pretrained model are trained, and how fast: ``--freeze`` and ``--layerwise_decay``."""

import collections
import dataclasses
import functools
import operator
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import optax

from optimiz import groups, training

ENCODER = "encoder"  # everything but the head
_HEAD = groups.path("^head/")
_FINAL_NORM = groups.Rule("final norm", lambda leaf: leaf.path.startswith("norm/"))


def pattern(item: str) -> groups.Rule:
    """The rule for which an item of ``--freeze`` stands.

    Args:
        item: ``"encoder"``, or a regular expression for paths such as ``layers/0/attention/query/kernel``.

    Raises:
        ValueError: it is not a regular expression.
    """
    if item == ENCODER:
        return ~_HEAD
    try:
        return groups.path(item)
    except (re.error, OverflowError) as error:
        message = f"freeze {item!r} must be {ENCODER} or a regular expression for paths: {error}"
        raise ValueError(message) from None


def frozen(items: Sequence[str]) -> groups.Rule:
    """The rule of what is frozen: whatever any of the items names."""
    return functools.reduce(operator.or_, map(pattern, items))


def freezing(tx: optax.GradientTransformation, items: Sequence[str]) -> optax.GradientTransformation:
    """An optimizer that has neither state nor updates for what is frozen; itself if there are no items."""
    return groups.freeze(tx, frozen(items)) if items else tx


def without_gradients(task: training.Task, items: Sequence[str]) -> training.Task:
    """The task without gradients of what is frozen, which are then not computed."""
    if not items:
        return task

    def held(function: Callable[..., Any]) -> Callable[..., Any]:
        def of_trained(params: Any, *args: Any, **given: Any) -> Any:
            stop = lambda leaf, still: jax.lax.stop_gradient(leaf) if still else leaf  # noqa: E731
            return function(jax.tree.map(stop, params, frozen(items)(params)), *args, **given)

        return of_trained

    logits = None if task.logits is None else held(task.logits)
    return dataclasses.replace(task, loss=held(task.loss), logits=logits)


def multiplied(multipliers: Callable[[Any], Any], decay: float | None) -> Callable[[Any], Any]:
    """Multipliers of the rate that also fall by a factor with each layer below the head.

    Args:
        multipliers: parameters → multipliers.
        decay: the factor, in (0, 1]; None for the multipliers alone. A norm behind the last layer has that
            layer's, as in timm.
    """
    if decay is None:
        return multipliers
    by_layer = groups.layerwise_decay(decay, with_last=_FINAL_NORM)
    return lambda params: jax.tree.map(operator.mul, multipliers(params), by_layer(params))


def facts(params: Any, items: Sequence[str], multipliers: Callable[[Any], Any]) -> dict[str, str]:
    """How many parameters are trained, and with which multipliers of the rate.

    Args:
        params: the parameters, or their shapes.
        items: what is frozen, as ``--freeze`` says it; empty for nothing.
        multipliers: parameters → multipliers of the rate.

    Raises:
        ValueError: an item names no parameter, or nothing is left to be trained.

    Example:
        >>> import jax.numpy as jnp
        >>> params = {"embeddings": jnp.ones(6), "layers": [jnp.ones(2), jnp.ones(2)], "head": jnp.ones(2)}
        >>> found = facts(params, ["^embeddings"], groups.layerwise_decay(0.5))
        >>> found["frozen"]
        '6 of 12 parameters (50.0%): ^embeddings'
        >>> found["multipliers of the rate"]
        'head 1, layers 0.25 to 0.5'
    """
    for item in items:
        try:
            answers = jax.tree.leaves(pattern(item)(params))
        except ValueError as error:
            no_head = "the head is the table of embeddings; name parts, such as ^layers/ or ^embeddings/"
            raise ValueError(f"--freeze={item}: {no_head if item == ENCODER else error}") from None
        if not any(answers):
            raise ValueError(f"--freeze={item} freezes nothing")
    still = frozen(items)(params) if items else jax.tree.map(lambda _: False, params)
    if all(jax.tree.leaves(still)):
        raise ValueError(f"--freeze={','.join(items)} freezes every parameter, and nothing would be trained")
    told = {}
    if items:
        sizes = [leaf.size for leaf in jax.tree.leaves(params)]
        held = sum(size for size, answer in zip(sizes, jax.tree.leaves(still), strict=True) if answer)
        total = sum(sizes)
        told["frozen"] = f"{held:,} of {total:,} parameters ({held / total:.1%}): {', '.join(items)}"
    found = collections.defaultdict(list)
    leaves = jax.tree_util.tree_leaves_with_path(multipliers(params))
    for (path, multiplier), answer in zip(leaves, jax.tree.leaves(still), strict=True):
        if not answer:
            found[jax.tree_util.keystr(path[:1], simple=True)].append(multiplier)
    ranges = {part: dict.fromkeys(f"{x:.4g}" for x in (min(some), max(some))) for part, some in found.items()}
    told["multipliers of the rate"] = ", ".join(f"{part} {' to '.join(ends)}" for part, ends in ranges.items())
    return told
