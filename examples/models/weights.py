"""Weights in the Hugging Face layout: a directory with a configuration and tensors, complete or not at all.

`config.json` says what the model is; `tensors` reads the files of its parameters. A `Layout` says, for one
family of models, what the two call that which a model here calls otherwise. Every tensor that the configuration
implies must be there with its shape, and every tensor that is there must be known: a model with some of its
layers still random would train, and only its scores would tell.
"""

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from examples.data import memory
from examples.models.layout import Layout, by_path, check_names, keys_of, path_of, shapes_of, tensors_of
from examples.models.tensors import CONFIG, WEIGHTS, existing, opened
from examples.shared import strict_json
from optimiz import training

_LARGEST = 2**31 - 1  # of a number in a configuration


def load(directory: Path, layout: Layout, **overrides: Any) -> tuple[Any, dict[str, Any]]:
    """Read the configuration and the parameters of a model.

    Args:
        directory: with `config.json` and weights, see `tensors.opened`.
        layout: of the family.
        **overrides: fields of the configuration, instead of those in the file, whose tensors must fit them.

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


def save(
    directory: Path, layout: Layout, config: Any, params: Any, ids: Mapping[str, int] | None = None
) -> None:
    """Write a configuration and parameters, so that `load`, and `transformers`, read them back.

    Args:
        directory: made if it is missing; files in it are replaced once the new ones are whole.
        layout: of the family.
        config: the configuration.
        params: as `from_nnx(layout.model(config, ...))` names them.
        ids: of special tokens, by role; `transformers` would take those of the published models.

    Raises:
        ValueError: a parameter is missing, unknown, or has another shape than the configuration implies.
    """
    given = {path: np.asarray(leaf, np.float32) for path, leaf in by_path(params).items()}
    shapes = shapes_of(layout, config)
    check_names(
        "params are not those of the configuration",
        {path: str(list(leaf.shape)) for path, leaf in given.items()},
        {path: str(list(leaf.shape)) for path, leaf in by_path(shapes).items()},
    )
    tensors = {}
    for name, tensor in tensors_of(layout, shapes).items():
        whole = np.concatenate([given[path] for path in tensor.paths], -1)
        tensors[name] = np.ascontiguousarray(whole.transpose(tensor.axes))
    keys = {key: getattr(config, field) for field, key in layout.fields.items()}
    keys |= {key: ids[role] for key, role in layout.special.items()} if ids else {}
    about = {"model_type": layout.model_type, "architectures": [layout.architecture]}
    directory.mkdir(parents=True, exist_ok=True)
    training.write_whole(directory / WEIGHTS, safetensors.numpy.save(tensors, metadata={"format": "pt"}))
    training.write_whole(directory / CONFIG, json.dumps(about | dict(layout.fixed) | keys, indent=2) + "\n")


def read_config(directory: Path, layout: Layout) -> Any:
    """Read a configuration.

    Args:
        directory: with `config.json`.
        layout: of the family.

    Raises:
        FileNotFoundError: `config.json` is absent.
        ValueError: it is damaged, or describes no model of the family.
    """
    path = existing(directory, CONFIG)
    description = read_description(directory)
    try:
        if description.get("model_type") != layout.model_type:
            raise ValueError(
                f"model_type must be {layout.model_type!r}, got {repr(description.get('model_type'))[:100]}"
            )
        description, values = layout.complete(description), {}
        for key, value in layout.fixed.items():
            if description.get(key, value) != value:
                raise ValueError(f"{key} must be {value!r}, got {repr(description[key])[:100]}")
        for field in dataclasses.fields(layout.config):
            key = layout.fields.get(field.name)
            if key is not None and key in description:
                values[field.name] = _typed(key, description[key], field.type)
            elif field.default is dataclasses.MISSING:
                raise ValueError(f"{key} must be given, got {str(list(description))[:200]}")
        return layout.config(**values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def read_description(directory: Path) -> dict[str, Any]:
    """Read `config.json` as it is.

    Raises:
        FileNotFoundError: it is absent.
        ValueError: it holds no JSON object, or one that says a key twice.
    """
    return strict_json.read_object(existing(directory, CONFIG))


def read_params(directory: Path, layout: Layout, config: Any) -> dict[str, Any]:
    """Read the tensors of a model, once it is certain that the file has just these.

    Args:
        directory: with weights, see `tensors.opened`.
        layout: of the family.
        config: the configuration.

    Raises:
        FileNotFoundError: a file is absent.
        ValueError: one is damaged, or tensors are missing, unknown, of another shape or not finite; with names.
    """
    with opened(directory) as file:
        path, present = file.path, file.keys()
        if config.layers > len(present):  # before a model is made of them
            raise ValueError(f"{path} has {len(present)} tensors, and {CONFIG} {config.layers} layers")
        shapes = shapes_of(layout, config)
        tensors = tensors_of(layout, shapes)
        keys = keys_of(f"{path}", present, tensors, layout)
        found = {name: file.described(key) for name, key in keys.items()}
        expected = {name: f"float {list(tensor.shape)}" for name, tensor in tensors.items()}
        check_names(f"{path} is not the model that {CONFIG} describes", found, expected)
        size = sum(4 * math.prod(tensor.shape) for tensor in tensors.values())
        memory.check(size, f"the parameters of {path}")
        leaves = {}
        for name, tensor in tensors.items():
            whole = file.read(keys[name]).transpose(np.argsort(tensor.axes))
            leaves |= zip(tensor.paths, np.split(whole, len(tensor.paths), -1), strict=True)
    return jax.tree_util.tree_map_with_path(
        lambda keys, like: jnp.array(leaves[path_of(keys)], like.dtype), shapes
    )


def _typed(key: str, value: Any, kind: Any) -> Any:
    """The value, if it is of a type; a float may be written as an integer."""
    kinds = (int, float) if kind is float else (kind,)
    if not isinstance(value, kinds) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{key} must be of type {kind.__name__}, got {repr(value)[:100]}")
    if kind in (int, float) and not abs(value) <= _LARGEST:
        raise ValueError(f"{key} must be finite and at most {_LARGEST}, got {str(value)[:100]}")
    return value
