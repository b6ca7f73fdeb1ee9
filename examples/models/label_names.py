"""The names of a classifier's classes in its `config.json`, as `id2label` and `label2id`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from examples.models.tensors import CONFIG


def keys(names: Sequence[str]) -> dict[str, Any]:
    """The keys of `config.json` that name the classes.

    Example:
        >>> keys(["bad", "good"])
        {'id2label': {'0': 'bad', '1': 'good'}, 'label2id': {'bad': 0, 'good': 1}}
    """
    return {
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
    }


def read(directory: Path, description: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the classes, in order.

    Args:
        directory: directory of the model, for the message.
        description: its `config.json`.

    Raises:
        ValueError: it does not name the classes 0 to C - 1, each by a text of its own.
    """
    names = description.get("id2label")
    found = [names.get(str(i)) for i in range(len(names))] if isinstance(names, dict) else []
    if not found or not all(isinstance(name, str) for name in found) or len({*found}) < len(found):
        raise ValueError(
            f"{directory / CONFIG}: id2label must name the classes from 0 on, got {str(names)[:100]}"
        )
    return tuple(str(name) for name in found)
