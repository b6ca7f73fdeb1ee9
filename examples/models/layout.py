"""What files in the Hugging Face layout call the parameters of a model.

A tensor of the file is one parameter, or several side by side, and a linear map may lie there transposed.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
from flax import nnx

from examples.models.adapters import Keys

_NOTHING = r"(?!)"
_NUMBER = r"(?<=/)\d+(?=/)"
# What a model was wrapped in when it was saved, beside torch.compile, whose name may stand anywhere.
_WRAPPERS = r"^((module|_forward_module|auto_model|model)\.)+"
_LEAVES = {"bias": "bias", "kernel": "weight", "scale": "weight", "embedding": "weight"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """What the files of one family of models call things.

    Attributes:
        model_type: as in `config.json`.
        architecture: the class of `transformers` that reads what is written.
        config: the dataclass of the configuration.
        model: (configuration, rngs=...) → the module.
        fields: field of the configuration → key in `config.json`; an absent key leaves the field its default.
        complete: `config.json` → the same with keys that it implies.
        fixed: keys that, set otherwise, make the same tensors mean another model.
        modules: name in the file → path here, of a module or of a parameter. Several paths are tensors that the
            file holds as one, side by side along their outputs. A number, of a layer, is `{}` on both sides.
        prefix: of the names in files of a model with a head; in others it may be absent.
        ignored: expression that finds, of the tensors that the model lacks, those that do not matter.
        special: key in `config.json` of a special token's id → the token's role.
        as_kernels: expression that finds the linear maps that the file stores as `[inputs, outputs]`; all
            others are `[outputs, inputs]`, the transpose of a kernel.
    """

    model_type: str
    architecture: str
    config: type
    model: Callable[..., nnx.Module]
    fields: Mapping[str, str]
    fixed: Mapping[str, Any]
    modules: Mapping[str, str | tuple[str, ...]]
    prefix: str = ""
    complete: Callable[[dict[str, Any]], dict[str, Any]] = dict
    ignored: str = _NOTHING
    special: Mapping[str, str] = dataclasses.field(default_factory=dict)
    as_kernels: str = _NOTHING


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor of the file.

    Attributes:
        paths: of the parameters in it, which stand side by side along their last axis.
        shape: in the file.
        axes: of the parameters, in the order in which the file has them.
    """

    paths: list[str]
    shape: tuple[int, ...]
    axes: tuple[int, ...]


def shapes_of(layout: Layout, config: Any) -> dict[str, Any]:
    """The parameters of a model, as their shapes."""
    abstract = nnx.eval_shape(lambda: layout.model(config, rngs=Keys(0)))
    return nnx.to_pure_dict(nnx.state(abstract, nnx.Param))


def path_of(keys: tuple[Any, ...]) -> str:
    """The path of a parameter, joined by slashes."""
    return jax.tree_util.keystr(keys, simple=True, separator="/")


def by_path(tree: Any) -> dict[str, Any]:
    """The leaves of a tree by their paths."""
    return {path_of(keys): leaf for keys, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def tensors_of(layout: Layout, shapes: dict[str, Any]) -> dict[str, Tensor]:
    """The tensors that the file has of a model with parameters of these shapes, by name."""
    # Where a module or a parameter goes: the name, with {} for a number, and the place in the tensor.
    places = {}
    for name, paths in layout.modules.items():
        for place, path in enumerate((paths,) if isinstance(paths, str) else paths):
            places[path] = (name, place)
    shared: dict[str, dict[int, str]] = {}
    leaves = by_path(shapes)
    for path in leaves:
        pattern = re.sub(_NUMBER, "{}", path)
        module, _, leaf = pattern.rpartition("/")
        name, place = places[pattern] if pattern in places else places[module]
        name = name if pattern in places else f"{name}.{_LEAVES[leaf]}"
        shared.setdefault(name.format(*re.findall(_NUMBER, path)), {})[place] = path
    tensors = {}
    for name, by_place in shared.items():
        paths = [by_place[place] for place in sorted(by_place)]
        *rest, last = leaves[paths[0]].shape
        shape = (*rest, last * len(paths))
        axes = _axes(len(shape)) if _is_turned(name, paths[0], layout) else tuple(range(len(shape)))
        tensors[name] = Tensor(paths, tuple(shape[axis] for axis in axes), axes)
    return tensors


def _is_turned(name: str, path: str, layout: Layout) -> bool:
    return path.endswith("/kernel") and not re.search(layout.as_kernels, name)


def _axes(rank: int) -> tuple[int, ...]:
    """The axes of a kernel, `[..., inputs, outputs]`, as `[outputs, inputs, ...]`."""
    return (rank - 1, rank - 2, *range(rank - 2))


def keys_of(what: str, file: Iterable[str], tensors: Mapping[str, Tensor], layout: Layout) -> dict[str, str]:
    """Which key of a file each tensor has.

    Args:
        what: the file is called, for the message.
        file: its keys.
        tensors: those expected, by name.
        layout: of the family.

    Returns:
        Name → key: of the tensors expected, and of those that are unknown and matter.

    Raises:
        ValueError: two keys are one tensor.
    """
    names: dict[str, str] = {}
    for key in file:
        # LayerNorm's parameters as the first, TensorFlow-made checkpoints call them.
        name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", key)
        name = re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name)
        if name not in tensors:
            name = re.sub(_WRAPPERS, "", name.replace("_orig_mod.", ""))
        if name not in tensors and layout.prefix + name in tensors:
            name = layout.prefix + name
        if name in names:
            raise ValueError(f"{what} holds both {names[name]} and {key}")
        if name in tensors or not re.search(layout.ignored, name):
            names[name] = key
    return names


def check_names(what: str, found: Mapping[str, str], expected: Mapping[str, str]) -> None:
    """Refuse what is not expected, and the lack of what is.

    Args:
        what: is wrong, for the message.
        found: name → dtype and shape.
        expected: likewise.

    Raises:
        ValueError: with the number of names that are missing, unknown or mismatched, and the first three of
        each.
    """
    problems = {
        "missing": [f"{name} {expected[name]}" for name in expected if name not in found],
        "unknown": [f"{name} {found[name]}" for name in found if name not in expected],
        "mismatched": [
            f"{name} {found[name]}, expected {expected[name]}"
            for name in expected.keys() & found.keys()
            if found[name] != expected[name]
        ],
    }
    message = "; ".join(
        f"{len(names)} {problem} ({', '.join(sorted(names)[:3])}{', ...' * (len(names) > 3)})"
        for problem, names in problems.items()
        if names
    )
    if message:
        raise ValueError(f"{what}: {message}")
