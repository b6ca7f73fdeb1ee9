"""GPT-2 keeps its promises; `test_model_parity` compares it with PyTorch."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from examples.models import families
from examples.models.adapters import from_nnx
from examples.models.gpt2 import GPT2, GPT2Config
from tests.examples import golden

TINY = GPT2Config(vocab_size=50, hidden_size=16, layers=2, heads=4, max_positions=12)


@pytest.fixture(scope="module")
def tiny():
    return golden.loaded("gpt2_tiny", families.GPT2)


@pytest.mark.parametrize("name", ["gpt2_tiny", "gpt2_tiny_untied"])
def test_what_is_written_is_what_was_read(name, tmp_path):
    golden.check_round_trip(name, families.GPT2, tmp_path)


def test_paths_of_the_parameters(tiny):
    leaves = jax.tree_util.tree_leaves_with_path(tiny[0])
    paths = {jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves}
    linears = [f"attention/{name}" for name in ("query", "key", "value", "output")] + ["mlp/up", "mlp/down"]
    expected = {"embeddings/word/embedding", "embeddings/position/embedding", "norm/scale", "norm/bias"}
    for layer in range(2):
        expected |= {f"layers/{layer}/{name}/{leaf}" for name in linears for leaf in ("kernel", "bias")}
        norms = ("attention_norm", "mlp_norm")
        expected |= {f"layers/{layer}/{name}/{leaf}" for name in norms for leaf in ("scale", "bias")}
    assert paths == expected


def test_no_token_sees_those_after_it(tiny):
    params, apply, arrays = tiny
    ids_BT = arrays["input_ids"][1:2]
    before = apply(params, ids_BT)
    after = apply(params, np.where(np.arange(12) < 7, ids_BT, 3))
    np.testing.assert_array_equal(after[:, :7], before[:, :7])
    assert not np.allclose(after[:, 7:], before[:, 7:])


def test_what_stands_at_the_padding_changes_nothing(tiny):
    params, apply, arrays = tiny
    ids_BT, mask_BT = arrays["input_ids"], arrays["attention_mask"]
    other = apply(params, np.where(mask_BT, ids_BT, 7), mask_BT)
    tokens = mask_BT != 0
    np.testing.assert_array_equal(other[tokens], apply(params, ids_BT, mask_BT)[tokens])


@pytest.mark.long
def test_the_first_loss_is_that_of_a_guess():
    params, apply = from_nnx(GPT2(TINY, rngs=nnx.Rngs(0)))
    logits_BTV = apply(params, jnp.arange(24).reshape(2, 12))
    loss = -jax.nn.log_softmax(logits_BTV).mean()
    assert float(loss) == pytest.approx(math.log(50), abs=0.05)
    deviation = float(params["layers"][1]["mlp"]["down"]["kernel"].std())
    assert deviation == pytest.approx(0.02 / math.sqrt(2 * 2), rel=0.1)


NO_DROPOUT = dataclasses.replace(TINY, embedding_dropout=0.0, attention_dropout=0.0, hidden_dropout=0.0)


@pytest.mark.quick(1)
@pytest.mark.parametrize("field", [None, "embedding_dropout", "attention_dropout", "hidden_dropout"])
def test_each_rate_drops(tiny, field):
    params, evaluate, arrays = tiny
    ids_BT, key = arrays["input_ids"][:1, :5], jax.random.key(0)
    config = dataclasses.replace(NO_DROPOUT, **({} if field is None else {field: 0.5}))
    logits_BTV = golden.apply_of(families.GPT2, config)(params, ids_BT, None, key)
    assert np.allclose(logits_BTV, evaluate(params, ids_BT), atol=1e-6) == (field is None)


def test_dtype_follows_the_parameters(tiny):
    params, apply, arrays = tiny
    half = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params)
    assert apply(half, arrays["input_ids"]).dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("vocab_size", 0),
        ("layers", 0),
        ("heads", 3),
        ("norm_eps", 0.0),
        ("activation", "swish"),
        ("hidden_dropout", 1.0),
    ],
)
def test_config_refuses(field, value):
    with pytest.raises(ValueError, match=f"^{field} must be .*, got {value!r}$"):
        dataclasses.replace(TINY, **{field: value})


def test_too_many_tokens_are_refused(tiny):
    params, apply, _ = tiny
    with pytest.raises(ValueError, match="ids_BT must have at most 12 tokens per row, got 13"):
        apply(params, jnp.zeros((1, 13), jnp.int32))
