"""Every model keeps its layers, embeddings and head where the rules of `groups` look for them."""

import dataclasses
import re
from typing import Any

import jax
import pytest
from flax import nnx

from examples.models import bert, gpt2, llama, resnet, t5, vit
from examples.models.adapters import from_nnx
from optimiz import groups
from optimiz.groups import layers as layers_module
from optimiz.groups.rules import read

ENCODER = bert.EncoderConfig(vocab_size=9, hidden_size=4, layers=3, heads=2, intermediate_size=8)
GPT2 = gpt2.GPT2Config(vocab_size=9, hidden_size=4, layers=3, heads=2)

VIT = vit.ViTConfig(
    image_size=4, patch_size=2, hidden_size=4, layers=3, heads=2, intermediate_size=8, classes=2
)
T5 = t5.T5Config(
    vocab_size=9, hidden_size=4, layers=2, decoder_layers=3, heads=2, head_size=3, intermediate_size=8
)
LLAMA = llama.LlamaConfig(
    vocab_size=9,
    hidden_size=4,
    layers=3,
    heads=2,
    key_heads=1,
    head_size=6,
    intermediate_size=8,
    max_positions=8,
    qkv_bias=True,
    query_key_norm=True,
    post_norms=True,
)


@dataclasses.dataclass(frozen=True)
class Case:
    make: Any
    layers: int = 3
    is_transformer: bool = True


CASES = {
    "bert": Case(lambda rngs: bert.Classifier(ENCODER, classes=2, rngs=rngs)),
    "bert, pre-LN": Case(
        lambda rngs: bert.Classifier(dataclasses.replace(ENCODER, norm_first=True), classes=2, rngs=rngs)
    ),
    "gpt2": Case(lambda rngs: gpt2.GPT2(GPT2, rngs=rngs)),
    "gpt2, untied": Case(lambda rngs: gpt2.GPT2(dataclasses.replace(GPT2, tied=False), rngs=rngs)),
    "llama": Case(lambda rngs: llama.Llama(LLAMA, rngs=rngs)),
    "vit": Case(lambda rngs: vit.ViT(VIT, rngs=rngs)),
    # Layer i of the encoder and layer i of the decoder share an index.
    "t5": Case(lambda rngs: t5.T5(T5, rngs=rngs)),
    "resnet": Case(lambda rngs: resnet.ResNet(resnet.cifar(8, classes=2), rngs=rngs), is_transformer=False),
}


@pytest.fixture(scope="module", params=CASES)
def case(request):
    """A model as the shapes of its parameters."""
    described = CASES[request.param]
    params, _ = from_nnx(nnx.eval_shape(lambda: described.make(nnx.Rngs(0))))
    return described, params


def by_path(params, answers):
    leaves = jax.tree_util.tree_leaves_with_path(params)
    paths = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]
    return dict(zip(paths, jax.tree.leaves(answers), strict=True))


@pytest.mark.quick(4)
def test_all_layers_are_found(case):
    described, params = case
    assert layers_module.depth(read(params), groups.LAYER_INDEX) == described.layers


def test_layerwise_decay_covers_layers_embeddings_and_head(case):
    described, params = case
    for path, rate in by_path(params, groups.layerwise_decay(0.5)(params)).items():
        if "layers" in path:
            index = int(path.split("layers/")[1].split("/")[0])
            assert rate == 0.5 ** (described.layers - index), path
        elif re.match("embeddings/|(en|de)coder/distance/", path):
            assert rate == 0.5 ** (described.layers + 1), path
        else:
            assert rate == 1 and re.match("((en|de)coder/)?norm/|head/", path), path


def test_search_units_are_embeddings_layers_and_head(case):
    described, params = case
    units = by_path(params, groups.search_units()(params))
    assert set(units.values()) == set(range(described.layers + 2))
    assert {unit for path, unit in units.items() if path.startswith("embeddings/")} == {0}


def test_only_matrices_decay(case):
    _, params = case
    decays = by_path(params, groups.no_decay()(params))
    for path, decayed in decays.items():
        tensors = ("/kernel", "/embedding", "embeddings/cls_token", "embeddings/position")
        assert decayed == path.endswith(tensors), path


def test_the_hidden_matrices_of_a_llama_are_those_of_attention_and_the_mlp():
    params, _ = from_nnx(nnx.eval_shape(lambda: llama.Llama(LLAMA, rngs=nnx.Rngs(0))))
    found = groups.matrices()(params)
    for layer in range(3):
        linears, axes = found["layers"][layer], "in 0, out 1"
        for module, names in (
            ("attention", ("query", "key", "value", "output")),
            ("mlp", ("gate", "up", "down")),
        ):
            assert {name: str(linears[module][name]["kernel"]) for name in names} == dict.fromkeys(names, axes)
    answers = by_path(params, jax.tree.map(bool, found, is_leaf=lambda node: node is None))
    assert sum(answers.values()) == 3 * 7
    table = groups.describe(params, groups.matrices())
    assert re.search(r"layers/\{0\.\.2\}/attention/key/kernel +\(4, 6\) +72 +in 0, out 1", table)
    blocks = groups.adam_mini_blocks(heads=2, kv_heads=1)(params)["layers"][0]["attention"]
    assert [blocks[name]["kernel"].runs for name in ("query", "key")] == [((12, 6),), ((6, 6),)]


def test_every_parameter_has_a_kind(case):
    described, params = case
    kinds = by_path(params, groups.kinds(params))
    if described.is_transformer:
        assert "other" not in kinds.values()
        assert {"q", "k", "v", "o", "mlp", "norm", "embedding"} <= set(kinds.values())
    assert {kind for path, kind in kinds.items() if path.startswith("head/")} <= {"head"}
