"""Files and configurations that do not match are recognized by the names and shapes of their tensors."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from examples.models import families, llama_files, weights
from tests.examples import golden


@pytest.fixture
def directory(tmp_path):
    """A copy of the tiny GPT-2, to be damaged."""
    return Path(shutil.copytree(golden.GOLDEN / "gpt2_tiny", tmp_path / "gpt2"))


def refused(directory, **overrides):
    """The one line of the error."""
    with pytest.raises(ValueError) as error:
        weights.load(directory, families.GPT2, **overrides)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_another_width_is_told_with_names_and_shapes(directory):
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"n_embd": 8, "n_layer": 3}))
    message = refused(directory)
    assert message.startswith(
        f"{directory / 'model.safetensors'} is not the model that config.json describes: "
    )
    assert "12 missing (transformer.h.2.attn.c_attn.bias float [24], " in message
    wrong = "transformer.h.0.attn.c_attn.weight float [16, 48], expected float [8, 24]"
    assert "28 mismatched (" in message and wrong in message


def test_older_names_and_a_head_that_is_tied(directory):
    _, expected = weights.load(directory, families.GPT2)
    path = directory / "model.safetensors"
    tensors = {name.removeprefix("transformer."): tensor for name, tensor in load_file(path).items()}
    tensors |= {"h.0.attn.bias": np.ones((1, 1, 12, 12), "f"), "lm_head.weight": tensors["wte.weight"]}
    save_file(tensors, path)
    _, params = weights.load(directory, families.GPT2)
    np.testing.assert_array_equal(params["norm"]["scale"], expected["norm"]["scale"])


EMBED, HEAD = "embed_tokens.weight", "lm_head.weight"


@pytest.mark.parametrize(
    ("name", "family", "copy", "of"),
    [
        ("gpt2_tiny", families.GPT2, HEAD, "transformer.wte.weight"),
        ("qwen2_tiny", llama_files.QWEN2, HEAD, "model.embed_tokens.weight"),
        ("gemma_tiny", llama_files.GEMMA, HEAD, "model.embed_tokens.weight"),
        ("t5_tiny", families.T5, HEAD, "shared.weight"),
        ("t5_tiny_untied", families.T5, f"encoder.{EMBED}", "shared.weight"),
        ("t5_tiny_untied", families.T5, f"decoder.{EMBED}", "shared.weight"),
        (
            "bert_tiny_masked",
            families.MASKED_BERT,
            "cls.predictions.decoder.weight",
            "bert.embeddings.word_embeddings.weight",
        ),
        ("bert_tiny_masked", families.MASKED_BERT, "cls.predictions.decoder.bias", "cls.predictions.bias"),
    ],
)
def test_a_tied_tensor_that_a_file_also_has_must_be_equal(tmp_path, name, family, copy, of):
    directory = Path(shutil.copytree(golden.GOLDEN / name, tmp_path / name))
    _, expected = weights.load(directory, family)
    path = directory / "model.safetensors"
    tensors = load_file(path)
    save_file(tensors | {copy: tensors[of]}, path)
    _, params = weights.load(directory, family)
    jax.tree.map(np.testing.assert_array_equal, params, expected)
    head = "set tie_word_embeddings to false in config.json, or " if copy == HEAD else ""
    message = f"{path}: {copy} is tied to {of}, but not equal to it; {head}remove {copy}"
    for other in (tensors[of] * np.float32(1 + 2e-7), tensors[of][:-1]):
        save_file(tensors | {copy: other}, path)
        with pytest.raises(ValueError) as error:
            weights.load(directory, family)
        assert str(error.value) == message


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"model_type": "bert"}, "model_type must be 'gpt2', got 'bert'"),
        ({"n_inner": 100}, "n_inner must be None, got 100"),
        ({"n_layer": 2.0}, "n_layer must be of type int, got 2.0"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings must be of type bool, got 1"),
        ({"resid_pdrop": 2}, r"hidden_dropout must be in [0, 1), got 2"),
    ],
)
def test_configurations_that_are_refused(directory, values, expected):
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    assert refused(directory) == f"{path}: {expected}"


def test_overrides(directory):
    config, _ = weights.load(directory, families.GPT2, hidden_dropout=0.3)
    assert config.hidden_dropout == 0.3
    assert "hidden_dropout must be in [0, 1), got 1.5" in refused(directory, hidden_dropout=1.5)


def test_params_of_another_configuration_are_not_written(directory, tmp_path):
    config, params = weights.load(directory, families.GPT2)
    other = dataclasses.replace(config, hidden_size=8, layers=1)
    with pytest.raises(ValueError) as error:
        weights.save(tmp_path / "saved", families.GPT2, other, params)
    assert str(error.value).startswith("params do not match the configuration: ")
    assert "embeddings/word/embedding [50, 16], expected [50, 8]" in str(error.value)
    assert "16 unknown (layers/1/attention/key/bias [16], " in str(error.value)
    assert not (tmp_path / "saved").exists()


def test_a_width_of_the_mlp_that_is_the_usual_one_may_be_said(directory):
    path = directory / "config.json"
    expected, _ = weights.load(directory, families.GPT2)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"n_inner": 64}))
    assert weights.load(directory, families.GPT2)[0] == expected
