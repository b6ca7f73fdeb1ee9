"""Weights in the Hugging Face layout: a directory with a configuration and tensors, complete or not at all.

`config.json` says what the model is and `model.safetensors` holds its parameters. A `Layout` says, for one
family of models, what the two call that which a model here calls otherwise. Every tensor that the configuration
implies must be there with its shape, and every tensor that is there must be known: a model with some of its
layers still random would train, and only its scores would tell. Pickled weights are refused, because reading a
pickle runs the code in it.
"""

import dataclasses
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

CONFIG, WEIGHTS = "config.json", "model.safetensors"
PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl"}

_FLOATS = {"F16", "BF16", "F32"}
_NOTHING = r"(?!)"
_NUMBER = r"(?<=/)\d+(?=/)"
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
        fixed: keys that, set otherwise, make the same tensors mean another model.
        modules: name in the file → path here, of a module or of a parameter. Several paths are tensors that the
            file holds as one, side by side along their outputs. A number, of a layer, is `{}` on both sides.
        prefix: of the names in files of a model with a head; in others it may be absent.
        ignored: expression that finds, of the tensors that the model lacks, those that do not matter.
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
    ignored: str = _NOTHING
    as_kernels: str = _NOTHING


@dataclasses.dataclass(frozen=True)
class _Tensor:
    """A tensor of the file.

    Attributes:
        paths: of the parameters in it, which stand side by side along their last axis.
        shape: in the file.
        axes: of the parameters, in the order in which the file has them.
    """

    paths: list[str]
    shape: tuple[int, ...]
    axes: tuple[int, ...]


def load(directory: Path, layout: Layout, **overrides: Any) -> tuple[Any, dict[str, Any]]:
    """Read the configuration and the parameters of a model.

    Args:
        directory: with `config.json` and `model.safetensors`.
        layout: of the family.
        **overrides: fields of the configuration, instead of those in the file; none that changes a shape.

    Returns:
        The configuration, and the float32 parameters as `from_nnx(layout.model(config, ...))` names them.

    Raises:
        FileNotFoundError: a file is absent.
        ValueError: a file is damaged, or the two do not describe one model of the family.
    """
    config = read_config(directory, layout)
    try:
        config = dataclasses.replace(config, **overrides)
    except ValueError as error:
        raise ValueError(f"{directory / CONFIG}: {error}") from None
    return config, read_params(directory, layout, config)


def save(directory: Path, layout: Layout, config: Any, params: Any) -> None:
    """Write a configuration and parameters, so that `load`, and `transformers`, read them back.

    Args:
        directory: made if it is missing; files in it are replaced once the new ones are whole.
        layout: of the family.
        config: the configuration.
        params: as `from_nnx(layout.model(config, ...))` names them.

    Raises:
        ValueError: a parameter is missing, unknown, or has another shape than the configuration implies.
    """
    given = {path: np.asarray(leaf, np.float32) for path, leaf in _leaves(params).items()}
    shapes = _shapes(layout, config)
    _check_names(
        "params are not those of the configuration",
        {path: str(list(leaf.shape)) for path, leaf in given.items()},
        {path: str(list(leaf.shape)) for path, leaf in _leaves(shapes).items()},
    )
    tensors = {}
    for name, tensor in _tensors(layout, shapes).items():
        whole = np.concatenate([given[path] for path in tensor.paths], -1)
        tensors[name] = np.ascontiguousarray(whole.transpose(tensor.axes))
    keys = {key: getattr(config, field) for field, key in layout.fields.items()}
    about = {"model_type": layout.model_type, "architectures": [layout.architecture]}
    directory.mkdir(parents=True, exist_ok=True)
    partial = directory / f"{WEIGHTS}.partial"
    save_file(tensors, partial, metadata={"format": "pt"})
    partial.replace(directory / WEIGHTS)
    partial = directory / f"{CONFIG}.partial"
    partial.write_text(json.dumps(about | dict(layout.fixed) | keys, indent=2) + "\n", encoding="utf-8")
    partial.replace(directory / CONFIG)


def read_config(directory: Path, layout: Layout, defaults: Mapping[str, Any] | None = None) -> Any:
    """Read a configuration.

    Args:
        directory: with `config.json`.
        layout: of the family.
        defaults: fields that have other defaults than those of the dataclass.

    Raises:
        FileNotFoundError: `config.json` is absent.
        ValueError: it is damaged, or describes no model of the family.
    """
    path = existing(directory, CONFIG)
    description = read_description(directory)
    try:
        if description.get("model_type") != layout.model_type:
            raise ValueError(f"model_type must be {layout.model_type!r}, got {description.get('model_type')!r}")
        for key, value in layout.fixed.items():
            if description.get(key, value) != value:
                raise ValueError(f"{key} must be {value!r}, got {description[key]!r}")
        values = dict(defaults or {})
        for field in dataclasses.fields(layout.config):
            key = layout.fields.get(field.name)
            if key is not None and key in description:
                values[field.name] = _typed(key, description[key], field.type)
            elif field.default is dataclasses.MISSING and field.name not in values:
                raise ValueError(f"{key} must be given, got {list(description)}")
        return layout.config(**values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def read_description(directory: Path) -> dict[str, Any]:
    """Read `config.json` as it is.

    Raises:
        FileNotFoundError: it is absent.
        ValueError: it holds no JSON object.
    """
    path = existing(directory, CONFIG)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object, got {type(content).__name__}")
    return content


def read_params(directory: Path, layout: Layout, config: Any) -> dict[str, Any]:
    """Read the tensors of a model, once it is certain that the file has just these.

    Args:
        directory: with `model.safetensors`.
        layout: of the family.
        config: the configuration.

    Raises:
        FileNotFoundError: `model.safetensors` is absent.
        ValueError: it is damaged, or tensors are missing, unknown or of another shape; with names and shapes.
    """
    path = existing(directory, WEIGHTS)
    shapes = _shapes(layout, config)
    tensors = _tensors(layout, shapes)
    leaves = {}
    try:
        with safe_open(path, "np") as file:
            keys = _keys(path, file.keys(), tensors, layout)
            found = {}
            for name, key in keys.items():
                dtype = file.get_slice(key).get_dtype()
                shape = file.get_slice(key).get_shape()
                found[name] = f"{'float' if dtype in _FLOATS else dtype} {shape}"
            expected = {name: f"float {list(tensor.shape)}" for name, tensor in tensors.items()}
            _check_names(f"{path} is not the model that {CONFIG} describes", found, expected)
            for name, tensor in tensors.items():
                whole = file.get_tensor(keys[name]).transpose(np.argsort(tensor.axes))
                leaves |= zip(tensor.paths, np.split(whole, len(tensor.paths), -1), strict=True)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    return jax.tree_util.tree_map_with_path(
        lambda keys, like: jnp.array(leaves[_path(keys)], like.dtype), shapes
    )


def existing(directory: Path, name: str) -> Path:
    """The path of a file of a directory.

    Raises:
        FileNotFoundError: it is absent.
    """
    path = directory / name
    if path.is_file():
        return path
    message = f"{directory} has no {name}"
    pickles = sorted(file.name for file in directory.glob("*") if file.suffix in PICKLES)
    if name == WEIGHTS and pickles:
        message += f"; {pickles[0]} is a pickle, which could run code, and is never read"
    raise FileNotFoundError(message)


def _typed(key: str, value: Any, kind: Any) -> Any:
    """The value, if it is of a type; a float may be written as an integer."""
    kinds = (int, float) if kind is float else (kind,)
    if not isinstance(value, kinds) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{key} must be of type {kind.__name__}, got {value!r}")
    return value


def _shapes(layout: Layout, config: Any) -> dict[str, Any]:
    abstract = nnx.eval_shape(lambda: layout.model(config, rngs=nnx.Rngs(0)))
    return nnx.to_pure_dict(nnx.state(abstract, nnx.Param))


def _path(keys: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(keys, simple=True, separator="/")


def _leaves(tree: Any) -> dict[str, Any]:
    return {_path(keys): leaf for keys, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _tensors(layout: Layout, shapes: dict[str, Any]) -> dict[str, _Tensor]:
    """The tensors that the file has of a model with parameters of these shapes, by name."""
    # Where a module or a parameter goes: the name, with {} for a number, and the place in the tensor.
    places = {}
    for name, paths in layout.modules.items():
        for place, path in enumerate((paths,) if isinstance(paths, str) else paths):
            places[path] = (name, place)
    shared: dict[str, dict[int, str]] = {}
    leaves = _leaves(shapes)
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
        tensors[name] = _Tensor(paths, tuple(shape[axis] for axis in axes), axes)
    return tensors


def _is_turned(name: str, path: str, layout: Layout) -> bool:
    return path.endswith("/kernel") and not re.search(layout.as_kernels, name)


def _axes(rank: int) -> tuple[int, ...]:
    """The axes of a kernel, `[..., inputs, outputs]`, as `[outputs, inputs, ...]`."""
    return (rank - 1, rank - 2, *range(rank - 2))


def _keys(path: Path, keys: list[str], tensors: Mapping[str, _Tensor], layout: Layout) -> dict[str, str]:
    """Name that the layout gives a tensor → its key in the file; those that do not matter are left out."""
    names: dict[str, str] = {}
    for key in keys:
        # LayerNorm's parameters as the first, TensorFlow-made checkpoints call them.
        name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", key)
        name = re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name)
        if name not in tensors and layout.prefix + name in tensors:
            name = layout.prefix + name
        if name in names:
            raise ValueError(f"{path} holds both {names[name]} and {key}")
        if name in tensors or not re.search(layout.ignored, name):
            names[name] = key
    return names


def _check_names(what: str, found: Mapping[str, str], expected: Mapping[str, str]) -> None:
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
