"""T5 keeps its promises, and its buckets are right; `test_model_parity` compares it with PyTorch."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from examples.models import families
from examples.models.adapters import from_nnx
from examples.models.t5 import T5, T5Config, relative_buckets
from tests.examples import golden

TINY = T5Config(
    vocab_size=50,
    hidden_size=16,
    layers=2,
    decoder_layers=3,
    heads=4,
    head_size=6,
    intermediate_size=24,
    buckets=8,
    max_distance=20,
    dropout=0.1,
)


@pytest.mark.parametrize("name", ["t5_tiny", "t5_tiny_untied"])
def test_what_is_written_is_what_was_read(name, tmp_path):
    golden.check_round_trip(name, families.T5, tmp_path)


@pytest.mark.parametrize("sizes", [(32, 128), (8, 20)])
@pytest.mark.parametrize("causal", [False, True])
def test_buckets_equal_pytorch(sizes, causal):
    stored = np.load(golden.GOLDEN / "t5_tiny/buckets.npz")
    expected = stored[f"{'causal' if causal else 'both'}_{sizes[0]}_{sizes[1]}"]  # of distances -300 to 300
    found = relative_buckets(301, 301, *sizes, causal=causal)
    distance = np.arange(301)[None, :] - np.arange(301)[:, None]
    np.testing.assert_array_equal(found, expected[distance + 300])


def test_no_token_of_the_answer_sees_those_after_it():
    params, apply, arrays = golden.loaded("t5_tiny", families.T5)
    ids, answer = arrays["input_ids"][1:2], arrays["decoder_input_ids"][1:2]
    before = apply(params, ids, answer)
    after = apply(params, ids, np.where(np.arange(11) < 7, answer, 3))
    np.testing.assert_array_equal(after[:, :7], before[:, :7])
    assert not np.allclose(after[:, 7:], before[:, 7:])


def test_what_stands_at_the_padding_changes_nothing():
    params, apply, arrays = golden.loaded("t5_tiny", families.T5)
    ids, mask, answer = (arrays[name] for name in ("input_ids", "attention_mask", "decoder_input_ids"))
    expected = apply(params, ids, answer, mask)
    np.testing.assert_array_equal(apply(params, np.where(mask, ids, 7), answer, mask), expected)


@pytest.mark.long
def test_the_first_logits_are_of_order_one():
    config = dataclasses.replace(TINY, hidden_size=64, head_size=16, layers=1, decoder_layers=1)
    params, apply = from_nnx(T5(config, rngs=nnx.Rngs(0)))
    logits = jax.jit(apply)(params, jnp.arange(20)[None], jnp.arange(8)[None])
    assert 0.3 < float(logits.std()) < 2


@pytest.mark.long
def test_dropout_drops_and_its_key_decides():
    params, apply = golden.drawn(
        lambda: T5(dataclasses.replace(TINY, layers=1, decoder_layers=1), rngs=nnx.Rngs(0))
    )
    ids, answer = np.arange(6)[None], np.arange(4)[None]
    first, again, other = (apply(params, ids, answer, None, jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)
    assert not np.allclose(first, apply(params, ids, answer))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("vocab_size", 0),
        ("decoder_layers", 0),
        ("buckets", 6),
        ("max_distance", 4),
        ("norm_eps", 0.0),
        ("dropout", 1.0),
    ],
)
def test_config_refuses(field, value):
    with pytest.raises(ValueError, match=f"^{field} must be .*, got {value!r}$"):
        dataclasses.replace(TINY, **{field: value})
