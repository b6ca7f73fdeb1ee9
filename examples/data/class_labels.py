"""Names of classes that are stored as numbers, as a `ClassLabel` of the Hugging Face library `datasets` is.

The library writes them into the metadata of the Arrow schema, under `huggingface`, in Arrow and Parquet files.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from examples.data import shown

_KEY = b"huggingface"
_LISTS = ("List", "LargeList", "Sequence")
NONE = -1  # of an example whose label is withheld


def of_metadata(metadata: Mapping[bytes, bytes]) -> dict[str, tuple[str, ...]]:
    """Column → names of its classes, for each column of classes or of lists of them.

    Args:
        metadata: the metadata of a schema. What is not as the library writes it is left out.

    Example:
        >>> feature = {"_type": "ClassLabel", "names": ["neg", "pos"]}
        >>> features = {"text": {"_type": "Value"}, "label": feature}
        >>> of_metadata({b"huggingface": json.dumps({"info": {"features": features}}).encode()})
        {'label': ('neg', 'pos')}
    """
    try:
        features = json.loads(metadata.get(_KEY, b"{}"))["info"]["features"].items()
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return {}
    names = {column: _names(feature) for column, feature in features}
    return {column: found for column, found in names.items() if found is not None}


def _names(feature: Any) -> tuple[str, ...] | None:
    if isinstance(feature, dict) and feature.get("_type") in _LISTS:
        feature = feature.get("feature")
    names = feature.get("names") if isinstance(feature, dict) else None
    if not isinstance(names, list) or feature.get("_type") != "ClassLabel":
        return None
    are_names = all(isinstance(name, str) for name in names) and len(set(names)) == len(names) > 0
    return tuple(names) if are_names else None


def named(value: Any, names: Sequence[str], where: str, column: str) -> Any:
    """The name of a class, or the names of a list of classes; -1, and what is no number, is left as it is.

    Args:
        value: what the column holds.
        names: names of its classes.
        where: place of the row, for the message.
        column: name of the column.

    Raises:
        ValueError: there is no class of this number.

    Example:
        >>> named(1, ("neg", "pos"), "x.parquet, row 0", "label")
        'pos'
    """
    if isinstance(value, list):
        return [named(each, names, where, column) for each in value]
    if type(value) is not int or value == NONE:
        return value
    if not 0 <= value < len(names):
        raise ValueError(f"{where}: {column} is {value}, and its classes are {shown.values(names)}")
    return names[value]
