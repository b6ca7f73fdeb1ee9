"""Causal decoders of any family: GPT-2 and those of the Llama kind."""

from pathlib import Path
from typing import Any

from examples.models import families, llama_files, weights
from examples.models.layout import Layout, typed
from examples.models.tensors import CONFIG, GENERATION
from examples.shared import strict_json

FAMILIES = {families.GPT2.model_type: families.GPT2} | llama_files.LAYOUTS


def family(directory: Path) -> Layout:
    """The layout of the model in a directory, by the `model_type` in its `config.json`.

    Args:
        directory: directory of a model, as `pretrained.find` returns it.

    Raises:
        FileNotFoundError: there is no `config.json`.
        ValueError: it is damaged, or the model is of another family.
    """
    model_type = weights.read_description(directory).get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise ValueError(
            f"{directory / CONFIG}: model_type must be one of {list(FAMILIES)}, got {repr(model_type)[:100]}"
        )
    return FAMILIES[model_type]


def special_ids(directory: Path) -> dict[str, Any]:
    """The ids of special tokens, as `weights.save` takes them, that a model's configuration names.

    Raises:
        FileNotFoundError: there is no `config.json`.
        ValueError: it is damaged, or the model is of another family.
    """
    described, keys = weights.read_description(directory), family(directory).special
    return {role: described[key] for key, role in keys.items() if described.get(key) is not None}


def end_ids(directory: Path) -> tuple[int, ...]:
    """The ids of the tokens after which a text ends: of `generation_config.json`, or else of `config.json`.

    Raises:
        FileNotFoundError: there is no `config.json`.
        ValueError: a file is damaged, or an id is not a whole number.
    """
    described, path = weights.read_description(directory), directory / GENERATION
    if path.is_file():
        described = described | strict_json.read_object(path)
    ids = described.get("eos_token_id")
    ids = [] if ids is None else ids if isinstance(ids, list) else [ids]
    return tuple(typed("eos_token_id", each, int) for each in ids)
