"""The order of a chain, checked while an update is traced.

Optax's ``chain`` tells its members nothing of each other: a transformation is given updates, and not who comes
after it. But while one is called, the call of its chain is on the stack, with all members and the states of
those that are done. That is read here, however deep the chain and whatever is around it. A chain that is not
Optax's is not seen.
"""

import inspect
from collections.abc import Callable, Iterator
from types import CodeType, FrameType
from typing import Any, NamedTuple

import jax
import optax

# The states of the two transformations that are a step, the learning rate and the search.
_STEPS = {"ScaleByLearningRateState", "ScaleByConstantRateState", "ScaleByArmijoState"}

_REWRITE = {"lookahead", "mechanize", "schedule_free"}


def comes_last(name: str, params: optax.Params | None) -> None:
    """Check that nothing comes after the transformation that is being called, in no chain around it.

    Args:
        name: of the transformation, for the message.
        params: that it is given. Where some are masked, what comes after may be of the others.

    Raises:
        ValueError: something does; or a wrapper of Optax makes another update of what this one makes.
    """
    for wrapper in _rewriting():
        raise ValueError(
            f"{name} must come last, and optax's {wrapper} is around it: put it behind that, in a chain"
        )
    for chain in _chains():
        for update in chain.after:
            if not (_changes_nothing(update) or (_has_holes(params) and _code(update) in _OF_SOME)):
                raise ValueError(
                    f"{name} must be the last of a chain, for what comes after it undoes it; here comes "
                    f"{_name(update)}: put {name} behind it"
                )


def no_step_before(name: str, updates: optax.Updates, why: str) -> None:
    """Check that no step comes before the transformation that is being called, in no chain around it.

    Args:
        name: of the transformation, for the message.
        updates: that it is given. Where some are masked, a step may have been of the others.
        why: what is wrong about it.

    Raises:
        ValueError: one does.
    """
    if _has_holes(updates):
        return
    for chain in _chains():
        if any(_is_step(node) for node in jax.tree.leaves(chain.states, is_leaf=_is_step_or_of_some)):
            raise ValueError(f"{name} comes after a step in its chain: {why}")


def no_decay_after(name: str, updates: optax.Updates) -> None:
    """Check that Optax's weight decay does not come after the step that is being called, in no chain around it.

    Args:
        name: of the step, for the message.
        updates: that it is given. Where some are masked, the decay may be of the others.

    Raises:
        ValueError: it does, and is not negative.
    """
    if not _has_holes(updates) and any(_decays(update) for chain in _chains() for update in chain.after):
        raise ValueError(
            f"optax.add_decayed_weights comes after a step, {name}, in its chain: parameters would grow; give "
            "weight_decay to the optimizer, or put it before the step"
        )


class _Chain(NamedTuple):
    """A chain that is being called."""

    after: list[Callable[..., Any]]  # update functions that are still to come
    states: list[Any]  # of the members that are done


def _frames() -> Iterator[FrameType]:
    """What is being called, the innermost first."""
    frame = inspect.currentframe()
    while frame is not None:
        yield frame
        frame = frame.f_back


def _rewriting() -> Iterator[str]:
    """The wrappers of Optax that are being called and make another update of what they are given."""
    for frame in _frames():
        name = frame.f_code.co_qualname.partition(".")[0]
        if name in _REWRITE and str(frame.f_globals.get("__name__")).startswith("optax."):
            yield name


def _chains() -> Iterator[_Chain]:
    """The chains that are being called, the innermost first."""
    for frame in _frames():
        if frame.f_code in _CHAINS:
            seen = frame.f_locals
            done = seen.get("new_state", {})
            updates = seen.get("update_fns") or [tx.update for _, tx in seen.get("transforms", [])]
            states = done.values() if isinstance(done, dict) else done
            yield _Chain(list(updates)[len(done) + 1 :], list(states))


def _code(function: Any) -> CodeType | None:
    return getattr(function, "__code__", None)


_CHAIN = optax.chain(optax.identity()).update
_IDENTITY = _code(optax.identity().update)
_WITH_EXTRA_ARGS = _code(optax.with_extra_args_support(optax.identity()).update)
_CHAINS = {_code(_CHAIN), _code(optax.named_chain(("a", optax.identity())).update)}
_OF_SOME = {
    _code(optax.masked(optax.identity(), True).update),
    _code(optax.partition({0: optax.identity()}, 0).update),
}


def _within(update: Callable[..., Any]) -> Callable[..., Any]:
    """The update function within what lets it ignore extra arguments."""
    if _code(update) is _WITH_EXTRA_ARGS:
        return inspect.getclosurevars(update).nonlocals["tx"].update
    return update


def _decays(update: Callable[..., Any]) -> bool:
    update = _within(update)
    if _code(update) in _OF_SOME and "inner" in (held := inspect.getclosurevars(update).nonlocals):
        return _decays(held["inner"].update)
    if _name(update) != "add_decayed_weights":
        return False
    decay = inspect.getclosurevars(update).nonlocals.get("weight_decay")
    return not isinstance(decay, int | float) or decay > 0


def _changes_nothing(update: Callable[..., Any]) -> bool:
    update = _within(update)
    if _code(update) is _code(_CHAIN):
        return all(map(_changes_nothing, inspect.getclosurevars(update).nonlocals["update_fns"]))
    return _code(update) is _IDENTITY


def _name(update: Callable[..., Any]) -> str:
    return getattr(_within(update), "__qualname__", repr(update)).partition(".")[0]


def _has_holes(tree: Any) -> bool:
    nodes = jax.tree.leaves(tree, is_leaf=lambda node: isinstance(node, optax.MaskedNode))
    return any(isinstance(node, optax.MaskedNode) for node in nodes)


def _is_step(node: Any) -> bool:
    return type(node).__name__ in _STEPS


def _is_step_or_of_some(node: Any) -> bool:
    return _is_step(node) or isinstance(node, optax.MaskedState | optax.transforms.PartitionState)
