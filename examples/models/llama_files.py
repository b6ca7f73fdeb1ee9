"""The files of decoders of the Llama kind: Llama, Mistral, Qwen 2 and 3, and Gemma 1 to 3.

The names of modules and the keys are those of `transformers`, and so is what an absent key means.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from examples.models import rotary_fields
from examples.models.layout import Layout, typed
from examples.models.llama import Llama, LlamaConfig
from examples.models.rotary import Rotary

# Keys for which null is a value; everywhere else it is as if they were absent.
_NULLABLE = {"sliding_window", "attn_logit_softcapping", "final_logit_softcapping"}
_FULL, _SLIDING = "full_attention", "sliding_attention"
_MOST_LAYERS = 10_000

_FIELDS = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "key_heads": "num_key_value_heads",
    "head_size": "head_dim",
    "intermediate_size": "intermediate_size",
    "max_positions": "max_position_embeddings",
    "activation": "hidden_act",
    "norm_eps": "rms_norm_eps",
    "tied": "tie_word_embeddings",
    "attention_dropout": "attention_dropout",
    # What follows from several keys, or from the family: no file has a key with a dot in front.
    **{
        name: f".{name}"
        for name in (
            *("rotary", "local_rotary", "windows", "qkv_bias", "output_bias", "mlp_bias", "query_key_norm"),
            *("post_norms", "centered", "scaled_embeddings", "query_size", "attention_cap", "logit_cap"),
        )
    },
}
_ROPE = ("rope_theta", "rope_scaling", "rope_parameters")

_MODULES = {
    "model.embed_tokens": "embeddings",
    "model.layers.{}.input_layernorm": "layers/{}/attention_norm",
    **{
        f"model.layers.{{}}.self_attn.{theirs}": f"layers/{{}}/attention/{ours}"
        for theirs, ours in (
            ("q_proj", "query"),
            ("k_proj", "key"),
            ("v_proj", "value"),
            ("o_proj", "output"),
            ("q_norm", "query_norm"),
            ("k_norm", "key_norm"),
        )
    },
    "model.layers.{}.post_attention_layernorm": "layers/{}/mlp_norm",
    **{f"model.layers.{{}}.mlp.{name}_proj": f"layers/{{}}/mlp/{name}" for name in ("gate", "up", "down")},
    "model.norm": "norm",
    "lm_head": "head",
}


def _rotary(given: Mapping[str, Any]) -> tuple[Rotary, None]:
    """The rotary positions of all layers."""
    return rotary_fields.read(given), None


def _two_rotaries(given: Mapping[str, Any]) -> tuple[Rotary, Rotary]:
    """Those of Gemma 3: of the layers that see all tokens, and of those with a window."""
    wide, local = 1e6, {"rope_theta": given.get("rope_local_base_freq", 1e4)}
    parameters = given.get("rope_parameters")
    if isinstance(parameters, dict) and (_FULL in parameters or _SLIDING in parameters):
        if unknown := parameters.keys() - {_FULL, _SLIDING}:
            raise ValueError(f"rope_parameters must be of {_FULL} and {_SLIDING}, got {sorted(unknown)}")
        local = {**local, "rope_parameters": parameters.get(_SLIDING)}
        given = {**given, "rope_parameters": parameters.get(_FULL)}
    elif isinstance(parameters, dict) and parameters:
        raise ValueError(f"rope_parameters must be of {_FULL} and {_SLIDING}, got {str(parameters)[:100]}")
    local["max_position_embeddings"] = given.get("max_position_embeddings")
    return rotary_fields.read(given, wide), rotary_fields.read(local)


def _windows(given: Mapping[str, Any], layers: int, sliding: Callable[[int], bool]) -> tuple[int | None, ...]:
    """The windows of the layers, as short as they repeat."""
    window = typed("sliding_window", given.get("sliding_window"), int | None)
    if not typed("use_sliding_window", given.get("use_sliding_window", True), bool):
        window = None
    has_window = [window is not None and sliding(layer) for layer in range(layers)]
    kinds = given.get("layer_types", [_SLIDING if each else _FULL for each in has_window])
    if (
        not isinstance(kinds, list)
        or len(kinds) != layers
        or any(kind not in (_FULL, _SLIDING) for kind in kinds)
    ):
        raise ValueError(
            f"layer_types must be {_FULL} or {_SLIDING} for each of {layers} layers, got {str(kinds)[:100]}"
        )
    if window is None and _SLIDING in kinds:
        raise ValueError(f"sliding_window must be given, as layer_types has {_SLIDING}")
    windows = [window if kind == _SLIDING else None for kind in kinds]
    repeats = (n for n in range(1, layers + 1) if windows[n:] == windows[:-n])
    return tuple(windows[: next(repeats)])


def _family(
    model_type: str,
    architecture: str,
    *,
    keys: Sequence[str] = (),
    implied: Mapping[str, Any] | None = None,
    always: Mapping[str, Any] | None = None,
    fields: Mapping[str, str] | None = None,
    fixed: Mapping[str, Any] | None = None,
    modules: Mapping[str, str] | None = None,
    rotaries: Callable[[Mapping[str, Any]], tuple[Rotary, Rotary | None]] = _rotary,
    sliding: Callable[[Mapping[str, Any], int], bool] = lambda given, layer: False,
) -> Layout:
    """The layout of a family of the Llama kind.

    Args:
        model_type: see `Layout`.
        architecture: see `Layout`.
        keys: keys that are read besides those of `fields`.
        implied: key → its value where it is absent, if that is not the one of Llama.
        always: field → its only value in the family.
        fields: field → key, where it is not the usual one.
        fixed: see `Layout`.
        modules: modules whose names are not the usual ones.
        rotaries: configuration → the rotary positions of all layers, or of those without and with a window.
        sliding: (configuration, layer) → whether it has a window, where `layer_types` does not say so.
    """
    fields = _FIELDS | dict(fields or {})
    fixed = {"is_encoder_decoder": False} | dict(fixed or {})
    named = {key for key in fields.values() if not key.startswith(".")} | {*_ROPE, *keys}
    usual = {"rms_norm_eps": 1e-6, "hidden_act": "silu", "tie_word_embeddings": False, "attention_dropout": 0.0}
    usual = {key: value for key, value in (usual | dict(implied or {})).items() if key in named}

    def complete(description: dict[str, Any]) -> dict[str, Any]:
        given = usual | {k: v for k, v in description.items() if v is not None or k in _NULLABLE}
        layers, heads, size = (
            typed(key, given.get(key), int)
            for key in ("num_hidden_layers", "num_attention_heads", "hidden_size")
        )
        if not 1 <= layers <= _MOST_LAYERS:
            raise ValueError(f"num_hidden_layers must be in [1, {_MOST_LAYERS}], got {layers}")
        given.setdefault("num_key_value_heads", heads)
        if "head_dim" not in given:
            if heads < 1 or size % heads:
                raise ValueError(f"num_attention_heads must be a divisor of hidden_size, {size}, got {heads}")
            given["head_dim"] = size // heads
        rotary, local_rotary = rotaries(given)
        bias = typed("attention_bias", given.get("attention_bias", False), bool)
        derived = {
            "rotary": rotary,
            "local_rotary": local_rotary,
            "windows": _windows(given, layers, lambda layer: sliding(given, layer)),
            "qkv_bias": bias,
            "output_bias": bias,
        }
        return given | {f".{name}": value for name, value in (derived | dict(always or {})).items()}

    def written(values: dict[str, Any]) -> dict[str, Any]:
        cycle, local = values[".windows"], values[".local_rotary"]
        windows = [cycle[i % len(cycle)] for i in range(values["num_hidden_layers"])]
        sees_all = [window is None for window in windows]
        candidates = {
            **values,
            **rotary_fields.written(values[".rotary"]),
            "rope_local_base_freq": None if local is None else local.theta,
            "attention_bias": values[".qkv_bias"],
            "sliding_window": next((window for window in windows if window is not None), None),
            "use_sliding_window": not all(sees_all),
            "max_window_layers": [*sees_all, False].index(False),
            "layer_types": [_FULL if each else _SLIDING for each in sees_all],
        }
        return {key: value for key, value in candidates.items() if key in named}

    return Layout(
        model_type=model_type,
        architecture=architecture,
        config=LlamaConfig,
        model=Llama,
        fields=fields,
        read=named,
        complete=complete,
        written=written,
        fixed=fixed,
        modules=_MODULES | dict(modules or {}),
        prefix="model.",
        ignored=r"\.rotary_emb\.inv_freq$",  # the frequencies, which older files store
        copies={"lm_head.weight": "model.embed_tokens.weight"},
        special={"bos_token_id": "start", "eos_token_id": "end", "pad_token_id": "pad"},
    )


LLAMA = _family(
    "llama",
    "LlamaForCausalLM",
    keys=("attention_bias",),
    implied={"mlp_bias": False},
    fields={"mlp_bias": "mlp_bias"},
    fixed={"rope_interleaved": False},
)

MISTRAL = _family(
    "mistral",
    "MistralForCausalLM",
    keys=("sliding_window",),
    implied={"sliding_window": 4096},
    sliding=lambda given, layer: True,
)


def _above(given: Mapping[str, Any], layer: int) -> bool:
    return layer >= typed("max_window_layers", given["max_window_layers"], int)


_qwen = partial(_family, fixed={"use_mrope": False}, sliding=_above)
_QWEN_KEYS = ("sliding_window", "use_sliding_window", "max_window_layers", "layer_types")
_QWEN_IMPLIED = {"use_sliding_window": False, "sliding_window": 4096, "max_window_layers": 28}
QWEN2 = _qwen(
    "qwen2",
    "Qwen2ForCausalLM",
    keys=_QWEN_KEYS,
    implied=_QWEN_IMPLIED,
    always={"qkv_bias": True, "output_bias": False},
)
QWEN3 = _qwen(
    "qwen3",
    "Qwen3ForCausalLM",
    keys=(*_QWEN_KEYS, "attention_bias"),
    implied=_QWEN_IMPLIED | {"head_dim": 128},
    always={"query_key_norm": True},
)


def _with_tanh(layout: Layout) -> Layout:
    """Read `gelu` as its tanh approximation, which the first files of Gemma mean by it."""

    def complete(description: dict[str, Any]) -> dict[str, Any]:
        means_tanh = description.get("hidden_act") == "gelu"
        return layout.complete(description | ({"hidden_act": "gelu_pytorch_tanh"} if means_tanh else {}))

    return dataclasses.replace(layout, complete=complete)


_CENTERED = {"centered": True, "scaled_embeddings": True}
_GEMMA_IMPLIED = {"head_dim": 256, "tie_word_embeddings": True}
GEMMA = _with_tanh(
    _family(
        "gemma",
        "GemmaForCausalLM",
        keys=("attention_bias",),
        implied=_GEMMA_IMPLIED | {"hidden_act": "gelu_pytorch_tanh"},
        always=_CENTERED,
        fixed={"hidden_activation": "gelu_pytorch_tanh", "use_bidirectional_attention": False},
    )
)

_gemma = partial(
    _family,
    modules={
        "model.layers.{}.post_attention_layernorm": "layers/{}/attention_post_norm",
        "model.layers.{}.pre_feedforward_layernorm": "layers/{}/mlp_norm",
        "model.layers.{}.post_feedforward_layernorm": "layers/{}/mlp_post_norm",
    },
)
_GEMMA_KEYS = ("attention_bias", "sliding_window", "layer_types")
_GEMMA_FIELDS = {"activation": "hidden_activation", "query_size": "query_pre_attn_scalar"}
_GEMMA_IMPLIED |= {
    "hidden_activation": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
}
# `transformers` does not read hidden_act, which stands beside hidden_activation in some files.
_GEMMA_FIXED = {"hidden_act": "gelu_pytorch_tanh", "use_bidirectional_attention": False}
GEMMA2 = _gemma(
    "gemma2",
    "Gemma2ForCausalLM",
    keys=_GEMMA_KEYS,
    implied=_GEMMA_IMPLIED | {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
    always=_CENTERED | {"post_norms": True},
    fields=_GEMMA_FIELDS | {"attention_cap": "attn_logit_softcapping", "logit_cap": "final_logit_softcapping"},
    fixed=_GEMMA_FIXED,
    sliding=lambda given, layer: layer % 2 == 0,
)


def _but_each_nth(given: Mapping[str, Any], layer: int) -> bool:
    pattern = given.get("sliding_window_pattern", given.get("_sliding_window_pattern", 6))
    return (layer + 1) % max(typed("sliding_window_pattern", pattern, int), 1) != 0


GEMMA3 = _gemma(
    "gemma3_text",
    "Gemma3ForCausalLM",
    keys=(*_GEMMA_KEYS, "rope_local_base_freq", "sliding_window_pattern", "_sliding_window_pattern"),
    implied=_GEMMA_IMPLIED,
    always=_CENTERED | {"post_norms": True, "query_key_norm": True},
    fields=_GEMMA_FIELDS | {"logit_cap": "final_logit_softcapping"},
    # A cap of attention is in some files, and `transformers` does not apply it.
    fixed=_GEMMA_FIXED | {"attn_logit_softcapping": None},
    rotaries=_two_rotaries,
    sliding=_but_each_nth,
)

LAYOUTS = {each.model_type: each for each in (LLAMA, MISTRAL, QWEN2, QWEN3, GEMMA, GEMMA2, GEMMA3)}
