"""Read and write weights in the Hugging Face layout: a directory with a configuration and tensors.

`config.json` describes the model; `tensors` reads the files of its parameters. For one family of models, a
`Layout` maps the names in these files to those of a model here. Every tensor that the configuration implies
must be present with its shape, and every tensor that is present must be known: a model with some layers left
random would still train, and only its scores would show it.
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
from examples.models.layout import (
    Layout,
    by_path,
    check_keys,
    check_names,
    keys_of,
    path_of,
    shapes_of,
    tensors_of,
    typed,
)
from examples.models.tensors import CONFIG, WEIGHTS, Tensors, existing, opened
from examples.shared import strict_json
from optimiz import training


def load(directory: Path, layout: Layout, **overrides: Any) -> tuple[Any, dict[str, Any]]:
    """Read the configuration and the parameters of a model.

    Args:
        directory: directory with `config.json` and weights, see `tensors.opened`.
        layout: layout of the family.
        **overrides: fields of the configuration to replace those in the file; the tensors must fit them.

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
    directory: Path,
    layout: Layout,
    config: Any,
    params: Any,
    ids: Mapping[str, int] | None = None,
    more: Mapping[str, Any] | None = None,
) -> None:
    """Write a configuration and parameters, so that `load`, and `transformers`, read them back.

    Args:
        directory: created if it is missing; files in it are replaced only once the new ones are complete.
        layout: layout of the family.
        config: the configuration.
        params: the parameters as `from_nnx(layout.model(config, ...))` names them.
        ids: ids of special tokens, by role; without them `transformers` takes those of the published models.
        more: further keys of `config.json`, such as the names of classes.

    Raises:
        ValueError: a parameter is missing, unknown, or has another shape than the configuration implies, or
            `config.json` cannot say what the configuration does.
    """
    given = {path: np.asarray(leaf, np.float32) for path, leaf in by_path(params).items()}
    shapes = shapes_of(layout, config)
    check_names(
        "params do not match the configuration",
        {path: str(list(leaf.shape)) for path, leaf in given.items()},
        {path: str(list(leaf.shape)) for path, leaf in by_path(shapes).items()},
    )
    tensors = {}
    for name, tensor in tensors_of(layout, shapes).items():
        whole = np.concatenate([given[path] for path in tensor.paths], -1)
        tensors[name] = np.ascontiguousarray(whole.transpose(tensor.axes))
    described = description_of(layout, config)
    described |= {key: ids[role] for key, role in layout.special.items() if role in ids} if ids else {}
    described |= more or {}
    directory.mkdir(parents=True, exist_ok=True)
    training.write_whole(directory / WEIGHTS, safetensors.numpy.save(tensors, metadata={"format": "pt"}))
    training.write_whole(directory / CONFIG, json.dumps(described, indent=2) + "\n")


def description_of(layout: Layout, config: Any) -> dict[str, Any]:
    """What `config.json` says of a model.

    Args:
        layout: layout of the family.
        config: the configuration.

    Raises:
        ValueError: the files of the family cannot say what the configuration does.
    """
    keys = {key: getattr(config, field) for field, key in layout.fields.items()}
    about = {"model_type": layout.model_type, "architectures": [layout.architecture]}
    described = about | dict(layout.fixed) | layout.written(keys)
    again = config_of(layout, described)
    for field in layout.fields:
        value, read = getattr(config, field), getattr(again, field)
        if value != read:
            raise ValueError(
                f"{field} of a {layout.model_type} cannot be written as {value!r}, which is read as {read!r}"
            )
    return described


def read_config(directory: Path, layout: Layout) -> Any:
    """Read a configuration.

    Args:
        directory: directory with `config.json`.
        layout: layout of the family.

    Raises:
        FileNotFoundError: `config.json` is absent.
        ValueError: it is damaged, or does not describe a model of the family.
    """
    description = read_description(directory)
    try:
        return config_of(layout, description)
    except ValueError as error:
        raise ValueError(f"{directory / CONFIG}: {error}") from None


def config_of(layout: Layout, description: dict[str, Any]) -> Any:
    """The configuration that a description, as in `config.json`, is of.

    Args:
        layout: layout of the family.
        description: the description.

    Raises:
        ValueError: it does not describe a model of the family.
    """
    if description.get("model_type") != layout.model_type:
        raise ValueError(
            f"model_type must be {layout.model_type!r}, got {repr(description.get('model_type'))[:100]}"
        )
    check_keys(layout, description)
    description, values = layout.complete(description), {}
    for key, value in layout.fixed.items():
        if description.get(key, value) != value:
            raise ValueError(f"{key} must be {value!r}, got {repr(description[key])[:100]}")
    for field in dataclasses.fields(layout.config):
        key = layout.fields.get(field.name)
        if key is not None and key in description:
            values[field.name] = typed(key, description[key], field.type)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ValueError(f"{key} must be given, got {str(list(description))[:200]}")
    return layout.config(**values)


def read_description(directory: Path) -> dict[str, Any]:
    """Read `config.json` as it is.

    Raises:
        FileNotFoundError: it is absent.
        ValueError: it does not hold a JSON object, or a key occurs twice.
    """
    return strict_json.read_object(existing(directory, CONFIG))


def read_params(directory: Path, layout: Layout, config: Any) -> dict[str, Any]:
    """Read the tensors of a model, after checking that the file has exactly these.

    Args:
        directory: directory with weights, see `tensors.opened`.
        layout: layout of the family.
        config: the configuration.

    Raises:
        FileNotFoundError: a file is absent.
        ValueError: a file is damaged, or tensors are missing, unknown, of another shape, not finite or not the
            copies that they have to be; the message names them.
    """
    with opened(directory) as file:
        path, present = file.path, file.keys()
        if config.layers > len(present):  # before a model is built from them
            raise ValueError(f"{path} has {len(present)} tensors, but {CONFIG} has {config.layers} layers")
        shapes = shapes_of(layout, config)
        tensors = tensors_of(layout, shapes)
        keys = keys_of(f"{path}", present, tensors, layout)
        copies = {name: keys.pop(name) for name in layout.copies if name in keys and name not in tensors}
        found = {name: file.described(key) for name, key in keys.items()}
        expected = {name: f"float {list(tensor.shape)}" for name, tensor in tensors.items()}
        check_names(f"{path} is not the model that {CONFIG} describes", found, expected)
        size = sum(4 * math.prod(tensor.shape) for tensor in tensors.values())
        memory.check(size, f"the parameters of {path}")
        for name, key in copies.items():
            _check_copy(file, name, key, keys[layout.copies[name]], layout)
        leaves = {}
        for name, tensor in tensors.items():
            whole = file.read(keys[name]).transpose(np.argsort(tensor.axes))
            parts = np.split(whole, len(tensor.paths), -1)
            # One by one, so that no more than a tensor is held twice.
            leaves |= zip(tensor.paths, map(jnp.array, parts), strict=True)
    return jax.tree_util.tree_map_with_path(lambda keys, like: leaves[path_of(keys)].astype(like.dtype), shapes)


def _check_copy(file: Tensors, name: str, key: str, of: str, layout: Layout) -> None:
    """Refuse a tensor that the model leaves out because it is another's copy, if it is not."""
    if file.described(key) != file.described(of) or not np.array_equal(file.read(key), file.read(of)):
        can_differ = name.rpartition(".")[0] in layout.modules
        advice = f"set tie_word_embeddings to false in {CONFIG}, or " if can_differ else ""
        raise ValueError(f"{file.path}: {key} is tied to {of}, but not equal to it; {advice}remove {key}")
