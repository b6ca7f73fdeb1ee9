"""Configurations of published models are understood, and what may change a model is refused by name."""

import json
import math

import jax
import numpy as np
import pytest
from flax import nnx

from examples.models import families, pretrained, t5, weights
from examples.models.blocks import ACTIVATIONS
from examples.models.layout import shapes_of

# What the config.json of each holds, without the names of a thousand classes.
_BERT = {
    **{"attention_probs_dropout_prob": 0.1, "hidden_act": "gelu", "hidden_dropout_prob": 0.1},
    **{"initializer_range": 0.02, "num_attention_heads": 12, "model_type": "bert"},
}
_SENTENCES = {"pad_token_id": 0, "position_embedding_type": "absolute", "type_vocab_size": 2, "use_cache": True}
_BASE = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12}
_ROBERTA = {
    **{"architectures": ["RobertaForMaskedLM"], "model_type": "roberta", "layer_norm_eps": 1e-5},
    **{"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1, "max_position_embeddings": 514},
}
_VIT = {
    **{"architectures": ["ViTForImageClassification"], "attention_probs_dropout_prob": 0.0},
    **{"hidden_act": "gelu", "hidden_dropout_prob": 0.0, "image_size": 224, "initializer_range": 0.02},
    **{"layer_norm_eps": 1e-12, "model_type": "vit", "num_channels": 3, "num_hidden_layers": 12},
    **{"patch_size": 16, "qkv_bias": True, "id2label": {str(i): f"{i}" for i in range(1000)}},
    "label2id": {f"{i}": i for i in range(1000)},
}
_T5 = {
    **{"architectures": ["T5ForConditionalGeneration"], "decoder_start_token_id": 0, "dropout_rate": 0.1},
    **{"eos_token_id": 1, "initializer_factor": 1.0, "is_encoder_decoder": True, "pad_token_id": 0},
    **{"layer_norm_epsilon": 1e-6, "model_type": "t5", "n_positions": 512, "vocab_size": 32128},
    **{
        "relative_attention_num_buckets": 32,
        "output_past": True,
        "task_specific_params": {"summarization": {}},
    },
}
# Name → family, config.json, and the number of parameters, without a pooler.
PUBLISHED = {
    "bert-base-uncased": (
        families.BERT,
        _BERT
        | _BASE
        | _SENTENCES
        | {"architectures": ["BertForMaskedLM"], "gradient_checkpointing": False, "layer_norm_eps": 1e-12}
        | {"max_position_embeddings": 512, "vocab_size": 30522, "transformers_version": "4.6.0.dev0"},
        108_891_648,
    ),
    "bert-base-multilingual-cased": (
        families.BERT,
        _BERT
        | _BASE
        | {"architectures": ["BertForMaskedLM"], "directionality": "bidi", "layer_norm_eps": 1e-12}
        | {"max_position_embeddings": 512, "pad_token_id": 0, "pooler_fc_size": 768, "type_vocab_size": 2}
        | {"pooler_num_attention_heads": 12, "pooler_num_fc_layers": 3, "pooler_size_per_head": 128}
        | {"pooler_type": "first_token_transform", "vocab_size": 119547},
        177_262_848,
    ),
    "all-MiniLM-L6-v2": (
        families.BERT,
        _BERT
        | _SENTENCES
        | {"_name_or_path": "nreimers/MiniLM-L6-H384-uncased", "architectures": ["BertModel"]}
        | {"gradient_checkpointing": False, "hidden_size": 384, "intermediate_size": 1536}
        | {"layer_norm_eps": 1e-12, "max_position_embeddings": 512, "num_hidden_layers": 6}
        | {"vocab_size": 30522, "transformers_version": "4.8.2"},
        22_565_376,
    ),
    "roberta-base": (
        pretrained.family("roberta"),
        _BERT | _BASE | _ROBERTA | {"type_vocab_size": 1, "vocab_size": 50265},
        124_055_040,
    ),
    "xlm-roberta-base": (
        pretrained.family("xlm-roberta"),
        _BERT
        | _BASE
        | _ROBERTA
        | {"architectures": ["XLMRobertaForMaskedLM"], "model_type": "xlm-roberta", "output_past": True}
        | {"position_embedding_type": "absolute", "type_vocab_size": 1, "use_cache": True}
        | {"transformers_version": "4.17.0.dev0", "vocab_size": 250002},
        277_453_056,
    ),
    "gpt2": (
        families.GPT2,
        {
            **{"activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"], "attn_pdrop": 0.1},
            **{"bos_token_id": 50256, "embd_pdrop": 0.1, "eos_token_id": 50256, "initializer_range": 0.02},
            **{"layer_norm_epsilon": 1e-5, "model_type": "gpt2", "n_ctx": 1024, "n_embd": 768, "n_head": 12},
            **{"n_layer": 12, "n_positions": 1024, "resid_pdrop": 0.1, "summary_activation": None},
            **{"summary_first_dropout": 0.1, "summary_proj_to_labels": True, "summary_type": "cls_index"},
            **{"summary_use_proj": True, "vocab_size": 50257},
            "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
        },
        124_439_808,
    ),
    "t5-small": (
        families.T5,
        _T5 | {"d_ff": 2048, "d_kv": 64, "d_model": 512, "num_heads": 8, "num_layers": 6},
        60_506_624,
    ),
    "flan-t5-small": (
        families.T5,
        _T5
        | {"d_ff": 1024, "d_kv": 64, "d_model": 512, "num_heads": 6, "num_layers": 8, "num_decoder_layers": 8}
        | {"feed_forward_proj": "gated-gelu", "relative_attention_max_distance": 128, "use_cache": True}
        | {"tie_word_embeddings": False, "transformers_version": "4.23.1"},
        76_961_152,
    ),
    "vit-base-patch16-224": (
        families.VIT,
        _VIT
        | {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12}
        | {"transformers_version": "4.13.0.dev0"},
        86_567_656,
    ),
    "deit-tiny-patch16-224": (
        families.VIT,
        _VIT | {"hidden_size": 192, "intermediate_size": 768, "num_attention_heads": 3, "encoder_stride": 16},
        5_717_416,
    ),
}


def parameters(family, config):
    """Number of parameters, from those of one layer and of two."""

    def count(layers):
        depths = {"layers", "decoder_layers"} & vars(config).keys()
        fewer = shapes_of(family, config.__class__(**vars(config) | dict.fromkeys(depths, layers)))
        return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(fewer))

    one, two = count(1), count(2)
    return one + (config.layers - 1) * (two - one)


@pytest.mark.quick(4)
@pytest.mark.parametrize("name", sorted(PUBLISHED, key=lambda name: "base" in name))
def test_a_published_configuration_is_read_and_written_again(name):
    family, description, size = PUBLISHED[name]
    config = weights.config_of(family, description)
    assert parameters(family, config) == size
    written = json.loads(json.dumps(weights.description_of(family, config)))
    assert weights.config_of(family, written) == config
    for key in description.keys() & {*family.fields.values()}:
        assert written[key] == description[key], key


def of(name, **keys):
    family, description, _ = PUBLISHED[name]
    return family, description | keys


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (of("gpt2", scale_attn_by_inverse_layer_idx=True), "scale_attn_by_inverse_layer_idx must be False"),
        (of("gpt2", scale_attn_weights=False), "scale_attn_weights must be True, got False"),
        (of("gpt2", activation_function="swish2"), "activation must be one of ['gelu', "),
        (of("gpt2", alibi=True), "alibi is not known of a gpt2, and may change the model; got True. If it"),
        (of("gpt2", quantization_config={"bits": 4}), "quantization_config is not known of a gpt2"),
        (of("gpt2", pruned_heads={"0": [1]}), "pruned_heads is not known of a gpt2"),
        (of("bert-base-uncased", position_embedding_type="relative_key"), "position_embedding_type must be"),
        (of("bert-base-uncased", hidden_act="gelu_10"), "activation must be one of"),
        (of("bert-base-uncased", is_decoder=True), "is_decoder must be False, got True"),
        (of("bert-base-uncased", embedding_size=128), "embedding_size is not known of a bert"),
        (of("roberta-base", is_decoder=True), "is_decoder must be False, got True"),
        (of("roberta-base", query_scale=2), "query_scale is not known of a roberta"),
        (of("t5-small", feed_forward_proj="gated-mish"), "activation must be one of"),
        (of("t5-small", feed_forward_proj=1), "feed_forward_proj must be of type str, got 1"),
        (of("t5-small", dense_act_fn="gelu"), "dense_act_fn must be 'relu', as feed_forward_proj is 'relu'"),
        (of("flan-t5-small", is_gated_act=False), "is_gated_act must be True, as feed_forward_proj is"),
        (of("t5-small", is_encoder_decoder=False), "is_encoder_decoder must be True, got False"),
        (of("t5-small", scalable_attention=True), "scalable_attention is not known of a t5"),
        (of("vit-base-patch16-224", qkv_bias=False), "qkv_bias must be True, got False"),
        (of("vit-base-patch16-224", layerscale_value=0.1), "layerscale_value is not known of a vit"),
    ],
)  # fmt: skip
def test_what_is_not_supported_is_refused_by_name(given, message):
    with pytest.raises(ValueError) as error:
        weights.config_of(*given)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_keys_that_change_no_number_are_not_read():
    family, description, _ = PUBLISHED["gpt2"]
    more = {"reorder_and_upcast_attn": True, "pruned_heads": {}, "n_inner": 3072, "unheard_of": None}
    assert weights.config_of(family, description | more) == weights.config_of(family, description)
    # A head that is not that of the embeddings matters where there is a head.
    description = PUBLISHED["bert-base-uncased"][1] | {"tie_word_embeddings": False}
    weights.config_of(families.BERT, description)
    with pytest.raises(ValueError, match="tie_word_embeddings must be True, got False"):
        weights.config_of(families.MASKED_BERT, description)


def test_the_mlp_of_the_first_t5_has_no_gate():
    plain, gated = (weights.config_of(*PUBLISHED[name][:2]) for name in ("t5-small", "flan-t5-small"))
    assert (plain.activation, plain.gated, plain.tied, plain.scaled) == ("relu", False, True, True)
    assert (gated.activation, gated.gated, gated.tied, gated.scaled) == ("gelu_new", True, False, False)
    x = np.random.default_rng(0).normal(size=(2, 3, 8)).astype(np.float32)
    for activation, is_gated in (("relu", False), ("silu", True)):
        config = t5.T5Config(9, 8, 1, 1, 2, 4, 6, activation=activation, gated=is_gated)
        mlp = t5.Mlp(config, rngs=nnx.Rngs(0))
        of = {
            name: np.asarray(getattr(mlp, name).kernel[...], np.float64)
            for name in vars(mlp)
            if name in ("inner", "gate", "up", "down")
        }
        first = np.asarray(ACTIVATIONS[activation](x @ of["gate" if is_gated else "inner"]))
        inner = first * (x @ of["up"]) if is_gated else first
        np.testing.assert_allclose(mlp(x, None), inner @ of["down"], atol=1e-5)
