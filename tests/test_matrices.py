"""Which parameters are hidden matrices, in trees of real models."""

import re

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import linen as nn
from flax import nnx

from examples.models import bert, gpt2, resnet
from optimiz import groups, matrix_scales, muon
from optimiz.groups import Matrix
from tests.conftest import ROOT
from tests.test_groups import HEADS, LAYERS, SCANNED, WIDTH, linen_params, nnx_state, paths

QKV, OUT, DENSE = Matrix((), (0,), (1, 2)), Matrix((), (0, 1), (2,)), Matrix((), (0,), (1,))


def shapes(**leaves):
    """Parameters by path, with ``/`` as ``__``."""
    return {name.replace("__", "/"): jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in leaves.items()}


def found(params, overrides=None, scanned=None):
    """Axes by path, of the hidden matrices alone."""
    answers = jax.tree.structure(params).flatten_up_to(groups.matrices(overrides, scanned=scanned)(params))
    return {path: axes for path, axes in zip(paths(params), answers, strict=True) if axes is not None}


def one(path, shape, **given):
    """The answer for a parameter beside a hidden matrix."""
    params = {path: jax.ShapeDtypeStruct(shape, jnp.float32), "up": jnp.ones((3, 7))}
    return found(params, **given).get(path)


# Trees of models


def attention(prefix):
    return {
        f"{prefix}/{name}/kernel": OUT if name == "out" else QKV for name in ("query", "key", "value", "out")
    }


@pytest.mark.parametrize(
    ("params", "layer"),
    [(linen_params(), "layers_{}"), (nnx_state(), "layers/{}"), (nnx.to_pure_dict(nnx_state()), "layers/{}")],
    ids=["Linen", "NNX", "pure"],
)
def test_the_kernels_of_the_layers_and_nothing_else(params, layer):
    wanted = {}
    for i in range(LAYERS):
        wanted |= attention(layer.format(i) + "/attention") | {layer.format(i) + "/mlp/kernel": DENSE}
    assert found(params) == wanted


def test_a_scanned_model_has_one_matrix_for_each_layer():
    wanted = {path: Matrix((0,), (1,), (2, 3)) for path in attention("layers/attention")}
    wanted["layers/attention/out/kernel"] = Matrix((0,), (1, 2), (3,))
    wanted["layers/mlp/kernel"] = Matrix((0,), (1,), (2,))
    assert found(linen_params(scan=True), scanned=SCANNED) == wanted


def test_layers_stacked_by_vmap_and_along_another_axis():
    @nnx.vmap(in_axes=0, out_axes=0)
    def stacked(key):
        return nnx.Linear(4, 6, rngs=nnx.Rngs(key))

    state = nnx.state(stacked(jax.random.split(jax.random.key(0), 3)), nnx.Param)
    assert found({"layers": state}, scanned=SCANNED) == {"layers/kernel": Matrix((0,), (1,), (2,))}
    along_second = {"layers/attention/query/kernel": jnp.ones((8, 3, 2, 4))}
    assert found(along_second, scanned={"^layers/": 1}) == {
        "layers/attention/query/kernel": Matrix((1,), (0,), (2, 3))
    }


def test_stacked_layers_that_are_not_declared_are_refused_by_the_norm_that_shows_them():
    with pytest.raises(
        ValueError, match=r"norm layers/ln_1/bias of shape \(3, 8\) .* declare them, as in scanned"
    ):
        groups.matrices()(linen_params(scan=True))
    heads = shapes(q_norm__scale=(2, 4), mlp__kernel=(4, 8))
    assert found(heads, scanned={}) == {"mlp/kernel": DENSE}


def test_stacked_layers_whose_norms_have_no_parameters_are_refused_by_the_widths_of_attention():
    tree = shapes(layers__attn__q_proj__kernel=(12, 8, 8), layers__attn__o_proj__kernel=(12, 8, 8))
    with pytest.raises(ValueError, match=r"q_proj/kernel .* and .*o_proj/kernel .* look like .* declare them"):
        groups.matrices()(tree)
    assert found(tree, scanned={"^layers/": 0}) == dict.fromkeys(tree, Matrix((0,), (1,), (2,)))
    assert found(tree, scanned={}) == dict(zip(tree, (QKV, OUT), strict=True))
    with pytest.raises(
        ValueError, match=r'up/kernel of shape \(12, 8, 16\) is named as "mlp", .* in scanned, or'
    ):
        groups.matrices()(shapes(layers__mlp__up__kernel=(12, 8, 16)))


def test_nested_stacks_of_which_one_axis_is_declared_are_refused():
    tree = shapes(layers__norm__scale=(2, 3, 8), layers__attn__query__kernel=(2, 3, 8, 2, 4))
    declared = {"^layers/": 0}
    with pytest.raises(ValueError, match=r"norm layers/norm/scale .* the declared 0, as in nested stacks"):
        groups.matrices(scanned=declared)(tree)
    with pytest.raises(ValueError, match=r"query/kernel of shape \(2, 3, 8, 2, 4\) is named as \"q\", but has"):
        groups.matrices({"norm": None}, scanned=declared)(tree)
    axes = Matrix((0, 1), (2,), (3, 4))
    assert found(tree, {"norm": None, "query": axes}, scanned=declared) == {"layers/attn/query/kernel": axes}


def test_models_of_the_examples():
    config = bert.EncoderConfig(vocab_size=7, hidden_size=4, layers=2, heads=2, intermediate_size=8)
    encoder = nnx.state(nnx.eval_shape(lambda: bert.Classifier(config, 3, rngs=nnx.Rngs(0))), nnx.Param)
    kernels = ["attention/key", "attention/output", "attention/query", "attention/value", "mlp/down", "mlp/up"]
    assert sorted(found(encoder)) == sorted(f"layers/{i}/{name}/kernel" for i in range(2) for name in kernels)

    config = gpt2.GPT2Config(vocab_size=7, hidden_size=4, layers=1, heads=2)
    decoder = nnx.state(nnx.eval_shape(lambda: gpt2.GPT2(config, rngs=nnx.Rngs(0))), nnx.Param)
    assert all(path.startswith("layers/0/") and path.endswith("/kernel") for path in found(decoder))
    assert len(found(decoder)) == 6

    config = resnet.ResNetConfig(depths=(1, 1), widths=(8, 16), classes=3)
    images = nnx.state(nnx.eval_shape(lambda: resnet.ResNet(config, rngs=nnx.Rngs(0))), nnx.Param)
    kernels = [path for path in paths(images) if path.startswith("layers/") and path.endswith("/kernel")]
    assert list(found(images)) == kernels and any("shortcut" in path for path in kernels)


# One parameter


@pytest.mark.parametrize(
    ("path", "shape", "wanted"),
    [
        ("Dense_0/kernel", (4, 8), DENSE),
        ("layers/0/linear/weight", (4, 8), Matrix((), (1,), (0,))),
        ("h/0/attn/c_attn/kernel", (4, 12), Matrix((), (0,), (1,), (4, 4, 4))),
        ("blocks/0/attn/qkv/weight", (12, 4), Matrix((), (1,), (0,), (4, 4, 4))),
        ("moe/experts/kernel", (6, 4, 8), Matrix((0,), (1,), (2,))),
        ("moe/wi_0", (6, 4, 8), Matrix((0,), (1,), (2,))),
        ("moe/experts/wi", (6, 4, 2, 8), Matrix((0, 2), (1,), (3,))),
        ("layers_0/mlp/wi/kernel", (4, 2, 8), Matrix((1,), (0,), (2,))),
        ("mlp/gate/kernel", (4, 8), DENSE),
        ("attn/qkv/kernel", (8, 3, 2, 4), Matrix((1,), (0,), (2, 3))),
        ("attn/c_attn/kernel", (8, 3, 8), Matrix((1,), (0,), (2,))),
        ("attn/kv/kernel", (8, 2, 2, 4), Matrix((1,), (0,), (2, 3))),
        ("blocks/0/mha/query/kernel", (8, 2, 4), QKV),
        ("blocks/0/mhsa/out/kernel", (2, 4, 8), OUT),
        ("blocks/0/sa_heads/heads/0/key/kernel", (8, 2), DENSE),
        ("blocks/0/sa_heads/proj/kernel", (8, 8), DENSE),
        ("ResNetBlock_0/conv_proj/kernel", (1, 1, 8, 16), Matrix((), (0, 1, 2), (3,))),
        ("post_w", (4, 8), DENSE),
        ("moe/expert_3/kernel", (4, 8), DENSE),
        ("Block_0/Conv_1/kernel", (3, 3, 16, 32), Matrix((), (0, 1, 2), (3,))),
        ("block1/0/conv1/weight", (32, 16, 3, 3), Matrix((), (1, 2, 3), (0,))),
        ("layers/0/attention/query/kernel", (8, 2, 4), QKV),
        ("layers/0/attention/out/kernel", (2, 4, 8), OUT),
        ("layers/0/attention/out/kernel", (1, 8, 8), OUT),
    ],
)
def test_is_a_matrix_along_these_axes(path, shape, wanted):
    assert one(path, shape) == wanted


@pytest.mark.parametrize(
    ("path", "shape"),
    [
        ("attention/query/bias", (2, 4)),
        ("attention/qkv/bias", (3, 8)),
        ("embed/embedding", (50, 8)),
        ("pos_embed", (1, 9, 8)),
        ("position", (9, 8)),
        ("cls_token", (1, 8)),
        ("head/kernel", (8, 50)),
        ("lm_head/kernel", (8, 50)),
        ("layers_0/shared_head/kernel", (8, 50)),
        ("moe/router/kernel", (8, 6)),
        ("layers_0/block_sparse_moe/gate/kernel", (8, 6)),
        ("conv1/kernel", (7, 7, 3, 64)),
        ("stem/conv/kernel", (7, 7, 8, 64)),
        ("patch/kernel", (49, 8)),
        ("conv_proj/kernel", (4, 4, 8, 16)),
        ("Block_0/depthwise_conv/kernel", (3, 3, 1, 32)),
        ("gain", (8,)),
        ("gate", (1, 8)),
        ("scalar", ()),
        ("nothing", (0, 4)),
        ("mystery", (4, 4, 4)),
    ],
)
def test_is_left_to_adamw(path, shape):
    assert one(path, shape) is None


def test_a_side_as_long_as_the_vocabulary_outside_of_the_layers_is_a_head_by_any_name():
    tree = shapes(tok_embed__embedding=(50, 8), decode__kernel=(8, 50), layers__0__up__kernel=(8, 50))
    assert found(tree) == {"layers/0/up/kernel": DENSE}
    positions = shapes(pos_embed__embedding=(50, 8), Dense_0__kernel=(8, 50))
    assert found(positions) == {"Dense_0/kernel": DENSE}


def test_with_as_many_tokens_as_features_the_layers_are_no_heads():
    up, down = shapes(Dense_0__kernel=(8, 32), Dense_1__kernel=(32, 8)).items()
    tree = {"Embed_0/embedding": jnp.ones((8, 8)), "Dense_0/kernel": jnp.ones((8, 8))}
    layers = {f"{layer}/{path}": leaf for layer in ("Encoder_0", "stages/1") for path, leaf in (up, down)}
    assert found(tree | layers) == dict.fromkeys(layers, DENSE)
    numbered = {f"Model_0/{path}": leaf for path, leaf in (tree | layers).items()}  # with its table
    assert found(numbered) == {f"Model_0/{path}": DENSE for path in layers}


def test_attention_is_known_by_its_projections_and_a_router_by_its_experts():
    tree = shapes(**{f"trunk__mix__{name}__kernel": (8, 2, 4) for name in ("query", "key", "value")})
    tree |= shapes(trunk__mix__out__kernel=(2, 4, 8), mlp__gate__kernel=(8, 6), mlp__experts__w1=(6, 8, 16))
    answers = groups.matrices()(tree)
    assert [answers[f"trunk/mix/{name}/kernel"] for name in ("query", "key", "value", "out")] == [QKV] * 3 + [
        OUT
    ]
    assert answers["mlp/gate/kernel"] is None and answers["mlp/experts/w1"] == Matrix((0,), (1,), (2,))


def test_what_may_be_a_head_is_refused_where_the_embedding_is_masked():
    tree = {
        "embed": {"embedding": jnp.ones((5, 4))},
        "layers_0": {"mlp": {"kernel": jnp.ones((4, 4))}},
        "Dense_0": {"kernel": jnp.ones((4, 5))},
    }
    tx = groups.freeze(muon(0.02, scale=matrix_scales.match_adam()), groups.path("embed"))
    with pytest.raises(ValueError, match=r"^Dense_0/kernel may be a head, which embed/embedding .* name it"):
        tx.init(tree)
    assert list(found(tree)) == ["layers_0/mlp/kernel"]
    masked = {**tree, "embed": {"embedding": optax.MaskedNode()}}
    assert list(found(masked, {"Dense_0": None})) == ["layers_0/mlp/kernel"]
    assert list(found(masked, {"Dense_0": Matrix()})) == ["Dense_0/kernel", "layers_0/mlp/kernel"]
    del masked["Dense_0"]
    assert list(found(masked)) == ["layers_0/mlp/kernel"]


def test_tied_embeddings_are_an_embedding():
    tree = shapes(shared__embedding=(50, 8), layers__0__mlp__up__kernel=(8, 16))
    assert list(found(tree)) == ["layers/0/mlp/up/kernel"]


def test_factors_of_lora_have_to_be_named():
    tree = {"layers": {"q_proj": {"kernel": jnp.ones((4, 4)), "lora_A": jnp.ones((4, 2))}}}
    with pytest.raises(ValueError, match=r'layers/q_proj/lora_A is a factor of LoRA.*matrices={"lora": None}'):
        groups.matrices()(tree)
    assert list(found(tree, {"lora": None})) == ["layers/q_proj/kernel"]
    assert found(tree, {"lora": Matrix()}) == {"layers/q_proj/kernel": DENSE, "layers/q_proj/lora_A": DENSE}


def test_as_a_whole_embeddings_heads_and_what_is_fused_are_matrices():
    tree = shapes(
        tok_embed__embedding=(50, 8),
        decode__kernel=(8, 50),
        head__kernel=(8, 5),
        attn__c_attn__kernel=(8, 12),
        attn__query_key_value__kernel=(8, 24),
        attn__query__bias=(2, 4),
        patch_embed__kernel=(4, 4, 3, 8),
        moe__router__kernel=(8, 6),
        norm__scale=(8,),
    )
    answers = groups.matrices(whole=True)(tree)
    fused = ("attn/c_attn/kernel", "attn/query_key_value/kernel")
    wanted = ("tok_embed/embedding", "decode/kernel", "head/kernel", *fused)
    assert {path: axes for path, axes in answers.items() if axes} == dict.fromkeys(wanted, DENSE)
    of_rank_4 = shapes(attn__qkv__kernel=(8, 3, 2, 4))
    assert groups.matrices(whole=True)(of_rank_4) == {"attn/qkv/kernel": Matrix((), (0,), (1, 2, 3))}
    with pytest.raises(TypeError, match="whole must be a boolean, got 1"):
        groups.matrices(whole=1)


# Overrides


def test_an_override_names_axes_or_none():
    each_head = Matrix(batch=(1,), reduction=(0,), output=(2,))
    tree = shapes(attn__query__kernel=(8, 2, 4), up__kernel=(8, 16), head__kernel=(8, 5))
    assert found(tree, {"query": each_head, "^up": None, "head": Matrix()}) == {
        "attn/query/kernel": each_head,
        "head/kernel": DENSE,
    }


def test_the_blocks_of_fused_queries_keys_and_values():
    assert one("attn/qkv/kernel", (8, 12), overrides={"qkv": Matrix(sizes=(8, 2, 2))}).sizes == (8, 2, 2)
    assert one("layers/attn/qkv/kernel", (5, 8, 24), scanned={"layers": 0}) == Matrix(
        (0,), (1,), (2,), (8, 8, 8)
    )
    with pytest.raises(ValueError, match=r"attn/qkv/kernel of shape \(8, 12\) fuses .* unknown lengths"):
        one("attn/qkv/kernel", (8, 12))
    with pytest.raises(ValueError, match=r'qkv/kernel of shape \(3, 8, 8\) is named as "qkv", but has axes'):
        one("attn/qkv/kernel", (3, 8, 8))
    with pytest.raises(ValueError, match=r"query_key_value/kernel fuses .* in an unknown order: name it"):
        one("attn/query_key_value/kernel", (8, 24))
    assert one("attn/query_key_value/kernel", (8, 24), overrides={"query_key_value": Matrix()}) == DENSE
    with pytest.raises(ValueError, match=r"sizes must add up to 12, .*, got \(8, 2\)"):
        one("attn/qkv/kernel", (8, 12), overrides={"qkv": Matrix(sizes=(8, 2))})


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"quary": None}, "'quary' matches no parameter; there are attn/query/kernel"),
        ({"query": Matrix(), "attn": None}, "attn/query/kernel more than one answer"),
        ({"query": Matrix((), (0,), (3,))}, r"cannot make a matrix of attn/query/kernel: axes .* \(8, 2, 4\)"),
        ({"query": Matrix((), (-1,), (2,))}, "axes must be different ones"),
        ({"query": Matrix((), (0, 1, 2), ())}, "must have a reduction and an output"),
        ({"bias": Matrix()}, r"cannot make a matrix of bias: axes .* \(4,\)"),
    ],
)
def test_refuses_an_override_that_does_not_fit(overrides, message):
    tree = shapes(attn__query__kernel=(8, 2, 4), bias=(4,))
    with pytest.raises(ValueError, match=message):
        groups.matrices(overrides)(tree)


@pytest.mark.parametrize("overrides", [{"a": True}, [Matrix()], {"a": (0, 1)}])
def test_refuses_what_is_no_matrix(overrides):
    with pytest.raises(TypeError, match="overrides must be a Matrix or None by pattern"):
        groups.matrices(overrides)


def test_a_tree_without_a_hidden_matrix_is_refused_with_its_leaves():
    tree = shapes(embed=(5, 8), bias=(8,))
    with pytest.raises(
        ValueError, match=r"no hidden matrix among .* bias \(8,\), embed \(5, 8\): name some in"
    ):
        groups.matrices()(tree)
    many = {f"b{i}": jnp.ones(2) for i in range(20)}
    with pytest.raises(ValueError, match="and 12 more: name some"):
        groups.matrices()(many)


def test_a_partial_tree_may_have_none():
    hole = optax.MaskedNode()
    assert groups.matrices({"absent": None})({"bias": jnp.ones(2), "kernel": hole}) == {
        "bias": None,
        "kernel": hole,
    }
    assert groups.matrices()({}) == {}


def test_a_step_count_is_refused():
    with pytest.raises(TypeError, match="static_args"):
        groups.matrices()(jnp.int32(0))


def test_describe_shows_who_gets_what():
    table = groups.describe(linen_params(), groups.matrices())
    rows = [line.split() for line in table.splitlines()]
    assert [
        "layers_{0..2}/attention/query/kernel",
        "(8,",
        "2,",
        "4)",
        "192",
        "in",
        "0,",
        "out",
        "1",
        "2",
    ] in rows
    assert ["layers_{0..2}/attention/query/bias", "(2,", "4)", "24", "None"] in rows
    assert ["embed/embedding", "(5,", "8)", "40", "None"] in rows
    assert WIDTH // HEADS == 4
    assert str(Matrix((0,), (1,), (2,), (8, 2))) == "in 1, out 2, each of 0, blocks 8 2"


def test_convolutional_models():
    params = nn.Conv(8, (3, 3)).init(jax.random.key(0), jnp.ones((1, 6, 6, 16)))["params"]
    assert found({"Conv_0": params}) == {"Conv_0/kernel": Matrix((), (0, 1, 2), (3,))}


# The documentation


def _gpt2():
    config = gpt2.GPT2Config(vocab_size=50, hidden_size=8, layers=2, heads=2)
    return nnx.state(nnx.eval_shape(lambda: gpt2.GPT2(config, rngs=nnx.Rngs(0))), nnx.Param)


DOCUMENTED = {
    "a Linen model": lambda: (linen_params(), None),
    "an NNX model": lambda: (nnx_state(), None),
    "a Linen model with scanned layers": lambda: (linen_params(scan=True), SCANNED),
    "a GPT-2 with a tied head": lambda: (_gpt2(), None),
}


@pytest.mark.parametrize("model", DOCUMENTED)
def test_the_documentation_says_who_gets_what(model):
    params, scanned = DOCUMENTED[model]()
    rows = groups.describe(params, groups.matrices(scanned=scanned)).partition("\n\n")[0].splitlines()
    table = "\n".join(row for row in rows if not re.search("/(bias|scale) ", row))
    assert all(row.endswith("  None") for row in rows if row not in table)
    page = (ROOT / "docs/muon.md").read_text(encoding="utf-8")
    assert f"{model[0].upper()}{model[1:]}:\n\n```\n{table}\n```\n" in page, table
