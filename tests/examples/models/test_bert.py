"""MiniLM agrees with PyTorch, the encoder agrees with its equations in float64, and it keeps its promises.

`test_model_parity` compares small encoders with PyTorch.
"""

import dataclasses
import importlib.util
import itertools
import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from examples.models import families, pretrained, weights
from examples.models.adapters import from_nnx
from examples.models.bert import POOLINGS, Classifier, Encoder, EncoderConfig
from examples.models.blocks import Mlp
from examples.models.dropout import dropout, random_bits
from tests.examples import golden

GOLDEN = Path(__file__).parents[2] / "golden"
TINY = EncoderConfig(
    vocab_size=50,
    hidden_size=16,
    layers=1,
    heads=4,
    intermediate_size=32,
    max_positions=12,
)


def build(model, *args, **kwargs):
    """Return wide random parameters (fresh ones barely bend anything) and the jitted apply."""
    shapes, apply = from_nnx(nnx.eval_shape(lambda: model(*args, **kwargs, rngs=nnx.Rngs(0))))
    random = np.random.default_rng(0)
    return jax.tree.map(lambda p: jnp.float32(random.normal(0, 0.5, p.shape)), shapes), jax.jit(apply)


def hidden_states(config, params, *batch):
    graph, _ = nnx.split(nnx.eval_shape(lambda: Encoder(config, rngs=nnx.Rngs(0))))
    return np.stack(jax.jit(lambda p: nnx.merge(graph, p).hidden_states(*batch))(params))


def batch(lengths, tokens, seed=0):
    random = np.random.default_rng(seed)
    mask_BT = (np.arange(tokens) < np.array(lengths)[:, None]).astype(np.int32)
    ids_BT = np.where(mask_BT, random.integers(1, 50, mask_BT.shape), 0)
    return jnp.array(ids_BT), jnp.array(mask_BT), jnp.array(mask_BT * (np.arange(tokens) % 2))


@pytest.fixture(scope="module")
def classifier():
    return build(Classifier, TINY, classes=3)


# --- against the authors' implementation --------------------------------------------------------


def test_a_masked_language_model_is_written_and_is_read_as_an_encoder(tmp_path):
    golden.check_round_trip("bert_tiny_masked", families.MASKED_BERT, tmp_path)
    _, params = pretrained.load_encoder(tmp_path / "saved")
    _, whole = weights.load(tmp_path / "saved", families.MASKED_BERT)
    jax.tree.map(np.testing.assert_array_equal, params, {name: whole[name] for name in params})


def test_minilm_equals_pytorch():
    if importlib.util.find_spec(pretrained.PACKAGE) is None:
        pytest.skip(f"needs the default model: {pretrained.INSTALL}")
    golden = np.load(GOLDEN / "bert_minilm.npz")
    record = json.loads((GOLDEN / "bert.json").read_text(encoding="utf-8"))
    directory = pretrained.find()
    config, params = pretrained.load_encoder(directory)
    tokenizer = pretrained.load_tokenizer(directory, config)
    arrays, cut = pretrained.encode(tokenizer, record["sentences"], None, record["length"])
    assert cut == 0
    np.testing.assert_array_equal(arrays["ids_BT"], golden["ids"])
    np.testing.assert_array_equal(arrays["mask_BT"], golden["mask"])
    states = hidden_states(config, params, *arrays.values())
    states = np.take_along_axis(states, golden["positions"][None, :, :, None], axis=2)
    np.testing.assert_allclose(states, golden["states"], rtol=0, atol=1e-5)


# --- against the equations ----------------------------------------------------------------------


def reference_states(config, params, ids_BT, mask_BT, types_BT):
    """Both orders of the norms in NumPy, one text and one head at a time."""
    params = jax.tree.map(lambda p: np.asarray(p, np.float64), params)

    def linear(p, x):
        return x @ p["kernel"] + p["bias"]

    def norm(p, x):
        centred = x - x.mean(-1, keepdims=True)
        scale = p["scale"] / np.sqrt((centred**2).mean(-1, keepdims=True) + config.norm_eps)
        return centred * scale + p["bias"]

    def gelu(x):
        return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))

    def attention(p, x, mask):
        size = config.hidden_size // config.heads
        q, k, v = (linear(p[name], x) for name in ("query", "key", "value"))
        mixed = []
        for head in range(config.heads):
            part = slice(head * size, (head + 1) * size)
            weights = np.exp(q[:, part] @ k[:, part].T / math.sqrt(size)) * (mask != 0)
            mixed.append(weights / weights.sum(-1, keepdims=True) @ v[:, part])
        return linear(p["output"], np.concatenate(mixed, -1))

    def mlp(p, x):
        return linear(p["down"], gelu(linear(p["up"], x)))

    rows = []
    for ids, mask, types in zip(ids_BT, mask_BT, types_BT, strict=True):
        e = params["embeddings"]
        x = e["word"]["embedding"][ids] + e["token_type"]["embedding"][types]
        x = norm(e["norm"], x + e["position"]["embedding"][config.position_offset :][: len(ids)])
        states = [x]
        for p in params["layers"].values():
            if config.norm_first:
                x = x + attention(p["attention"], norm(p["attention_norm"], x), mask)
                x = x + mlp(p["mlp"], norm(p["mlp_norm"], x))
            else:
                x = norm(p["attention_norm"], x + attention(p["attention"], x, mask))
                x = norm(p["mlp_norm"], x + mlp(p["mlp"], x))
            states.append(x)
        if config.norm_first:
            states[-1] = norm(params["norm"], x)
        rows.append(states)
    return np.stack(rows, axis=1)


@pytest.mark.parametrize("norm_first", [False, True])
def test_both_orders_of_the_norms_equal_their_equations(norm_first):
    config = dataclasses.replace(TINY, layers=2, norm_first=norm_first, position_offset=3, norm_eps=1e-5)
    params, _ = build(Encoder, config)
    arrays = batch([7, 3], tokens=7)
    expected = reference_states(config, params, *map(np.asarray, arrays))
    states = hidden_states(config, params, *arrays)
    np.testing.assert_allclose(states, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("activation", "function"),
    [
        ("gelu_new", lambda x: x / (1 + np.exp(-2 * np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))),
        ("relu", lambda x: np.maximum(x, 0)),
    ],
)
def test_activations(activation, function):
    mlp = Mlp(16, 32, activation, rngs=nnx.Rngs(0))
    x_BTD = jax.random.normal(jax.random.key(0), (1, 3, 16)) * 20
    expected = mlp.down(function(np.asarray(mlp.up(x_BTD))))
    np.testing.assert_allclose(mlp(x_BTD), expected, rtol=1e-4, atol=1e-5)


# --- parameters ---------------------------------------------------------------------------------


def paths(params):
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves}


def test_paths_of_the_parameters():
    config = dataclasses.replace(TINY, layers=1, norm_first=True)
    linears = [f"attention/{name}" for name in ("query", "key", "value", "output")]
    linears = [f"layers/0/{name}" for name in [*linears, "mlp/up", "mlp/down"]] + ["head"]
    norms = ["embeddings/norm", "layers/0/attention_norm", "layers/0/mlp_norm", "norm"]
    expected = {f"embeddings/{name}/embedding" for name in ("word", "position", "token_type")}
    expected |= {f"{name}/{leaf}" for name in linears for leaf in ("kernel", "bias")}
    expected |= {f"{name}/{leaf}" for name in norms for leaf in ("scale", "bias")}
    classifier, _ = build(Classifier, config, classes=2)
    assert paths(classifier) == expected
    encoder, _ = build(Encoder, config)
    assert paths(encoder) == expected - {"head/kernel", "head/bias"}


def test_post_ln_has_no_final_norm():
    params, _ = build(Encoder, TINY)
    assert "norm" not in params


def test_a_fresh_head_is_undecided():
    _, apply = build(Classifier, TINY, classes=3)
    params, _ = from_nnx(Classifier(TINY, classes=3, rngs=nnx.Rngs(0)))
    np.testing.assert_array_equal(apply(params, *batch([5, 2], tokens=6)), np.zeros((2, 3)))


def test_dtype_follows_the_parameters(classifier):
    params, apply = classifier
    arrays = batch([5, 2], tokens=6)
    half = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params)
    logits_BC = apply(half, *arrays)
    assert logits_BC.dtype == jnp.bfloat16
    np.testing.assert_allclose(logits_BC.astype(jnp.float32), apply(params, *arrays), atol=0.3)


# --- padding ------------------------------------------------------------------------------------


def test_longer_padding_changes_nothing(classifier):
    params, apply = classifier
    short, long = (batch([5, 2], tokens) for tokens in (5, 12))
    long = [array.at[:, :5].set(start) for array, start in zip(long, short, strict=True)]
    np.testing.assert_allclose(apply(params, *long), apply(params, *short), rtol=1e-5, atol=1e-5)


def test_what_stands_at_the_padding_changes_nothing(classifier):
    params, apply = classifier
    ids_BT, mask_BT, types_BT = batch([5, 2], tokens=6)
    other_BT = jnp.where(mask_BT, ids_BT, 7)
    expected = apply(params, ids_BT, mask_BT, types_BT)
    np.testing.assert_array_equal(apply(params, other_BT, mask_BT, types_BT), expected)


def test_poolings():
    x_BTD = jnp.array([[[1.0, 2.0], [3.0, 6.0], [100.0, 100.0]], [[7.0, 8.0]] * 3])
    mask_BT = jnp.array([[1, 1, 0], [0, 0, 0]])
    np.testing.assert_array_equal(POOLINGS["mean"](x_BTD, mask_BT), [[2.0, 4.0], [0.0, 0.0]])
    np.testing.assert_array_equal(POOLINGS["first"](x_BTD, mask_BT), [[1.0, 2.0], [7.0, 8.0]])


@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_row_of_padding_has_finite_logits_and_gradients(pooling):
    params, apply = build(Classifier, TINY, classes=3, pooling=pooling)
    arrays = batch([5, 0], tokens=6)

    def loss(params):
        return -jax.nn.log_softmax(apply(params, *arrays))[:, 0].mean()

    value, grads = jax.jit(jax.value_and_grad(loss))(params)
    assert np.isfinite(value)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(grads))


# --- dropout ------------------------------------------------------------------------------------


def test_dropout_keeps_the_mean():
    x = dropout(jnp.ones(100_000), 0.25, jax.random.key(0))
    np.testing.assert_allclose(np.unique(x), [0, 4 / 3], rtol=1e-6)
    assert abs((x == 0).mean() - 0.25) < 0.005


def hashed(words, shape):
    """The bits of dropout, by a loop over the entries."""

    def mixed(x):
        x = ((x ^ (x >> 16)) * 0x7FEB352D) % 2**32
        x = ((x ^ (x >> 15)) * 0x846CA68B) % 2**32
        return x ^ (x >> 16)

    first, second = (int(word) for word in words)
    found = [mixed(mixed(position ^ first) ^ second) for position in range(math.prod(shape))]
    return np.array(found, np.uint32).reshape(shape)


@pytest.mark.parametrize("shape", [(), (7,), (3, 5), (2, 3, 4, 5)])
def test_the_bits_of_dropout_are_a_hash_of_position_and_key(shape):
    key = jax.random.key(3)
    found = jax.jit(random_bits, static_argnums=1)(key, shape)
    np.testing.assert_array_equal(found, hashed(jax.random.key_data(key), shape))


def test_the_bits_of_dropout_are_independent():
    # 64 keys that one key was split into, for 64 × 64 entries each: every deviation of a mean is in deviations
    # of what independent, uniform numbers would have.
    keys = jax.random.split(jax.random.key(0), 64)
    bits = np.asarray(jax.vmap(lambda key: random_bits(key, (64, 64)))(keys))
    centred = (bits / 2**32 - 0.5) * 12**0.5
    one_bits = (bits[..., None] >> np.arange(32)) & 1
    deviations = [(one_bits.mean((0, 1, 2)) - 0.5) * 2 * bits.size**0.5]
    for axes in ((0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)):
        deviations.append(centred.mean(axes) * math.prod(centred.shape[a] for a in axes) ** 0.5)
    for axis, lag in itertools.product(range(3), (1, 2, 3, 4, 8, 16, 32)):  # neighbours, and other keys
        first, second = (np.take(centred, range(*ends), axis) for ends in ((64 - lag,), (lag, 64)))
        deviations.append((first * second).mean() * first.size**0.5)
    flat = centred.reshape(64, -1)
    deviations.append((flat @ flat.T / flat.shape[1] ** 0.5)[~np.eye(64, dtype=bool)])
    assert np.abs(np.concatenate([np.ravel(x) for x in deviations])).max() < 6


def test_the_key_alone_decides_the_masks(classifier):
    params, apply = classifier
    arrays = batch([5, 2], tokens=6)
    first, again, other = (apply(params, *arrays, jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)
    assert not np.allclose(first, apply(params, *arrays))


@pytest.mark.quick(1)
@pytest.mark.parametrize("field", ["hidden_dropout", "attention_dropout"])
def test_each_rate_drops(field):
    none = dataclasses.replace(TINY, hidden_dropout=0.0, attention_dropout=0.0)
    arrays = batch([5, 2], tokens=6)
    params, apply = build(Encoder, none)
    np.testing.assert_array_equal(apply(params, *arrays, jax.random.key(0)), apply(params, *arrays))
    _, apply = build(Encoder, dataclasses.replace(none, **{field: 0.5}))
    assert not np.allclose(apply(params, *arrays, jax.random.key(0)), apply(params, *arrays))


# --- errors -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("vocab_size", 0),
        ("layers", 0),
        ("heads", 3),
        ("norm_eps", 0.0),
        ("pad_token_id", 50),
        ("position_offset", 12),
        ("activation", "swish"),
        ("hidden_dropout", 1.0),
        ("attention_dropout", -0.1),
    ],
)
def test_config_refuses(field, value):
    with pytest.raises(ValueError, match=f"^{field} must be .*, got {value!r}$"):
        dataclasses.replace(TINY, **{field: value})


def test_classifier_refuses():
    with pytest.raises(ValueError, match="classes must be at least 1, got 0"):
        Classifier(TINY, classes=0, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"pooling must be one of \['mean', 'first'\], got 'max'"):
        Classifier(TINY, classes=2, pooling="max", rngs=nnx.Rngs(0))


def test_too_many_tokens_are_refused():
    config = dataclasses.replace(TINY, position_offset=2)
    params, apply = build(Encoder, config)
    assert apply(params, *batch([10], tokens=10)).shape == (1, 10, 16)
    with pytest.raises(ValueError, match="ids_BT must have at most 10 tokens per row, got 11"):
        apply(params, *batch([11], tokens=11))


def test_an_id_outside_the_vocabulary_is_nan_and_not_another_word(classifier):
    params, apply = classifier
    ids_BT, mask_BT, types_BT = batch([5, 2], tokens=6)
    logits_BC = apply(params, ids_BT.at[0, 0].set(50), mask_BT, types_BT)
    assert np.isnan(logits_BC[0]).all()
    assert np.isfinite(logits_BC[1]).all()
