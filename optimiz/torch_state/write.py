"""To PyTorch: the state of ours, as an optimizer of ``torch.optim`` loads it."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax

from optimiz.torch_state import factored
from optimiz.torch_state.moments import Found, found_in
from optimiz.torch_state.recipes import Group, Recipe
from optimiz.torch_state.state_dict import Member, groups_of, recipe_of
from optimiz.torch_state.tensors import Tensor, places_of


def to_torch(
    name: str,
    state: optax.OptState,
    params: optax.Params,
    tensors: Mapping[str, Tensor | str],
    template: Mapping[str, Any],
    *,
    names: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Write the state of an optimizer for PyTorch.

    The settings are those of the template: what our transformation was built with does not show in its state. A
    moment of bfloat16 becomes float32, and PyTorch rounds it to the parameter's dtype when it loads it.

    Args:
        name: class of ``torch.optim``, one of ``"Adam"``, ``"AdamW"``, ``"SGD"`` and ``"Adafactor"``.
        state: state of our optimizer, such as ``optimiz.adamw``, alone, in a chain, or in ``optax.partition``.
        params: our parameters, or their shapes.
        tensors: path of the parameter here, or :class:`Tensor`, by the name of each of PyTorch's parameters.
        template: ``state_dict()`` of the optimizer of PyTorch that is to go on; only its groups are read.
        names: names of PyTorch's parameters in the order in which its optimizer was given them; None if its
            groups have ``param_names``, or the state has names for keys.

    Returns:
        A ``state_dict`` with arrays of NumPy in place of tensors, and the groups of the template.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: the class is another; a name or a setting is missing; the state has what PyTorch has no
            place for, or lacks what a group needs, such as its momentum; or it is of a parameter that the
            template does not have.

    Example:
        >>> import optimiz
        >>> params = {"bias": jnp.zeros(2)}
        >>> tx = optimiz.sgd(0.1, momentum=0.9)
        >>> _, state = tx.update({"bias": jnp.ones(2)}, tx.init(params), params)
        >>> group = {"lr": 0.1, "momentum": 0.9, "dampening": 0, "nesterov": False, "weight_decay": 0}
        >>> template = {"state": {}, "param_groups": [group | {"params": [0]}]}
        >>> to_torch("SGD", state, params, {"b": "bias"}, template, names=["b"])["state"]
        {0: {'momentum_buffer': array([1., 1.], dtype=float32)}}
    """
    recipe, places = recipe_of(name), places_of(tensors, params)
    fresh = {**template, "state": {}} if isinstance(template, Mapping) else template
    groups = groups_of(name, fresh, places, names)
    found = found_in(state, name)
    entries, written = {}, set()
    for group, members in groups:
        for member in members:
            paths = member.place.tensor.paths
            written.update(paths)
            have = [path for path in paths if path in found]
            if have and len(have) < len(paths):
                lacking = next(path for path in paths if path not in found)
                raise ValueError(
                    f"{member.name!r} is of several parameters, and the state has none of {lacking}"
                )
            _check_fits(name, recipe, group, member, found)
            entry = _entry(recipe, group, member, [found[path] for path in have]) if have else {}
            if entry:
                entries[member.key] = entry
    if lost := [path for path in found if path not in written]:
        raise ValueError(f"the template has no parameter for the state of {', '.join(lost[:8])}")
    return {"state": entries, "param_groups": copy.deepcopy(list(template["param_groups"]))}


def _check_fits(name: str, recipe: Recipe, group: Group, member: Member, found: Mapping[str, Found]) -> None:
    keys = factored.keys_of(member.place) if recipe.factored else recipe.moments(group)
    wanted = set(keys.values())
    if recipe.factored:
        wanted = {"v_row", "v_col", "v"}
    if wanted and not found:
        raise ValueError(f"the state has no moments, but {', '.join(keys)} of torch.optim.{name} begin at them")
    for path, leaf in zip(member.place.tensor.paths, member.place.leaves, strict=True):
        if path not in found:
            continue
        fields = found[path].fields
        if fields.keys() != wanted:
            raise ValueError(
                f"the state of {path} has {', '.join(fields)}, but the group of {member.name!r} in "
                f"torch.optim.{name} needs {', '.join(sorted(wanted)) or 'none'}"
            )
        for field, x in fields.items():
            shape = leaf.shape
            if recipe.factored:
                of_key = {ours: key for key, ours in keys.items()}
                shape = _shape(member, of_key[field]) if field in of_key else ()
            if x.shape != shape or not jnp.issubdtype(x.dtype, jnp.floating):
                raise ValueError(
                    f"{field} of {path} must be floating point of shape {shape}, got {x.dtype}{list(x.shape)}"
                )


def _shape(member: Member, key: str) -> tuple[int, ...]:
    shape = factored.shape_of(member.place, key)
    return tuple(np.array(shape, int)[np.argsort(member.place.axes)].tolist())


def _entry(recipe: Recipe, group: Group, member: Member, found: Sequence[Found]) -> dict[str, np.ndarray]:
    paths = member.place.tensor.paths
    counts = {one.count for one in found}
    if len(counts) > 1:
        raise ValueError(f"{member.name!r} is of parameters with different counts of updates, {counts}")
    [count] = counts
    if count == 0:
        return {}  # which PyTorch starts by itself
    keys = factored.keys_of(member.place) if recipe.factored else recipe.moments(group)
    entry = {"step": np.asarray(count, np.float32)} if recipe.counts else {}
    for key, field in keys.items():
        arrays = {path: _of_numpy(one.fields[field]) for path, one in zip(paths, found, strict=True)}
        entry[key] = member.place.to_torch(arrays)
    return entry


def _of_numpy(x: np.ndarray) -> np.ndarray:
    return x if x.dtype in (np.float16, np.float32, np.float64) else x.astype(np.float32)
