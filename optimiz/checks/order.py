"""The order of a chain, checked while an update is traced.

A member of ``optax.chain`` does not know the other members. But while it is called, the frame of its chain is
on the stack, with all members and the new states of those that have run. This is read here, however deep the
chain is nested. Only Optax's chains are seen.
"""

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from types import CodeType
from typing import Any, NamedTuple

import jax
import optax
from jax.core import Tracer

# The states of the transformations that are a step: the learning rate, the sphere, the search, and the
# schedule-free rule.
_STEPS = {
    "ScaleByLearningRateState",
    "ScaleByConstantRateState",
    "ProjectToSphereState",
    "ScaleByArmijoState",
    "ScheduleFreeState",
}

# The wrappers that replace the update of what they wrap, with the package of each.
_REWRITE = {"lookahead": "optax", "mechanize": "optax", "schedule_free": "optax", "cautious": "optimiz"}


def comes_last(name: str, params: optax.Params | None, but: Collection[str] = ()) -> None:
    """Check that nothing comes after the transformation that is being called, in any chain around it.

    Args:
        name: name of the transformation, for the message.
        params: parameters that it is given. If some are masked, a later transformation may act on those.
        but: names of transformations of this suite that may come after it.

    Raises:
        ValueError: something comes after it, or a wrapper replaces its update.
    """
    _refuse_wrappers(f"{name} must come last", "put it behind that, in a chain")
    for update in _after(params, lambda part: _is_ours(part, but)):
        raise ValueError(
            f"{name} must be the last of a chain, for what comes after it undoes it; here comes "
            f"{_name(update)}: put {name} behind it"
        )


def step_follows(name: str, params: optax.Params | None, but: Collection[str]) -> None:
    """Check that the direction of the transformation that is being called is stepped along as it is.

    Args:
        name: name of the transformation, for the message.
        params: parameters that it is given. If some are masked, a later transformation may act on those.
        but: names of transformations of this suite that may come after the step.

    Raises:
        ValueError: something else than a step comes after it, or a wrapper replaces its update.
    """
    why = f"{name} counts on the step that its own direction makes"
    _refuse_wrappers(why, "take it out of that")
    for update in _after(params, lambda part: _is_ours(part, but) or _steps(part) or _negates(part)):
        raise ValueError(f"{why}; here comes {_name(update)} after it: put that before {name}")


def _refuse_wrappers(why: str, advice: str) -> None:
    for wrapper in _rewriting():
        raise ValueError(f"{why}, and {wrapper} is around it: {advice}")


def _after(
    params: optax.Params | None, allowed: Callable[[Callable[..., Any]], bool]
) -> Iterator[Callable[..., Any]]:
    """What comes after the transformation that is being called, and has a part that is not allowed."""
    for chain in _chains():
        for update in chain.after:
            if _has_holes(params) and _code(update) in _OF_SOME:
                continue
            if not all(_code(part) in _HARMLESS or allowed(part) for part in _parts(update)):
                yield update


def no_step_before(name: str, updates: optax.Updates, why: str) -> None:
    """Check that no step comes before the transformation that is being called, in any chain around it.

    Args:
        name: name of the transformation, for the message.
        updates: updates that it is given. If some are masked, a step may have acted on those.
        why: reason why that is wrong, for the message.

    Raises:
        ValueError: a step comes before it.
    """
    _refuse_step_before(_chains(), name, updates, why)


def no_step_in(name: str, tx: optax.GradientTransformation, state: Any, params: optax.Params) -> None:
    """Check that a transformation is a direction and makes no steps.

    Args:
        name: name of what needs a direction, for the message.
        tx: the transformation.
        state: its state.
        params: the parameters that the state is of.

    Raises:
        ValueError: it makes steps.
    """
    if _has_stepped(tx.update, state, params):
        raise ValueError(
            f"{name} goes around a direction, such as scale_by_adam(…), and not around what makes steps: put "
            "weight decay and the learning rate behind it, in a chain"
        )


def only_step(name: str, updates: optax.Updates, why: str) -> None:
    """Check that no step comes before the step that is being called, and no step or decay of Optax after it.

    Args:
        name: name of the step, for the message.
        updates: updates that it is given. If some are masked, other steps and decays may act on those.
        why: reason why a step before it is wrong, for the message.

    Raises:
        ValueError: there is one. A decay is refused if it, or the second value of its schedule, is positive.
    """
    chains = _chains()
    _refuse_step_before(chains, name, updates, why)
    after = [update for chain in chains for update in chain.after]
    if not after or _has_holes(updates):
        return
    if any(_steps(part) for update in after for part in _parts(update)):
        raise ValueError(
            f"a step of Optax comes after a step, {name}, in its chain: a second minus goes uphill; "
            "optax.scale makes a step shorter"
        )
    if any(map(_decays, after)):
        raise ValueError(
            f"optax.add_decayed_weights comes after a step, {name}, in its chain: parameters would grow; give "
            "weight_decay to the optimizer, or put it before the step"
        )


def _refuse_step_before(chains: list["_Chain"], name: str, updates: optax.Updates, why: str) -> None:
    for chain in chains:
        if any(_has_stepped(*member, updates) for member in chain.done) and not _has_holes(updates):
            raise ValueError(f"{name} comes after a step in its chain: {why}")


class _Chain(NamedTuple):
    """A chain that is being called."""

    after: list[Callable[..., Any]]  # update functions that have not run yet
    done: list[tuple[Callable[..., Any], Any]]  # update functions that have run, with their new states


def _rewriting() -> Iterator[str]:
    """The wrappers that are being called and replace the update of what they wrap."""
    frame = inspect.currentframe()
    while frame is not None:
        name = frame.f_code.co_qualname.partition(".")[0]
        package = _REWRITE.get(name)
        if package is not None and str(frame.f_globals.get("__name__")).startswith(f"{package}."):
            yield f"{package}'s {name}"
        frame = frame.f_back


def _chains() -> list[_Chain]:
    """The chains that are being called, innermost first."""
    chains, frame = [], inspect.currentframe()
    while frame is not None:  # at every update outside of jit, of a stack that may be deep
        if id(frame.f_code) in _IDS_OF_CHAINS:  # which hashes no code
            seen = frame.f_locals
            done = seen.get("new_state", {})
            updates = seen.get("update_fns") or [tx.update for _, tx in seen.get("transforms", [])]
            states = done.values() if isinstance(done, dict) else done
            chains.append(_Chain(list(updates)[len(done) + 1 :], list(zip(updates, states, strict=False))))
        frame = frame.f_back
    return chains


def _code(function: Any) -> CodeType | None:
    return getattr(function, "__code__", None)


_WITH_EXTRA_ARGS = _code(optax.with_extra_args_support(optax.identity()).update)
_CHAINS = {
    _code(optax.chain(optax.identity()).update),
    _code(optax.named_chain(("a", optax.identity())).update),
}
_IDS_OF_CHAINS = set(map(id, _CHAINS))
_MASKED = _code(optax.masked(optax.identity(), True).update)
_OF_SOME = {_MASKED, _code(optax.partition({0: optax.identity()}, 0).update)}
_MADE_OF_OTHERS = _CHAINS | _OF_SOME
# A chain may end with these; what is frozen needs no rounding.
_HARMLESS = {
    _code(tx.update) for tx in (optax.identity(), optax.set_to_zero(), optax.snapshot("norm", optax.tree.norm))
}


def _within(update: Callable[..., Any]) -> Callable[..., Any]:
    """The update function inside ``optax.with_extra_args_support``."""
    if _code(update) is _WITH_EXTRA_ARGS:
        return _held(update)["tx"].update
    return update


def _held(update: Callable[..., Any]) -> Mapping[str, Any]:
    """The variables that an update function closes over, by name."""
    code = _code(update)
    cells = getattr(update, "__closure__", None) or ()
    return {} if code is None else {n: c.cell_contents for n, c in zip(code.co_freevars, cells, strict=True)}


def _parts(update: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    """The update functions inside chains, masks and partitions of Optax, or the given one."""
    update = _within(update)
    if _code(update) not in _MADE_OF_OTHERS:
        yield update
        return
    held = _held(update)
    transforms = held.get("transforms", {})
    txs = transforms.values() if isinstance(transforms, dict) else [tx for _, tx in transforms]
    inner = [held["inner"].update] if "inner" in held else []
    for part in (*held.get("update_fns", ()), *(tx.update for tx in txs), *inner):
        yield from _parts(part)


def _decays(update: Callable[..., Any]) -> bool:
    """Whether the parts include Optax's weight decay with a positive number or schedule."""
    for part in _parts(update):
        if _name(part) == "add_decayed_weights":
            decay: Any = _held(part).get("weight_decay", 0.0)
            with jax.ensure_compile_time_eval():
                decay = decay(1) if callable(decay) else decay
                if isinstance(decay, Tracer) or decay > 0:
                    return True
    return False


def _has_stepped(update: Callable[..., Any], state: Any, updates: optax.Updates) -> bool:
    """Whether a transformation with such a state is a step, of all or of some parameters."""
    update = _within(update)
    if _code(update) is _MASKED:
        mask = _held(update)["mask"]
        by_call = callable(mask) and jax.tree_util.all_leaves([mask])
        if not any(jax.tree.leaves(mask(updates) if by_call else mask)):
            return False
    return any(map(_is_step, jax.tree.leaves(state, is_leaf=_is_step))) or any(map(_steps, _parts(update)))


def _steps(update: Callable[..., Any]) -> bool:
    """Whether this is a step of Optax. A factor of exactly -1, for gradient ascent, is not one."""
    held = _held(update) if _name(update) in ("scale", "scale_by_schedule") else {}
    if "step_size_fn" in held:
        schedule = held["step_size_fn"]
        return _name(schedule) == "scale_by_learning_rate" and _held(schedule)["m"] == -1
    rate = held.get("step_size")
    return isinstance(rate, int | float) and rate < 0 and rate != -1


def _negates(update: Callable[..., Any]) -> bool:
    """Whether this is ``optax.scale(-1)``, a step at a learning rate of 1."""
    return _name(update) == "scale" and _held(update).get("step_size") == -1


def _is_ours(update: Callable[..., Any], names: Collection[str]) -> bool:
    """Whether this is one of these transformations of the suite."""
    return _name(update) in names and str(update.__module__).startswith("optimiz.")


def _name(function: Any) -> str:
    name = getattr(_within(function), "__qualname__", None)
    return (repr(function) if name is None else name).partition(".")[0]


def _has_holes(tree: Any) -> bool:
    nodes = jax.tree.leaves(tree, is_leaf=lambda node: isinstance(node, optax.MaskedNode))
    return any(isinstance(node, optax.MaskedNode) for node in nodes)


def _is_step(node: Any) -> bool:
    return type(node).__name__ in _STEPS
