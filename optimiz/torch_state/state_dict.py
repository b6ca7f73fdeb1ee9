"""A ``state_dict`` of PyTorch: its groups, and the names of their parameters."""

import dataclasses
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from optimiz import checks
from optimiz.torch_state.recipes import RECIPES, Group, Recipe
from optimiz.torch_state.tensors import Place, array_of


@dataclasses.dataclass(frozen=True)
class Member:
    """A parameter of a group: its key in the state, and its place here."""

    key: Hashable
    place: Place

    @property
    def name(self) -> str:
        """Its name in PyTorch."""
        return self.place.name


def recipe_of(name: str) -> Recipe:
    """The recipe of a class of ``torch.optim``.

    Raises:
        ValueError: its state is not converted.
    """
    checks.one_of("name", name, tuple(RECIPES))
    return RECIPES[name]


def groups_of(
    name: str, state_dict: Any, places: Mapping[str, Place], names: Sequence[str] | None
) -> list[tuple[Group, list[Member]]]:
    """The groups of a ``state_dict``, and the members of each.

    Args:
        name: name of the class.
        state_dict: the ``state_dict``.
        places: places of the parameters by name.
        names: names in the order in which PyTorch's optimizer has the parameters, or None.

    Raises:
        TypeError: it is no ``state_dict``.
        ValueError: a setting or a name is missing, or the settings are of another class; two parameters have
            one name, or one of ours two.
    """
    if not isinstance(state_dict, Mapping) or not {"state", "param_groups"} <= state_dict.keys():
        raise TypeError(
            f"a state_dict has the keys 'state' and 'param_groups', got {type(state_dict).__name__}"
            + (f" with {', '.join(map(repr, list(state_dict)[:8]))}" if isinstance(state_dict, Mapping) else "")
        )
    named = _named(state_dict["param_groups"], names)
    found, owners = [], {}
    for group, members in zip(state_dict["param_groups"], named, strict=True):
        _check_settings(name, group)
        for _, known in members:
            if known not in places:
                raise ValueError(
                    f"tensors must have {known!r}, which the optimizer trains; it has {_some(places)}"
                )
            for path in places[known].tensor.paths:
                if path in owners:
                    raise ValueError(f"{path} cannot have the state of both {owners[path]!r} and {known!r}")
                owners[path] = known
        found.append((group, [Member(key, places[known]) for key, known in members]))
    keys = {member.key for _, members in found for member in members}
    if strangers := [key for key in state_dict["state"] if key not in keys]:
        raise ValueError(f"the state has {_some(strangers)}, of no group")
    return found


def _named(groups: Sequence[Group], names: Sequence[str] | None) -> list[list[tuple[Hashable, str]]]:
    """The key and the name of each parameter, by group."""
    count = sum(len(group["params"]) for group in groups)
    if names is not None and len(names) != count:
        raise ValueError(
            f"names must have one for each of the optimizer's {count} parameters, got {len(names)}"
        )
    found, before = [], 0
    for group in groups:
        keys = list(group["params"])
        if names is not None:
            known = list(names[before : before + len(keys)])
        elif "param_names" in group:
            known = list(group["param_names"])
        elif all(isinstance(key, str) for key in keys):
            known = keys
        else:
            raise ValueError(
                "names must be given: this state_dict numbers its parameters; they are "
                "[name for name, _ in model.named_parameters()] if the optimizer got model.parameters()"
            )
        found.append(list(zip(keys, known, strict=True)))
        before += len(keys)
    return found


def _check_settings(name: str, group: Group) -> None:
    wanted = ("lr", "weight_decay", *RECIPES[name].settings)
    if missing := [key for key in wanted if key not in group]:
        raise ValueError(f"a group of torch.optim.{name} has {', '.join(missing)}, which this lacks")
    decoupled = group.get("decoupled_weight_decay")
    if name in ("Adam", "AdamW") and decoupled is not None and bool(decoupled) != (name == "AdamW"):
        raise ValueError(f"decoupled_weight_decay={decoupled} is not that of torch.optim.{name}")


def steps_of(member: Member, entry: Mapping[str, Any]) -> int:
    """The number of updates that a parameter has had.

    Raises:
        ValueError: it is absent, or no count.
    """
    if "step" not in entry:
        raise ValueError(f"the state of {member.name!r} has no step, but {_some(entry)}")
    step = array_of(f"the step of {member.name!r}", entry["step"])
    if step.size != 1 or not 0 <= step < 2**31 or step != step.astype("int64"):
        raise ValueError(f"the step of {member.name!r} must be a number of updates, got {entry['step']!r}")
    return int(step.reshape(()))


def _some(names: Any) -> str:
    shown = [repr(name) for name in list(names)[:8]]
    return ", ".join(shown) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
