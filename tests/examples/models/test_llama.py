"""The decoder of the Llama kind keeps its promises; `test_model_parity` compares it with PyTorch."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from examples.models import decoders, llama_files, weights
from examples.models.adapters import Keys
from examples.models.llama import LlamaConfig
from examples.models.rotary import Linear, Rotary
from tests.examples import golden

TINY = LlamaConfig(
    vocab_size=50,
    hidden_size=16,
    layers=2,
    heads=4,
    key_heads=2,
    head_size=6,
    intermediate_size=24,
    max_positions=32,
)
NAMES = ["gemma3", "qwen3", "llama2", "llama3", "llama_dynamic", "mistral", "qwen2", "gemma", "gemma2"]


@pytest.fixture(scope="module")
def tiny():
    return golden.loaded("gemma3_tiny", llama_files.GEMMA3)


@pytest.mark.quick(2)
@pytest.mark.parametrize("name", NAMES)
def test_what_is_written_is_what_was_read(name, tmp_path):
    golden.check_round_trip(f"{name}_tiny", decoders.family(golden.GOLDEN / f"{name}_tiny"), tmp_path)


def test_the_switches_of_gemma_3():
    family = llama_files.GEMMA3
    config, _ = weights.load(golden.GOLDEN / "gemma3_tiny", family)
    assert config == dataclasses.replace(
        TINY,
        head_size=8,
        activation="gelu_pytorch_tanh",
        norm_eps=1e-6,
        rotary=Rotary(1e6, Linear(8.0)),
        local_rotary=Rotary(1e4),
        windows=(4, None),
        tied=True,
        query_key_norm=True,
        post_norms=True,
        centered=True,
        scaled_embeddings=True,
        query_size=6,
    )


def test_no_token_sees_those_after_it_or_the_padding(tiny):
    params, apply, arrays = tiny
    ids_BT, mask_BT = arrays["input_ids"], arrays["attention_mask"]
    before = apply(params, ids_BT, mask_BT)
    tokens = mask_BT != 0
    other = apply(params, np.where(mask_BT, ids_BT, 7), mask_BT)
    np.testing.assert_array_equal(other[tokens], before[tokens])
    after = apply(params, np.where(np.arange(14) < 7, ids_BT, 3), mask_BT)
    np.testing.assert_array_equal(after[1, :7], before[1, :7])  # row 1 has no padding
    assert not np.allclose(after[1, 7:], before[1, 7:])


def test_a_window_ends_what_is_seen():
    config = dataclasses.replace(TINY, layers=1, windows=(3,))
    params, apply = golden.drawn(lambda: llama_files.LLAMA.model(config, rngs=Keys(0)))
    ids = np.arange(1, 9)[None]
    before = apply(params, ids)
    after = apply(params, np.where(np.arange(8) == 2, 40, ids))
    changed = np.any(before != after, axis=-1)[0]
    assert changed.tolist() == [False, False, True, True, True, False, False, False]


def test_norms_softmax_and_logits_are_float32_whatever_the_parameters(tiny):
    params, apply, arrays = tiny
    half = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params)
    rounded = jax.tree.map(lambda p: p.astype(jnp.float32), half)
    ids, mask = arrays["input_ids"], arrays["attention_mask"]
    logits, expected = apply(half, ids, mask), apply(rounded, ids, mask)
    assert logits.dtype == jnp.float32
    # What stays are the activations, of 8 bits.
    assert np.abs(logits - expected)[mask != 0].max() < 0.05 * np.abs(expected).max()
    traced = str(jax.make_jaxpr(apply)(half, ids, mask))
    for operation in ("rsqrt", "exp", "cos", "sin"):
        assert _results(traced, operation) == {"f32"}, operation


def _results(traced, operation):
    """The dtypes of the results of an operation in a jaxpr."""
    return {
        line.split("=")[0].split(":")[1].split("[")[0]
        for line in traced.splitlines()
        if f"= {operation} " in line or f"= {operation}[" in line
    }


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("vocab_size", 0),
        ("layers", 0),
        ("key_heads", 3),
        ("head_size", 5),
        ("norm_eps", 0.0),
        ("activation", "swish"),
        ("windows", ()),
        ("windows", (0, None)),
        ("query_size", 0.0),
        ("attention_cap", -1.0),
        ("logit_cap", 0.0),
        ("attention_dropout", 1.0),
    ],
)
def test_config_refuses(field, value):
    with pytest.raises(ValueError) as error:
        dataclasses.replace(TINY, **{field: value})
    assert str(error.value).startswith(f"{field} must be ") and str(error.value).endswith(f", got {value!r}")


@pytest.mark.long
def test_attention_dropout_drops():
    config = dataclasses.replace(TINY, attention_dropout=0.5)
    params, apply = golden.drawn(lambda: llama_files.LLAMA.model(config, rngs=Keys(0)))
    ids = np.arange(1, 9)[None]
    first, again, none = (apply(params, ids, None, key) for key in (jax.random.key(0), jax.random.key(0), None))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, none)
