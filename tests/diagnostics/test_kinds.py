import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn
from flax import nnx

from examples.models.bert import Classifier, EncoderConfig
from optimiz import groups
from optimiz.groups.kinds import kind, kinds

# Paths as the models themselves name their parameters.
MODELS = {
    "Flax BERT": {
        "embeddings/word_embeddings/embedding": "embedding",
        "embeddings/LayerNorm/scale": "norm",
        "encoder/layer/0/attention/self/query/kernel": "q",
        "encoder/layer/0/attention/self/key/bias": "k",
        "encoder/layer/0/attention/self/value/kernel": "v",
        "encoder/layer/0/attention/output/dense/kernel": "o",
        "encoder/layer/0/attention/output/LayerNorm/bias": "norm",
        "encoder/layer/0/intermediate/dense/kernel": "mlp",
        "encoder/layer/0/output/dense/kernel": "mlp",
        "encoder/layer/0/output/LayerNorm/scale": "norm",
        "pooler/dense/kernel": "head",
        "cls/predictions/transform/dense/kernel": "head",
        "classifier/kernel": "head",
    },
    "RoBERTa checkpoint": {
        "roberta.embeddings.position_embeddings.weight": "embedding",
        "roberta.embeddings.LayerNorm.weight": "norm",
        "roberta.encoder.layer.11.attention.self.query.weight": "q",
        "roberta.encoder.layer.11.attention.output.dense.bias": "o",
        "roberta.encoder.layer.11.output.dense.weight": "mlp",
        "classifier.dense.weight": "head",
        "classifier.out_proj.weight": "head",
        "lm_head.dense.weight": "head",
    },
    "DistilBERT": {
        "transformer.layer.0.attention.q_lin.weight": "q",
        "transformer.layer.0.attention.out_lin.weight": "o",
        "transformer.layer.0.sa_layer_norm.weight": "norm",
        "transformer.layer.0.ffn.lin1.weight": "mlp",
    },
    "BART": {
        "model.shared.weight": "embedding",
        "model.encoder.layernorm_embedding.weight": "norm",
        "model.encoder.layers.0.self_attn.k_proj.weight": "k",
        "model.decoder.layers.0.encoder_attn.out_proj.weight": "o",
        "model.decoder.layers.0.encoder_attn_layer_norm.bias": "norm",
        "model.decoder.layers.0.fc1.weight": "mlp",
        "classification_head.dense.weight": "head",
    },
    "T5": {
        "shared/embedding": "embedding",
        "encoder/block/0/layer/0/SelfAttention/q/kernel": "q",
        "encoder/block/0/layer/0/SelfAttention/o/kernel": "o",
        "encoder/block/0/layer/0/SelfAttention/relative_attention_bias/embedding": "embedding",
        "encoder/block/0/layer/0/layer_norm/weight": "norm",
        "decoder/block/0/layer/1/EncDecAttention/v/kernel": "v",
        "encoder/block/0/layer/1/DenseReluDense/wo/kernel": "mlp",
        "lm_head/kernel": "head",
    },
    "GPT-2": {
        "transformer.wte.weight": "embedding",
        "transformer.wpe.weight": "embedding",
        "transformer.h.0.ln_1.weight": "norm",
        "transformer.h.0.attn.c_attn.weight": "qkv",
        "transformer.h.0.attn.c_proj.weight": "o",
        "transformer.h.0.mlp.c_fc.weight": "mlp",
        "transformer.h.0.mlp.c_proj.weight": "mlp",
        "transformer.ln_f.bias": "norm",
    },
    "GPT-NeoX": {
        "gpt_neox.embed_in.weight": "embedding",
        "gpt_neox.layers.0.attention.query_key_value.weight": "qkv",
        "gpt_neox.layers.0.attention.dense.weight": "o",
        "gpt_neox.layers.0.mlp.dense_h_to_4h.weight": "mlp",
    },
    "Llama": {
        "model.embed_tokens.weight": "embedding",
        "model.layers.0.input_layernorm.weight": "norm",
        "model.layers.0.self_attn.q_proj.weight": "q",
        "model.layers.0.self_attn.q_proj.lora_A.weight": "q",
        "model.layers.0.self_attn.q_norm.weight": "norm",
        "model.layers.0.self_attn.o_proj.weight": "o",
        "model.layers.0.post_attention_layernorm.weight": "norm",
        "model.layers.0.mlp.gate_proj.weight": "mlp",
        "model.norm.weight": "norm",
        "lm_head.weight": "head",
        "layers.0.attention.wq.weight": "q",
        "layers.0.attention.wo.weight": "o",
        "layers.0.feed_forward.w2.weight": "mlp",
    },
    "ViT": {
        "cls_token": "embedding",
        "pos_embed": "embedding",
        "patch_embed.proj.weight": "embedding",
        "blocks.0.norm1.weight": "norm",
        "blocks.0.attn.qkv.weight": "qkv",
        "blocks.0.attn.proj.weight": "o",
        "blocks.0.mlp.fc1.weight": "mlp",
        "head.weight": "head",
        "class_token": "embedding",
        "conv_proj.weight": "embedding",
        "encoder.layers.encoder_layer_0.self_attention.in_proj_weight": "qkv",
        "encoder.layers.encoder_layer_0.self_attention.out_proj.weight": "o",
        "encoder.layers.encoder_layer_0.ln_1.weight": "norm",
        "encoder.layers.encoder_layer_0.mlp.0.weight": "mlp",
        "heads.head.weight": "head",
        "Transformer/posembed_input/pos_embedding": "embedding",
        "Transformer/encoderblock_0/MultiHeadDotProductAttention_1/query/kernel": "q",
        "Transformer/encoderblock_0/MultiHeadDotProductAttention_1/out/bias": "o",
        "Transformer/encoderblock_0/MlpBlock_3/Dense_0/kernel": "mlp",
        "Transformer/encoderblock_0/LayerNorm_0/scale": "norm",
        "pre_logits/kernel": "head",
    },
    "a mixture of experts": {
        "model.layers.0.block_sparse_moe.gate.weight": "router",
        "model.layers.0.block_sparse_moe.experts.0.w1.weight": "mlp",
        "model.layers.0.mlp.gate.weight": "mlp",  # of itself, see below
        "layers/0/mlp/router/kernel": "router",
        "model.layers.61.shared_head.head.weight": "head",
    },
    "elsewhere": {
        "blocks/0/mha/query/kernel": "q",
        "blocks/0/sa_heads/heads/0/key/kernel": "other",
        "decoder/cross_attention/kv/kernel": "kv",
        "ResNetBlock_0/conv_proj/kernel": "other",
        "": "other",
        "Conv_0/kernel": "other",
        "memory/key": "other",  # a query, a key or an output outside of attention may be anything
        "actor/output/kernel": "other",
        "decoder/unembed/kernel": "head",
    },
}
CASES = [(model, path, wanted) for model, paths in MODELS.items() for path, wanted in paths.items()]


@pytest.mark.parametrize(("model", "path", "wanted"), CASES, ids=[f"{m}: {p}" for m, p, _ in CASES])
def test_the_names_of_common_models(model, path, wanted):
    assert kind(path) == wanted
    assert kind(path.replace(".", "/")) == wanted


def by_path(params):
    return {leaf.path: kind(leaf.path) for leaf in groups.rules.read(params).leaves}


def test_every_parameter_of_the_encoder_of_the_examples_has_a_kind():
    config = EncoderConfig(vocab_size=7, hidden_size=4, layers=2, heads=2, intermediate_size=8)
    model = nnx.eval_shape(lambda: Classifier(config, 3, rngs=nnx.Rngs(0)))
    state = nnx.state(model, nnx.Param)
    found = by_path(state)
    assert found["layers/1/attention/query/kernel"] == "q" and found["layers/1/attention/output/bias"] == "o"
    assert found["layers/0/mlp/down/kernel"] == "mlp" and found["layers/0/attention_norm/scale"] == "norm"
    assert found["embeddings/word/embedding"] == "embedding" and found["embeddings/norm/bias"] == "norm"
    assert set(found.values()) == {"q", "k", "v", "o", "mlp", "norm", "embedding", "head"}
    assert jax.tree.leaves(kinds(state)) == list(found.values())
    assert jax.tree.structure(kinds(state)) == jax.tree.structure(state)


def test_what_is_beside_it_tells_what_a_name_does_not():
    attention = {"query": 1.0, "key": 1.0, "value": 1.0, "out": {"kernel": 1.0}}
    wanted = {"query": "q", "key": "k", "value": "v", "out": {"kernel": "o"}}
    assert kinds({"blocks": [{"mixer": attention}]}) == {"blocks": [{"mixer": wanted}]}
    moe = {"gate": {"kernel": 1.0}, "experts": [{"gate": {"kernel": 1.0}}]}
    wanted = {"gate": {"kernel": "router"}, "experts": [{"gate": {"kernel": "mlp"}}]}
    assert kinds({"mlp": moe}) == {"mlp": wanted}


def test_flax_attention_of_both_libraries():
    x = jnp.zeros((1, 2, 4))
    linen = jax.eval_shape(nn.MultiHeadDotProductAttention(2).init, jax.random.key(0), x)["params"]
    wanted = {"query": "q", "key": "k", "value": "v", "out": "o"}
    nnx_state = nnx.state(
        nnx.eval_shape(lambda: nnx.MultiHeadAttention(2, 4, decode=False, rngs=nnx.Rngs(0))), nnx.Param
    )
    for params in (linen, nnx.to_pure_dict(nnx_state)):
        found = by_path({"attention": params})
        assert found == {path: wanted[path.split("/")[1]] for path in found}
        assert len(found) == 8
