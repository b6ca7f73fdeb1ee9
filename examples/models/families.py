"""The families of models whose files can be read and written, and the names in these files.

A configuration has to be understood as a whole: a key that is not known here is refused, as it may change the
model.

The names of modules and the keys of configurations are those of `transformers`.
"""

import dataclasses
from typing import Any

from examples.models import bert, gpt2, t5, vit
from examples.models.layout import Layout, typed

BERT = Layout(
    model_type="bert",
    architecture="BertModel",
    config=bert.EncoderConfig,
    model=bert.Encoder,
    fields={
        "vocab_size": "vocab_size",
        "hidden_size": "hidden_size",
        "layers": "num_hidden_layers",
        "heads": "num_attention_heads",
        "intermediate_size": "intermediate_size",
        "max_positions": "max_position_embeddings",
        "type_vocab_size": "type_vocab_size",
        "norm_eps": "layer_norm_eps",
        "pad_token_id": "pad_token_id",
        "activation": "hidden_act",
        "hidden_dropout": "hidden_dropout_prob",
        "attention_dropout": "attention_probs_dropout_prob",
    },
    fixed={
        "position_embedding_type": "absolute",
        "is_decoder": False,
        "is_encoder_decoder": False,
        "add_cross_attention": False,
    },
    # Of heads that are not here: a pooler, a classifier, and a head whose matrix is that of the embeddings.
    inert=(
        *("classifier_dropout", "classifier_pooling", "tie_word_embeddings"),
        *("text_columns", "text_pairs", "text_stride"),
        "directionality",
        *("pooler_fc_size", "pooler_num_attention_heads", "pooler_num_fc_layers", "pooler_size_per_head"),
        "pooler_type",
    ),
    modules={
        "bert.embeddings.word_embeddings": "embeddings/word",
        "bert.embeddings.position_embeddings": "embeddings/position",
        "bert.embeddings.token_type_embeddings": "embeddings/token_type",
        "bert.embeddings.LayerNorm": "embeddings/norm",
        "bert.encoder.layer.{}.attention.self.query": "layers/{}/attention/query",
        "bert.encoder.layer.{}.attention.self.key": "layers/{}/attention/key",
        "bert.encoder.layer.{}.attention.self.value": "layers/{}/attention/value",
        "bert.encoder.layer.{}.attention.output.dense": "layers/{}/attention/output",
        "bert.encoder.layer.{}.attention.output.LayerNorm": "layers/{}/attention_norm",
        "bert.encoder.layer.{}.intermediate.dense": "layers/{}/mlp/up",
        "bert.encoder.layer.{}.output.dense": "layers/{}/mlp/down",
        "bert.encoder.layer.{}.output.LayerNorm": "layers/{}/mlp_norm",
    },
    prefix="bert.",
    # Heads of other tasks, and indices that older files store.
    ignored=r"^(bert\.|roberta\.)?(pooler|cls|lm_head|classifier|qa_outputs|embeddings\.position_ids)\b",
)

MASKED_BERT = dataclasses.replace(
    BERT,
    architecture="BertForMaskedLM",
    model=bert.MaskedLanguageModel,
    fixed={**BERT.fixed, "tie_word_embeddings": True},
    modules={
        **BERT.modules,
        "cls.predictions.transform.dense": "head/transform",
        "cls.predictions.transform.LayerNorm": "head/norm",
        "cls.predictions.bias": "head/bias",
    },
    copies={
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    },
)


def _with_usual_width(description: dict[str, Any]) -> dict[str, Any]:
    """Drop the width of the MLP from a description if it is the usual width, four times the hidden size."""
    width, inner = description.get("n_embd"), description.get("n_inner")
    is_usual = type(width) is int and type(inner) is int and inner == 4 * width
    return description | ({"n_inner": None} if is_usual else {})


GPT2 = Layout(
    model_type="gpt2",
    complete=_with_usual_width,
    architecture="GPT2LMHeadModel",
    config=gpt2.GPT2Config,
    model=gpt2.GPT2,
    fields={
        "vocab_size": "vocab_size",
        "hidden_size": "n_embd",
        "layers": "n_layer",
        "heads": "n_head",
        "max_positions": "n_positions",
        "activation": "activation_function",
        "norm_eps": "layer_norm_epsilon",
        "embedding_dropout": "embd_pdrop",
        "attention_dropout": "attn_pdrop",
        "hidden_dropout": "resid_pdrop",
        "tied": "tie_word_embeddings",
    },
    fixed={
        "n_inner": None,
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "is_encoder_decoder": False,
        "add_cross_attention": False,
    },
    inert=(
        *("n_ctx", "predict_special_tokens", "summary_activation", "summary_first_dropout"),
        *("summary_proj_to_labels", "summary_type", "summary_use_proj"),
        "reorder_and_upcast_attn",  # the same numbers, with the scale and a softmax in float32 as always here
    ),
    modules={
        "transformer.wte": "embeddings/word",
        "transformer.wpe": "embeddings/position",
        "transformer.h.{}.ln_1": "layers/{}/attention_norm",
        "transformer.h.{}.attn.c_attn": tuple(
            f"layers/{{}}/attention/{name}" for name in ("query", "key", "value")
        ),
        "transformer.h.{}.attn.c_proj": "layers/{}/attention/output",
        "transformer.h.{}.ln_2": "layers/{}/mlp_norm",
        "transformer.h.{}.mlp.c_fc": "layers/{}/mlp/up",
        "transformer.h.{}.mlp.c_proj": "layers/{}/mlp/down",
        "transformer.ln_f": "norm",
        "lm_head": "head",
    },
    prefix="transformer.",
    ignored=r"\.attn\.(masked_)?bias$",  # the causal mask, which older files store
    copies={"lm_head.weight": "transformer.wte.weight"},
    special={"bos_token_id": "end", "eos_token_id": "end"},
    as_kernels=r"\.c_\w+\.weight$",
)


def _with_classes(description: dict[str, Any]) -> dict[str, Any]:
    """Count the classes that a file names; if it names none, `transformers` assumes two."""
    names = description.get("id2label", {"0": "", "1": ""})
    if not isinstance(names, dict):
        raise ValueError(f"id2label must be an object, got {repr(names)[:100]}")
    return {"num_labels": len(names)} | description


VIT = Layout(
    model_type="vit",
    architecture="ViTForImageClassification",
    config=vit.ViTConfig,
    model=vit.ViT,
    complete=_with_classes,
    fields={
        "image_size": "image_size",
        "patch_size": "patch_size",
        "hidden_size": "hidden_size",
        "layers": "num_hidden_layers",
        "heads": "num_attention_heads",
        "intermediate_size": "intermediate_size",
        "classes": "num_labels",
        "channels": "num_channels",
        "activation": "hidden_act",
        "norm_eps": "layer_norm_eps",
        "hidden_dropout": "hidden_dropout_prob",
        "attention_dropout": "attention_probs_dropout_prob",
    },
    fixed={"qkv_bias": True, "is_encoder_decoder": False},
    # Of a pooler, which the head does not read, and of a decoder of hidden patches.
    inert=("encoder_stride", "pooler_act", "pooler_output_size"),
    modules={
        "vit.embeddings.cls_token": "embeddings/cls_token",
        "vit.embeddings.position_embeddings": "embeddings/position",
        "vit.embeddings.patch_embeddings.projection": "embeddings/patch",
        "vit.encoder.layer.{}.layernorm_before": "layers/{}/attention_norm",
        "vit.encoder.layer.{}.attention.attention.query": "layers/{}/attention/query",
        "vit.encoder.layer.{}.attention.attention.key": "layers/{}/attention/key",
        "vit.encoder.layer.{}.attention.attention.value": "layers/{}/attention/value",
        "vit.encoder.layer.{}.attention.output.dense": "layers/{}/attention/output",
        "vit.encoder.layer.{}.layernorm_after": "layers/{}/mlp_norm",
        "vit.encoder.layer.{}.intermediate.dense": "layers/{}/mlp/up",
        "vit.encoder.layer.{}.output.dense": "layers/{}/mlp/down",
        "vit.layernorm": "norm",
        "classifier": "head",
    },
    prefix="vit.",
    ignored=r"^(vit\.)?pooler\.|^classifier\.",
)


def _with_implied(description: dict[str, Any]) -> dict[str, Any]:
    """Fill in what files omit: the decoder has as many layers, and the output of a tied head is scaled.

    T5 has an MLP of a relu, and v1.1 the product of a gelu; its files mean the approximation by that name.
    """
    tied = description.get("tie_word_embeddings", True)
    implied = {"tie_word_embeddings": tied, "scale_decoder_outputs": tied}
    if "num_layers" in description and description.get("num_decoder_layers") is None:
        description = description | {"num_decoder_layers": description["num_layers"]}
    mlp = typed("feed_forward_proj", description.get("feed_forward_proj", "relu"), str)
    gated = mlp.startswith("gated-")
    activation = "gelu_new" if mlp == "gated-gelu" else mlp.removeprefix("gated-")
    for key, value in {"dense_act_fn": activation, "is_gated_act": gated}.items():
        if description.get(key, value) != value:
            got = repr(description[key])[:100]
            raise ValueError(f"{key} must be {value!r}, as feed_forward_proj is {mlp[:100]!r}, got {got}")
    return implied | description | {".activation": activation, ".gated": gated}


def _written_t5(values: dict[str, Any]) -> dict[str, Any]:
    """The inverse of `_with_implied`."""
    kept = {key: value for key, value in values.items() if not key.startswith(".")}
    name = "gelu" if values[".gated"] and values[".activation"] == "gelu_new" else values[".activation"]
    return kept | {"feed_forward_proj": f"gated-{name}" if values[".gated"] else name}


def _stack(name: str, last: int) -> dict[str, str]:
    """The names of one stack's tensors in the file; `last` is the index of its last sublayer, the MLP."""
    of = f"{name}.block.{{}}.layer"
    here = f"{name}/layers/{{}}"
    attentions = [("SelfAttention", "attention"), ("EncDecAttention", "cross_attention")][:last]
    names = {}
    for index, (theirs, ours) in enumerate(attentions):
        names[f"{of}.{index}.layer_norm"] = f"{here}/{ours}_norm"
        for letter, word in zip("qkvo", ("query", "key", "value", "output"), strict=True):
            names[f"{of}.{index}.{theirs}.{letter}"] = f"{here}/{ours}/{word}"
    names[f"{of}.{last}.layer_norm"] = f"{here}/mlp_norm"
    for theirs, ours in (("wi", "inner"), ("wi_0", "gate"), ("wi_1", "up"), ("wo", "down")):
        names[f"{of}.{last}.DenseReluDense.{theirs}"] = f"{here}/mlp/{ours}"
    first = f"{name}.block.0.layer.0.SelfAttention.relative_attention_bias"
    return names | {first: f"{name}/distance", f"{name}.final_layer_norm": f"{name}/norm"}


T5 = Layout(
    model_type="t5",
    architecture="T5ForConditionalGeneration",
    config=t5.T5Config,
    model=t5.T5,
    complete=_with_implied,
    written=_written_t5,
    fields={
        "vocab_size": "vocab_size",
        "hidden_size": "d_model",
        "layers": "num_layers",
        "decoder_layers": "num_decoder_layers",
        "heads": "num_heads",
        "head_size": "d_kv",
        "intermediate_size": "d_ff",
        "buckets": "relative_attention_num_buckets",
        "max_distance": "relative_attention_max_distance",
        "norm_eps": "layer_norm_epsilon",
        "dropout": "dropout_rate",
        "tied": "tie_word_embeddings",
        "scaled": "scale_decoder_outputs",
        # What follows from feed_forward_proj: no file has a key with a dot in front.
        "activation": ".activation",
        "gated": ".gated",
    },
    read=("feed_forward_proj", "dense_act_fn", "is_gated_act"),
    inert=("n_positions", "initializer_factor", "classifier_dropout"),
    fixed={"is_encoder_decoder": True},
    modules={"shared": "embeddings", "lm_head": "head"} | _stack("encoder", 1) | _stack("decoder", 2),
    copies=dict.fromkeys(
        ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight"), "shared.weight"
    ),
    special={"pad_token_id": "pad", "eos_token_id": "end", "decoder_start_token_id": "pad"},
)
