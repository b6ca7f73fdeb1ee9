"""Adapters are those of peft: its files, its logits, and the model with them merged."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from examples.models import families, lora, weights
from examples.models.lora import Adapted, Lora
from optimiz import groups
from tests.examples import golden
from tests.golden.lora import ALPHA, RANK, factor

PEFT = golden.GOLDEN / "gpt2_tiny_lora"
# Path here → the module and its part in the files.
PLACES = {
    **{f"attention/{name}": (0, part) for part, name in enumerate(("query", "key", "value"))},
    **{"attention/output": (1, 0), "mlp/up": (2, 0), "mlp/down": (3, 0)},
}


@pytest.fixture(scope="module")
def model():
    """The tiny GPT-2: its parameters, it with adapters, and their values in the golden files."""
    config, base = weights.load(golden.GOLDEN / "gpt2_tiny", families.GPT2)
    adapted = Adapted(families.GPT2, config, Lora(RANK, ALPHA))

    def value(path, leaf):
        layer, name, last = re.fullmatch(r"layers/(\d+)/(.*)/adapter/lora_(.)", path).groups()
        return np.float32(factor(leaf.shape, int(layer), *PLACES[name], "ab".index(last)))

    shapes = jax.eval_shape(adapted.init, jax.random.key(0))
    adapters = jax.tree_util.tree_map_with_path(
        lambda keys, leaf: value(jax.tree_util.keystr(keys, simple=True, separator="/"), leaf), shapes
    )
    return config, base, adapted, adapters


def apply(model, adapters):
    _, base, adapted, _ = model
    arrays = np.load(golden.GOLDEN / "gpt2_tiny/logits.npz")
    return jax.jit(adapted.apply)(base, adapters, arrays["input_ids"], arrays["attention_mask"])


def test_the_logits_are_those_of_peft(model):
    config, base, adapted, adapters = model
    arrays, theirs = np.load(golden.GOLDEN / "gpt2_tiny/logits.npz"), np.load(PEFT / "logits.npz")
    tokens = arrays["attention_mask"] != 0
    beside = apply(model, adapters)
    np.testing.assert_allclose(beside[tokens], theirs["beside"][tokens], atol=2e-5)
    plain = golden.apply_of(families.GPT2, config)
    merged = plain(adapted.merged(base, adapters), arrays["input_ids"], arrays["attention_mask"])
    np.testing.assert_allclose(merged[tokens], theirs["merged"][tokens], atol=2e-5)
    np.testing.assert_allclose(merged, beside, atol=2e-5)
    assert np.abs(theirs["beside"] - arrays["logits"])[tokens].max() > 1  # they do something


def test_the_files_are_those_of_peft(model, tmp_path):
    *_, adapted, adapters = model
    adapted.save(tmp_path, adapters, "gpt2_tiny")
    ours, theirs = (load_file(folder / lora.WEIGHTS) for folder in (tmp_path, PEFT))
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)
    ours, theirs = (json.loads((folder / lora.CONFIG).read_text()) for folder in (tmp_path, PEFT))
    assert ours == {key: theirs[key] for key in ours}


@pytest.mark.long
def test_peft_opens_what_is_written_for_some_of_the_targets(model, tmp_path):
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    config, base, _, adapters = model
    adapted = Adapted(families.GPT2, config, Lora(RANK, ALPHA, ("query", "value", "mlp.c_proj")))
    some = jax.tree.map(lambda x: x, jax.eval_shape(adapted.init, jax.random.key(0)))
    some = jax.tree_util.tree_map_with_path(lambda keys, _: _at(adapters, keys), some)
    adapted.save(tmp_path, some, "gpt2_tiny")
    plain = transformers.GPT2LMHeadModel.from_pretrained(golden.GOLDEN / "gpt2_tiny")
    opened = peft.PeftModel.from_pretrained(plain, tmp_path).eval()
    ids = np.load(golden.GOLDEN / "gpt2_tiny/logits.npz")["input_ids"]
    with torch.no_grad():
        theirs = opened(input_ids=torch.tensor(ids)).logits.numpy()
    np.testing.assert_allclose(adapted.apply(base, some, ids), theirs, atol=2e-5)


def _at(tree, keys):
    for key in keys:
        tree = tree[key.key]
    return tree


def test_it_starts_as_the_model_and_only_the_adapters_are_trained(model):
    adapted = model[2]
    adapters = adapted.init(jax.random.key(0))
    expected = np.load(golden.GOLDEN / "gpt2_tiny/logits.npz")
    tokens = expected["attention_mask"] != 0
    np.testing.assert_allclose(apply(model, adapters)[tokens], expected["logits"][tokens], atol=2e-5)
    first = adapters["layers"][0]["attention"]["query"]["adapter"]
    assert not first["lora_b"].any() and np.abs(first["lora_a"]).max() <= 16**-0.5
    drawn = np.concatenate([np.ravel(x["adapter"]["lora_a"]) for x in adapters["layers"][1]["mlp"].values()])
    assert len({*drawn.tolist()}) == drawn.size
    grads = jax.grad(lambda adapters: apply(model, adapters).sum())(adapters)
    assert jax.tree.structure(grads) == jax.tree.structure(adapters)
    # With B = 0 the gradient of A is zero, and that of B is not.
    for keys, grad in jax.tree_util.tree_leaves_with_path(grads):
        assert bool(jnp.any(grad)) == (keys[-1].key == "lora_b"), keys


def test_frozen_parameters_may_have_fewer_bits(model):
    _, base, _, adapters = model
    half = jax.tree.map(lambda p: jnp.asarray(p, jnp.bfloat16), base)
    ids = np.load(golden.GOLDEN / "gpt2_tiny/logits.npz")["input_ids"]
    shape = jax.eval_shape(model[2].apply, half, adapters, ids)
    assert shape.dtype == jnp.bfloat16


QUERIES = tuple(f"layers/{i}/attention/query" for i in range(2))


@pytest.mark.quick(2)
@pytest.mark.parametrize(
    ("targets", "paths", "names"),
    [
        (("query",), QUERIES, ["attn.c_attn"]),
        (("attention/query",), QUERIES, ["attn.c_attn"]),
        (("mlp.c_proj",), tuple(f"layers/{i}/mlp/down" for i in range(2)), ["mlp.c_proj"]),
        (groups.path("layers/1/mlp/up"), ("layers/1/mlp/up",), ["transformer.h.1.mlp.c_fc"]),
    ],
)
def test_targets(model, tmp_path, targets, paths, names):
    adapted = Adapted(families.GPT2, model[0], Lora(2, 1.0, targets))
    assert adapted.paths == paths
    adapted.save(tmp_path, adapted.init(jax.random.key(0)), "x")
    described = json.loads((tmp_path / lora.CONFIG).read_text())
    assert described["target_modules"] == names and described["rank_pattern"] == {}


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (("q_proj",), "'q_proj' is no linear map of the model; there are all-linear, .*attn.c_attn"),
        (("proj",), "'proj' is no linear map"),
        (("lm_head",), "'lm_head' is no linear map"),
        (groups.path("embeddings"), "selects no linear map"),
    ],
)
def test_targets_that_are_none(model, targets, message):
    with pytest.raises(ValueError, match=message):
        Adapted(families.GPT2, model[0], Lora(2, 1.0, targets))


def test_the_head_gets_no_adapter():
    config = weights.read_config(golden.GOLDEN / "gpt2_tiny_untied", families.GPT2)
    assert not any("head" in path for path in Adapted(families.GPT2, config, Lora(2, 1.0)).paths)
    with pytest.raises(ValueError, match="selects the head, which gets no adapter"):
        Adapted(families.GPT2, config, Lora(2, 1.0, groups.rank(2)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 1.0), "rank must be at least 1, got 0"),
        ((1, 0.0), "alpha must be positive"),
        ((1, 1.0, ()), "targets"),
    ],
)
def test_numbers_outside_their_domains(arguments, message):
    with pytest.raises(ValueError, match=message):
        Lora(*arguments)


def test_parameters_of_another_model_are_refused(model):
    _, base, adapted, adapters = model
    with pytest.raises(ValueError, match="adapters must have the parameters of the model"):
        adapted.apply(base, {"layers": adapters["layers"] | {2: adapters["layers"][0]}}, jnp.zeros((1, 3), int))


def test_rates_of_lora_plus(model):
    multipliers = lora.rates(16.0)(model[3])["layers"][0]["mlp"]["up"]["adapter"]
    assert multipliers == {"lora_a": 1.0, "lora_b": 16.0}
