"""Published configurations are read, and written again; what would be computed wrongly is refused by name."""

import json
import math
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from examples.models import decoders, llama_files, weights
from examples.models.layout import shapes_of
from examples.models.rotary import Llama3, Rotary
from tests.examples import golden

LLAMA_3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def described(model_type, **sizes):
    """A `config.json` with what every one has."""
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    return (
        dict.fromkeys(names) | {"model_type": model_type, "torch_dtype": "bfloat16", "use_cache": True} | sizes
    )


# What the configurations on the Hugging Face Hub say of the shape of these models, and how many parameters the
# files next to them have.
PUBLISHED = {
    "Llama-2-7b": (
        described(
            "llama",
            vocab_size=32000,
            hidden_size=4096,
            intermediate_size=11008,
            num_hidden_layers=32,
            num_attention_heads=32,
            num_key_value_heads=32,
            max_position_embeddings=4096,
            hidden_act="silu",
            pretraining_tp=1,
            rms_norm_eps=1e-05,
            rope_scaling=None,
            tie_word_embeddings=False,
        ),
        6_738_415_616,
    ),
    "Llama-3.1-8B": (
        described(
            "llama",
            vocab_size=128256,
            hidden_size=4096,
            intermediate_size=14336,
            num_hidden_layers=32,
            num_attention_heads=32,
            num_key_value_heads=8,
            max_position_embeddings=131072,
            attention_bias=False,
            mlp_bias=False,
            rms_norm_eps=1e-05,
            rope_scaling=LLAMA_3,
            rope_theta=500000.0,
            tie_word_embeddings=False,
        ),
        8_030_261_248,
    ),
    "SmolLM2-135M": (
        described(
            "llama",
            vocab_size=49152,
            hidden_size=576,
            intermediate_size=1536,
            num_hidden_layers=30,
            num_attention_heads=9,
            num_key_value_heads=3,
            max_position_embeddings=8192,
            is_llama_config=True,
            rms_norm_eps=1e-05,
            rope_interleaved=False,
            rope_theta=100000,
            tie_word_embeddings=True,
        ),
        134_515_008,
    ),
    "Mistral-7B-v0.1": (
        described(
            "mistral",
            vocab_size=32000,
            hidden_size=4096,
            intermediate_size=14336,
            num_hidden_layers=32,
            num_attention_heads=32,
            num_key_value_heads=8,
            max_position_embeddings=32768,
            rms_norm_eps=1e-05,
            rope_theta=10000.0,
            sliding_window=4096,
            tie_word_embeddings=False,
        ),
        7_241_732_096,
    ),
    "Qwen2.5-0.5B": (
        described(
            "qwen2",
            vocab_size=151936,
            hidden_size=896,
            intermediate_size=4864,
            num_hidden_layers=24,
            num_attention_heads=14,
            num_key_value_heads=2,
            max_position_embeddings=32768,
            max_window_layers=24,
            rms_norm_eps=1e-06,
            rope_theta=1000000.0,
            sliding_window=32768,
            tie_word_embeddings=True,
            use_mrope=False,
            use_sliding_window=False,
        ),
        494_032_768,
    ),
    "Qwen3-0.6B": (
        described(
            "qwen3",
            vocab_size=151936,
            hidden_size=1024,
            intermediate_size=3072,
            num_hidden_layers=28,
            num_attention_heads=16,
            num_key_value_heads=8,
            head_dim=128,
            attention_bias=False,
            max_position_embeddings=40960,
            max_window_layers=28,
            rms_norm_eps=1e-06,
            rope_scaling=None,
            rope_theta=1000000,
            sliding_window=None,
            tie_word_embeddings=True,
            use_sliding_window=False,
        ),
        596_049_920,
    ),
    "gemma-2b": (
        described(
            "gemma",
            vocab_size=256000,
            hidden_size=2048,
            intermediate_size=16384,
            num_hidden_layers=18,
            num_attention_heads=8,
            num_key_value_heads=1,
            head_dim=256,
            hidden_act="gelu",
            max_position_embeddings=8192,
            rms_norm_eps=1e-06,
            rope_theta=10000.0,
        ),
        2_506_172_416,
    ),
    "gemma-2-2b": (
        described(
            "gemma2",
            vocab_size=256000,
            hidden_size=2304,
            intermediate_size=9216,
            num_hidden_layers=26,
            num_attention_heads=8,
            num_key_value_heads=4,
            head_dim=256,
            attn_logit_softcapping=50.0,
            cache_implementation="hybrid",
            final_logit_softcapping=30.0,
            hidden_act="gelu_pytorch_tanh",
            hidden_activation="gelu_pytorch_tanh",
            max_position_embeddings=8192,
            query_pre_attn_scalar=256,
            rms_norm_eps=1e-06,
            rope_theta=10000.0,
            sliding_window=4096,
        ),
        2_614_341_888,
    ),
    "gemma-3-1b": (
        described(
            "gemma3_text",
            vocab_size=262144,
            hidden_size=1152,
            intermediate_size=6912,
            num_hidden_layers=26,
            num_attention_heads=4,
            num_key_value_heads=1,
            head_dim=256,
            attn_logit_softcapping=None,
            final_logit_softcapping=None,
            hidden_activation="gelu_pytorch_tanh",
            max_position_embeddings=32768,
            query_pre_attn_scalar=256,
            rms_norm_eps=1e-06,
            rope_local_base_freq=10000,
            rope_scaling=None,
            rope_theta=1000000,
            sliding_window=512,
            sliding_window_pattern=6,
        ),
        999_885_952,
    ),
}


def read(description):
    return weights.config_of(decoders.FAMILIES[description["model_type"]], description)


def parameters(family, config):
    """The number of parameters; every layer has as many."""

    def count(layers):
        fewer = shapes_of(family, config.__class__(**{**vars(config), "layers": layers}))
        return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(fewer))

    one, two = count(1), count(2)
    return one + (config.layers - 1) * (two - one)


@pytest.mark.quick(4)
@pytest.mark.parametrize("name", sorted(PUBLISHED, key=lambda name: name.startswith(("Llama", "gemma-2b"))))
def test_a_published_configuration_is_read_and_written_again(name):
    description, size = PUBLISHED[name]
    family, config = decoders.FAMILIES[description["model_type"]], read(description)
    assert parameters(family, config) == size
    written = weights.description_of(family, config)
    assert weights.config_of(family, json.loads(json.dumps(written))) == config
    for key in description.keys() & set(family.fields.values()) - {"hidden_act"}:
        assert written[key] == description[key], key


def test_what_published_configurations_mean():
    found = {name: read(description) for name, (description, _) in PUBLISHED.items()}
    assert found["Llama-3.1-8B"].rotary == Rotary(500000.0, Llama3(8.0, 1.0, 4.0, 8192))
    windows = {name: config.windows for name, config in found.items()}
    assert windows["Mistral-7B-v0.1"] == (4096,)
    assert windows["Qwen2.5-0.5B"] == windows["Llama-2-7b"] == windows["gemma-2b"] == (None,)
    assert windows["gemma-2-2b"] == (4096, None)
    # Twenty-six layers are four cycles of six and two more.
    assert found["gemma-3-1b"].windows == (512,) * 5 + (None,)
    gemma = found["gemma-3-1b"]
    assert (gemma.rotary.theta, gemma.local_rotary) == (1e6, Rotary(1e4))
    assert (found["gemma-2-2b"].attention_cap, found["gemma-2-2b"].logit_cap) == (50.0, 30.0)
    assert found["gemma-2b"].activation == "gelu_pytorch_tanh" and found["gemma-2b"].tied
    qwen = found["Qwen2.5-0.5B"]
    assert (qwen.qkv_bias, qwen.output_bias, qwen.head_size, qwen.tied) == (True, False, 64, True)
    assert found["Qwen3-0.6B"].query_key_norm and not found["Qwen3-0.6B"].qkv_bias


def of(name, **values):
    return PUBLISHED[name][0] | values


@pytest.mark.parametrize(
    ("description", "message"),
    [
        (
            of("Llama-2-7b", residual_multiplier=0.2),
            "residual_multiplier is not known of a llama, and may change",
        ),
        (
            of("Llama-2-7b", sliding_window=512),
            "sliding_window is not known of a llama, and may change the model",
        ),
        (of("Llama-2-7b", quantization_config={"bits": 4}), "quantization_config is not known of a llama"),
        (of("Llama-2-7b", rope_interleaved=True), "rope_interleaved must be False, got True"),
        (of("Llama-2-7b", hidden_act="mish"), "activation must be one of ['gelu', "),
        (of("Llama-2-7b", num_key_value_heads=5), "key_heads must be a divisor of 32, got 5"),
        (
            of("Llama-2-7b", num_attention_heads=33),
            "num_attention_heads must be a divisor of hidden_size, 4096",
        ),
        (of("Llama-2-7b", num_attention_heads=0), "num_attention_heads must be a divisor of hidden_size, 4096"),
        (of("Llama-2-7b", num_hidden_layers=2**30), "num_hidden_layers must be in [1, 10000], got 1073741824"),
        (of("Llama-2-7b", num_hidden_layers="32"), "num_hidden_layers must be of type int, got '32'"),
        (
            of("Llama-2-7b", max_position_embeddings=None),
            "max_position_embeddings must be given, got ['rms_norm",
        ),
        (
            of("Llama-2-7b", rope_scaling={"type": "longrope"}),
            "rope_scaling: rope_type must be one of ['default'",
        ),
        (of("Llama-2-7b", is_encoder_decoder=True), "is_encoder_decoder must be False, got True"),
        (of("Qwen2.5-0.5B", use_mrope=True), "use_mrope must be False, got True"),
        (of("Qwen2.5-0.5B", use_sliding_window=1), "use_sliding_window must be of type bool, got 1"),
        (
            of("Qwen2.5-0.5B", layer_types=["full_attention"]),
            "layer_types must be full_attention or sliding_att",
        ),
        (
            of("Qwen3-0.6B", layer_types=["sliding_attention"] * 28),
            "sliding_window must be given, as layer_types has sliding_attention",
        ),
        (
            of("gemma-2b", use_bidirectional_attention=True),
            "use_bidirectional_attention must be False, got True",
        ),
        (of("gemma-2b", hidden_activation="gelu"), "hidden_activation must be 'gelu_pytorch_tanh', got 'gelu'"),
        (of("gemma-3-1b", attn_logit_softcapping=50.0), "attn_logit_softcapping must be None, got 50.0"),
        (
            of("gemma-3-1b", rope_parameters={"rope_type": "linear", "factor": 8.0}),
            "rope_parameters must be of full_attention and sliding_attention, got {",
        ),
        (
            of("gemma-3-1b", rope_parameters={"full_attention": {"rope_theta": 1e4}}),
            "rope_theta must be the same in rope_parameters and beside it, got [10000.0, 1000000]",
        ),
    ],
)
def test_what_is_not_supported_is_refused_by_name(description, message):
    with pytest.raises(ValueError) as error:
        read(description)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_null_is_as_if_absent_and_inert_keys_are_not_read():
    family = llama_files.LLAMA
    expected = read(of("Llama-2-7b"))
    absent = {k: v for k, v in of("Llama-2-7b").items() if k not in ("num_key_value_heads", "hidden_act")}
    assert weights.config_of(family, absent) == expected
    nulls = dict.fromkeys(("num_key_value_heads", "head_dim", "sliding_window", "quantization_config"))
    assert weights.config_of(family, of("Llama-2-7b") | nulls | {"_name_or_path": "x"}) == expected


def test_a_window_that_is_absent_is_that_of_transformers_and_null_is_none():
    given = of("Mistral-7B-v0.1")
    assert read(given | {"sliding_window": None}).windows == (None,)
    del given["sliding_window"]
    assert read(given).windows == (4096,)


def test_what_the_files_of_a_family_cannot_say_is_not_written():
    for name, field, value, again in (
        ("Qwen2.5-0.5B", "output_bias", False, True),
        ("gemma-2b", "centered", True, False),
    ):
        with pytest.raises(ValueError) as error:
            weights.description_of(llama_files.LLAMA, read(of(name)))
        expected = f"{field} of a llama cannot be written as {value}, which is read as {again}"
        assert str(error.value) == expected


@pytest.fixture
def directory(tmp_path):
    """A copy of the tiny Llama 3, to be changed."""
    return Path(shutil.copytree(golden.GOLDEN / "llama3_tiny", tmp_path / "llama"))


def test_weights_in_several_files(directory):
    family = decoders.family(directory)
    _, expected = weights.load(directory, family)
    path = directory / "model.safetensors"
    tensors = load_file(path)
    path.unlink()
    places = {name: f"model-{i % 2 + 1:05}-of-00002.safetensors" for i, name in enumerate(tensors)}
    for file in set(places.values()):
        save_file({name: tensors[name] for name in tensors if places[name] == file}, directory / file)
    index = {"metadata": {"total_size": 0}, "weight_map": places}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    _, params = weights.load(directory, family)
    jax.tree.map(np.testing.assert_array_equal, params, expected)


def test_older_files_hold_the_frequencies_and_a_tied_head(directory):
    family = decoders.family(directory)
    _, expected = weights.load(directory, family)
    path = directory / "model.safetensors"
    tensors = load_file(path)
    tensors |= {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": np.ones(3, "f") for i in range(2)}
    save_file(tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"]}, path)
    _, params = weights.load(directory, family)
    jax.tree.map(np.testing.assert_array_equal, params, expected)


def test_a_bias_that_the_configuration_does_not_have_is_named(directory):
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"mlp_bias": False}))
    with pytest.raises(ValueError, match=r"6 unknown \(layers\.0\.mlp\.down_proj\.bias float \[16\], "):
        weights.load(directory, decoders.family(directory))


def test_a_family_is_found_by_its_type(directory):
    assert decoders.family(directory) is llama_files.LLAMA
    path = directory / "config.json"
    for model_type in ("phi3", ["llama"], None):
        path.write_text(json.dumps({"model_type": model_type}))
        with pytest.raises(ValueError) as error:
            decoders.family(directory)
        assert f"{path}: model_type must be one of ['gpt2', 'llama', 'mistral', 'qwen2', " in str(error.value)
        assert f"got {model_type!r}" in str(error.value)


def test_special_ids_and_those_of_the_end(directory):
    path, generation = directory / "config.json", directory / "generation_config.json"
    known = json.loads(path.read_text())
    path.write_text(json.dumps(known | {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": None}))
    assert decoders.special_ids(directory) == {"start": 1, "end": 2}
    assert decoders.end_ids(directory) == (2,)
    generation.write_text(json.dumps({"eos_token_id": [2, 7]}))
    assert decoders.end_ids(directory) == (2, 7)
    generation.write_text(json.dumps({"eos_token_id": "2"}))
    with pytest.raises(ValueError, match="eos_token_id must be of type int, got '2'"):
        decoders.end_ids(directory)
    generation.unlink()
    path.write_text(json.dumps(known | {"eos_token_id": None}))
    assert decoders.end_ids(directory) == ()


@pytest.mark.long
@pytest.mark.parametrize("name", [f"{name}_tiny" for name in ("gpt2", "llama3", "qwen2", "qwen3", "gemma3")])
def test_transformers_reads_what_is_written(name, tmp_path):
    transformers, torch = (pytest.importorskip(module) for module in ("transformers", "torch"))
    family = decoders.family(golden.GOLDEN / name)
    weights.save(tmp_path, family, *weights.load(golden.GOLDEN / name, family))
    arrays = np.load(golden.GOLDEN / name / "logits.npz")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager").eval()
    names = ("input_ids", "attention_mask")
    with torch.no_grad():
        logits = model(**{name: torch.tensor(arrays[name]) for name in names}).logits.numpy()
    np.testing.assert_allclose(logits, arrays["logits"], atol=2e-6)
    loaded = transformers.AutoConfig.from_pretrained(tmp_path).architectures
    assert loaded == [family.architecture]
