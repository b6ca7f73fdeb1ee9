"""Layers that are off are the identity in every model, and are not computed."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

from examples.models import bert, gpt2, llama, t5, vit
from tests.examples import golden

IDS = np.array([[3, 1, 4, 1], [5, 2, 6, 5]])
SIZES = {"hidden_size": 4, "layers": 2, "heads": 2}
BERT = bert.EncoderConfig(vocab_size=9, intermediate_size=8, hidden_dropout=0.5, **SIZES)
GPT2 = gpt2.GPT2Config(vocab_size=9, **SIZES)
LLAMA = llama.LlamaConfig(
    vocab_size=9, key_heads=1, head_size=2, intermediate_size=8, max_positions=8, windows=(2,), **SIZES
)
T5 = t5.T5Config(vocab_size=9, decoder_layers=2, head_size=2, intermediate_size=8, **SIZES)
VIT = vit.ViTConfig(image_size=4, patch_size=2, intermediate_size=8, classes=2, **SIZES)

# Name → model, configuration, arguments.
CASES = {
    "bert": (bert.MaskedLanguageModel, BERT, (IDS, np.ones_like(IDS), np.zeros_like(IDS), IDS[:, :2] % 4)),
    "gpt2": (gpt2.GPT2, GPT2, (IDS,)),
    "llama": (llama.Llama, LLAMA, (IDS,)),
    "t5": (t5.T5, T5, (IDS, IDS[:, :3])),
    "vit": (vit.ViT, VIT, (np.random.default_rng(0).normal(size=(2, 4, 4, 3)).astype(np.float32),)),
}


def build(name, layers=2):
    model, config, arguments = CASES[name]
    depths = {"layers", "decoder_layers"} & {field.name for field in dataclasses.fields(config)}
    config = dataclasses.replace(config, **dict.fromkeys(depths, layers))
    return *golden.drawn(lambda: model(config, rngs=nnx.Rngs(0))), arguments


def kept(params, on):
    """The parameters of the layers that are on alone."""
    if "layers" not in params:
        return {
            name: kept(tree, on) if name in ("encoder", "decoder") else tree for name, tree in params.items()
        }
    layers = [params["layers"][i] for i in np.flatnonzero(on)]
    return params | {"layers": dict(enumerate(layers))}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "bert" else pytest.mark.long) for name in CASES]
)
def test_the_model_is_that_of_the_layers_that_are_on(name):
    params, apply, arguments = build(name)
    _, shallow, _ = build(name, layers=1)
    for on in np.eye(2, dtype=bool):
        expected = shallow(kept(params, on), *arguments)
        np.testing.assert_allclose(apply(params, *arguments, on_N=on), expected, rtol=1e-6, atol=1e-6)
    assert not np.allclose(apply(params, *arguments, on_N=np.ones(2, bool)), expected)


@pytest.mark.long
def test_what_is_off_has_no_gradient():
    params, apply, arguments = build("gpt2")
    on = np.array([False, True])
    grads = jax.jit(jax.grad(lambda params: apply(params, *arguments, on_N=on).sum()))(params)
    off, other = (jax.tree.leaves(grads["layers"][layer]) for layer in range(2))
    assert not any(np.any(leaf) for leaf in off) and any(np.any(leaf) for leaf in other)


@pytest.mark.quick(4)
@pytest.mark.parametrize("name", CASES)
def test_every_layer_is_a_branch_and_nothing_is_without_a_pattern(name):
    params, apply, arguments = build(name)
    stacks = 2 if name == "t5" else 1
    traced = str(jax.make_jaxpr(lambda on: apply(params, *arguments, on_N=on))(np.ones(2, bool)))
    assert traced.count(" cond[") == 2 * stacks
    assert " cond[" not in str(jax.make_jaxpr(lambda: apply(params, *arguments))())


@pytest.mark.long
def test_dropout_is_the_same_with_a_pattern():
    params, apply, arguments = build("bert")
    key = jax.random.key(0)
    with_pattern = apply(params, *arguments, key=key, on_N=np.ones(2, bool))
    np.testing.assert_allclose(with_pattern, apply(params, *arguments, key=key), rtol=1e-6, atol=1e-6)


def test_a_pattern_of_another_depth_is_refused():
    params, apply, arguments = build("gpt2")
    with pytest.raises(ValueError, match=r"on_N must have shape \[2\], one entry per layer, got \[3\]"):
        apply(params, *arguments, on_N=np.ones(3, bool))
