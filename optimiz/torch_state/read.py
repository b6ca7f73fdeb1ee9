"""From PyTorch: a chain of ours that goes on where an optimizer of ``torch.optim`` stopped."""

import collections
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from optimiz import checks
from optimiz.groups.rules import read
from optimiz.torch_state import factored
from optimiz.torch_state.moments import filled
from optimiz.torch_state.recipes import Group, Now, Recipe, rate_of, scalar, transformation
from optimiz.torch_state.state_dict import Member, groups_of, recipe_of, steps_of
from optimiz.torch_state.tensors import Tensor, array_of, places_of


class FromTorch(NamedTuple):
    """An optimizer that was read from PyTorch.

    Attributes:
        tx: the transformation, with the settings of PyTorch's groups.
        state: its state.
        updates: number of updates that PyTorch has made.
        frozen: paths of the parameters that ``tx`` leaves as they are: those that PyTorch's optimizer does not
            have, and those that have had no gradient.
    """

    tx: optax.GradientTransformationExtraArgs
    state: optax.OptState
    updates: int
    frozen: tuple[str, ...]


class _Part(NamedTuple):
    """What parameters have in common that are one transformation here."""

    group: int
    steps: int
    dtype: np.dtype | None
    torch_dtype: np.dtype


def from_torch(
    name: str,
    state_dict: Mapping[str, Any],
    params: optax.Params,
    tensors: Mapping[str, Tensor | str],
    *,
    names: Sequence[str] | None = None,
    learning_rate: Callable[[float], optax.ScalarOrSchedule] | None = None,
    updates: int | None = None,
) -> FromTorch:
    """Read the state of an optimizer of PyTorch.

    Parameters of one group that have had different numbers of updates keep these numbers. Parameters without a
    state, where others have one, have had no gradient, and are frozen.

    Args:
        name: class of ``torch.optim``, one of ``"Adam"``, ``"AdamW"``, ``"SGD"`` and ``"Adafactor"``.
        state_dict: its ``state_dict()``, with arrays of NumPy in place of tensors.
        params: our parameters, which hold the values of PyTorch's.
        tensors: path of the parameter here, or :class:`Tensor`, by the name of each of PyTorch's parameters.
        names: names of PyTorch's parameters in the order in which its optimizer was given them; None if its
            groups have ``param_names``, or the state has names for keys.
        learning_rate: function from a group's rate, before PyTorch's scheduler has changed it, to a number or a
            schedule of the count of updates; None for the rate that the group has now, as a constant.
        updates: number of updates that PyTorch has made; None for the largest ``step``. SGD keeps no such
            number, and needs it for a schedule.

    Returns:
        The transformation, its state, the number of updates, and what is frozen.

    Raises:
        TypeError: an argument has the wrong type, or an entry of the state is no array, or is complex.
        ValueError: the class is another; a name, a setting or an entry is missing, or an array has another
            shape than its parameter; two of PyTorch's parameters are one here; or Adafactor takes means along
            other axes, or of other parameters, than ours.

    Example:
        >>> ones = np.ones(2, np.float32)
        >>> entry = {"step": np.float32(1), "exp_avg": ones, "exp_avg_sq": ones}
        >>> group = {"lr": 0.1, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0, "amsgrad": False}
        >>> state_dict = {"state": {0: entry}, "param_groups": [group | {"params": [0]}]}
        >>> found = from_torch("AdamW", state_dict, {"bias": jnp.zeros(2)}, {"b": "bias"}, names=["b"])
        >>> optax.tree.get(found.state, "count").item(), found.state[0].mu["bias"].tolist()
        (1, [1.0, 1.0])
    """
    recipe, places = recipe_of(name), places_of(tensors, params)
    groups = groups_of(name, state_dict, places, names)
    if updates is not None:
        checks.integer("updates", updates, ge=0)
    members = [(i, group, member) for i, (group, members) in enumerate(groups) for member in members]
    entries = {member.name: _entry(state_dict, member) for *_, member in members}
    made = {m.name: steps_of(m, entries[m.name]) for *_, m in members if entries[m.name] and recipe.counts}
    if updates is None:
        if learning_rate is not None and not recipe.counts:
            raise ValueError(f"updates must be given for a schedule: torch.optim.{name} does not count them")
        updates = max(made.values(), default=0)
    if late := [name for name, steps in made.items() if steps > updates]:
        raise ValueError(f"updates must be at least the step of {late[0]!r}, {made[late[0]]}, got {updates}")

    parts, moments = collections.defaultdict(list), {}
    for i, group, member in members:
        entry = entries[member.name]
        keys = _keys(recipe, group, member)
        if keys and not entry and any(entries.values()):
            continue  # it has had no gradient
        arrays = {key: _moment(member, entry, key, recipe) for key in keys} if entry else {}
        torch_dtype = _dtype(arrays) if arrays else member.place.leaves[0].dtype
        for path, leaf in zip(member.place.tensor.paths, member.place.leaves, strict=True):
            wide = jnp.promote_types(leaf.dtype, torch_dtype)
            part = _Part(i, _steps(recipe, made.get(member.name), arrays, updates), None, np.dtype(torch_dtype))
            part = part._replace(dtype=None if wide == leaf.dtype else np.dtype(wide))
            parts[part].append(path)
            moments[path] = {}
        for key, array in arrays.items():
            for path, x in member.place.to_ours(array).items():
                moments[path][keys[key]] = x
        if recipe.factored and arrays:
            [path] = member.place.tensor.paths
            moments[path] |= factored.empty(moments[path])
    return _assembled(recipe, groups, params, parts, moments, updates, learning_rate)


def _assembled(
    recipe: Recipe,
    groups: Sequence[tuple[Group, Any]],
    params: optax.Params,
    parts: Mapping[_Part, list[str]],
    moments: Mapping[str, Mapping[str, np.ndarray]],
    updates: int,
    learning_rate: Callable[[float], Any] | None,
) -> FromTorch:
    labels = {path: str(i) for i, paths in enumerate(parts.values()) for path in paths}
    txs = {}
    for i, part in enumerate(parts):
        group = groups[part.group][0]
        now = Now(rate_of(group, learning_rate), updates - part.steps, part.dtype, part.torch_dtype)
        txs[str(i)] = transformation(recipe, group, now)
    frozen = tuple(leaf.path for leaf in read(params).leaves if leaf.path not in labels)

    def labelled(tree: optax.Params) -> Any:
        reading = read(tree)
        return reading.tree([labels.get(leaf.path, "frozen") for leaf in reading.leaves])

    def restored(state: optax.OptState, part: _Part) -> optax.OptState:
        return filled(state, moments, part.steps, updates, scalar(groups[part.group][0], "lr"))

    if len(txs) == 1 and not frozen:
        [tx], [part] = txs.values(), parts
        return FromTorch(tx, restored(tx.init(params), part), updates, frozen)
    if frozen:
        txs["frozen"] = optax.set_to_zero()
    tx = optax.partition(txs, labelled)
    state: Any = tx.init(params)
    inner = dict(state.inner_states)
    for i, part in enumerate(parts):
        inner[str(i)] = restored(inner[str(i)], part)
    return FromTorch(tx, state._replace(inner_states=inner), updates, frozen)


def _entry(state_dict: Mapping[str, Any], member: Member) -> Mapping[str, Any]:
    entry = state_dict["state"].get(member.key) or {}
    # SGD of older versions has a buffer of None.
    return {key: value for key, value in entry.items() if value is not None}


def _keys(recipe: Recipe, group: Group, member: Member) -> Mapping[str, str]:
    return factored.keys_of(member.place) if recipe.factored else recipe.moments(group)


def _dtype(arrays: Mapping[str, np.ndarray]) -> Any:
    return functools.reduce(jnp.promote_types, (array.dtype for array in arrays.values()))


def _steps(recipe: Recipe, made: int | None, arrays: Mapping[str, Any], updates: int) -> int:
    if recipe.counts:
        return made or 0
    # SGD asks only whether there is momentum yet.
    return max(updates, 1) if arrays else 0


def _moment(member: Member, entry: Mapping[str, Any], key: str, recipe: Recipe) -> np.ndarray:
    what = f"{key} of {member.name!r}"
    if key not in entry:
        raise ValueError(f"the state of {member.name!r} has no {key}, but {', '.join(map(str, entry))}")
    array = array_of(what, entry[key])
    wanted = factored.shape_of(member.place, key) if recipe.factored else member.place.shape
    if array.shape != wanted:
        raise ValueError(f"{what} must have shape {wanted}, which tensors gives it, got {array.shape}")
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(f"{what} must be floating point, got {array.dtype}")
    if jax.dtypes.canonicalize_dtype(array.dtype) != array.dtype:
        raise ValueError(f"{what} is {array.dtype}, which JAX has only with jax_enable_x64: convert it first")
    return array
