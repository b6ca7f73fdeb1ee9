"""Rotary positions as `config.json` describes them: `rope_theta` and `rope_scaling`, or `rope_parameters`.

Since version 5 `transformers` writes `rope_parameters`, which older versions do not read; both read the older
two keys, which are written here.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from examples.models.layout import typed
from examples.models.rotary import Dynamic, Linear, Llama3, Rotary, Scaling, Yarn

_ORIGINAL = "original_max_position_embeddings"
# The name of each scaling, and its fields → keys.
_SCALINGS: dict[str, tuple[type[Scaling], dict[str, str]]] = {
    "linear": (Linear, {"factor": "factor"}),
    "dynamic": (Dynamic, {"factor": "factor", "original": _ORIGINAL}),
    "llama3": (
        Llama3,
        {"factor": "factor", "low": "low_freq_factor", "high": "high_freq_factor", "original": _ORIGINAL},
    ),
    "yarn": (
        Yarn,
        {
            "factor": "factor",
            "original": _ORIGINAL,
            "fast": "beta_fast",
            "slow": "beta_slow",
            "attention": "attention_factor",
            "truncate": "truncate",
        },
    ),
}


def read(description: Mapping[str, Any], theta: float = 10_000.0) -> Rotary:
    """The rotary positions that a configuration describes.

    Args:
        description: `config.json`; one of `rope_parameters` and `rope_scaling` may be given, each an object or
            null, and `rope_theta` in the object or beside it.
        theta: θ if there is none.

    Raises:
        ValueError: a key is unknown or out of its domain, or two keys contradict each other.
    """
    given = {key: description[key] for key in ("rope_parameters", "rope_scaling") if description.get(key)}
    if len(given) > 1:
        raise ValueError(f"rope_scaling must not be given beside rope_parameters, got {given['rope_scaling']}")
    name, value = next(iter(given.items()), ("rope_parameters", {}))
    parameters = dict(typed(name, value, dict))
    thetas = [each["rope_theta"] for each in (parameters, description) if each.get("rope_theta") is not None]
    if len({*map(str, thetas)}) > 1:
        raise ValueError(f"rope_theta must be the same in {name} and beside it, got {thetas}")
    parameters.pop("rope_theta", None)
    found = float(typed("rope_theta", thetas[0] if thetas else theta, float))
    try:
        return Rotary(found, _scaling(parameters, description.get("max_position_embeddings")))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _scaling(parameters: dict[str, Any], max_positions: Any) -> Scaling | None:
    """The scaling that is described by the keys beside θ."""
    kinds = [parameters.pop(key) for key in ("rope_type", "type") if parameters.get(key) is not None]
    kind = kinds[0] if kinds else "default"
    if len({*map(str, kinds)}) > 1 or (kind != "default" and kind not in list(_SCALINGS)):
        raise ValueError(f"rope_type must be one of {['default', *_SCALINGS]}, got {str(kinds)[1:-1][:100]}")
    parameters = {key: value for key, value in parameters.items() if value is not None}
    if parameters.pop("partial_rotary_factor", 1) != 1:
        raise ValueError("partial_rotary_factor must be 1: a part of each head alone is not turned here")
    if kind == "default":
        _refuse_unknown(parameters, {})
        return None
    made, keys = _SCALINGS[kind]
    if kind == "yarn":
        parameters = _with_attention(parameters)
    if "original" in keys.values() or _ORIGINAL in keys.values():
        parameters.setdefault(_ORIGINAL, max_positions)
    if kind == "dynamic" and parameters[_ORIGINAL] != max_positions:
        raise ValueError(
            f"{_ORIGINAL} of a dynamic scaling must be {max_positions}, got {parameters[_ORIGINAL]}"
        )
    _refuse_unknown(parameters, keys)
    values = {}
    for field in dataclasses.fields(made):
        if keys[field.name] in parameters:
            values[field.name] = typed(keys[field.name], parameters[keys[field.name]], field.type)
        elif field.default is dataclasses.MISSING:
            raise ValueError(f"{keys[field.name]} must be given for {kind}")
    return made(**values)


def _with_attention(parameters: dict[str, Any]) -> dict[str, Any]:
    """YaRN's keys, with a factor of attention in place of the two numbers that may stand for it."""
    parameters = dict(parameters)
    scales = [typed(key, parameters.pop(key, 0), float) for key in ("mscale", "mscale_all_dim")]
    if not all(scales):  # `transformers` takes both or none
        return parameters
    wide = math.log(typed("factor", parameters.get("factor"), float))
    first, second = (0.1 * scale * wide + 1 for scale in scales)
    return {"attention_factor": first / second} | parameters


def _refuse_unknown(parameters: Mapping[str, Any], keys: Mapping[str, str]) -> None:
    for key, value in parameters.items():
        if key not in keys.values():
            raise ValueError(f"{key} is not known here, and may change the model; got {repr(value)[:100]}")


def written(rotary: Rotary) -> dict[str, Any]:
    """The keys that describe rotary positions."""
    described = None
    for kind, (made, keys) in _SCALINGS.items():
        if type(rotary.scaling) is made:
            values = {key: getattr(rotary.scaling, field) for field, key in keys.items()}
            described = {"rope_type": kind} | {key: value for key, value in values.items() if value is not None}
            if kind == "dynamic":  # whose length is that of the model
                del described[_ORIGINAL]
    return {"rope_theta": rotary.theta, "rope_scaling": described}
