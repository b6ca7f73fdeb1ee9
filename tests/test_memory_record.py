"""The record of state sizes holds what the code says, and meets what was promised."""

import json

import jax.numpy as jnp
import pytest

import optimiz
from examples.models import shapes
from optimiz.methods import METHODS
from tests import memory_record
from tests.memory_record import FORMATS, MODELS

RECORD = json.loads(memory_record.RECORD.read_text(encoding="utf-8"))

PARAMETERS = {  # as their authors count them
    "GPT-2 124M": 124_439_808,
    "GPT-2 355M": 354_823_168,
    "GPT-2 774M": 774_030_080,
    "GPT-2 1.5B": 1_557_611_200,
    "ViT-S/16": 22_050_664,
    "ViT-B/16": 86_567_656,
    "Llama-2-7B": 6_738_415_616,
    "Llama-2-13B": 13_015_864_320,
}


@pytest.mark.parametrize("model", MODELS)
def test_the_models_have_the_size_that_their_authors_state(model):
    assert memory_record.parameters(model) == PARAMETERS[model] == RECORD["models"][model]["parameters"]


@pytest.mark.quick(4)
@pytest.mark.parametrize("model", ["GPT-2 1.5B", "Llama-2-7B", "ViT-S/16"])
@pytest.mark.parametrize("name", ["adamw", "sgd_sai"])
@pytest.mark.parametrize("label", FORMATS)
def test_the_record_is_what_the_code_says(model, name, label):
    recorded = RECORD["models"][model]["bytes"][name][label]
    assert memory_record.total(model, name, FORMATS[label]) == recorded


@pytest.mark.parametrize("model", MODELS)
def test_the_record_has_every_method(model):
    assert RECORD["models"][model]["bytes"].keys() == METHODS.keys()


@pytest.mark.long  # before a release
@pytest.mark.parametrize("name", METHODS)
def test_the_record_is_what_the_code_says_of_every_optimizer(name):
    for label, fmt in FORMATS.items():
        assert (
            memory_record.total("GPT-2 124M", name, fmt) == RECORD["models"]["GPT-2 124M"]["bytes"][name][label]
        )


def test_counting_each_shape_once_gives_the_size_of_the_whole_state():
    two = shapes.Vit(2, 384, 6).shapes()
    whole = shapes.as_structs(shapes.unstacked(two), jnp.float32)
    MODELS["two layers"] = shapes.counted(two)
    try:
        ours = memory_record.total("two layers", "sgd_sai", optimiz.Int8())
    finally:
        del MODELS["two layers"]
    assert ours == optimiz.state_bytes(memory_record.optimizer("sgd_sai", optimiz.Int8()), whole).total


@pytest.mark.parametrize("model", MODELS)
def test_few_bits_keep_their_promise(model):
    bytes_of, count = RECORD["models"][model]["bytes"], PARAMETERS[model]
    assert bytes_of["sgd_sai"]["Int8"] <= 1.04 * count
    assert bytes_of["adamw"]["Int8"] <= 2.08 * count
    assert bytes_of["adamw"]["Int4"] <= 1.14 * count
    assert 4 * count <= bytes_of["sgd_sai"]["float32"] <= 4.001 * count
    assert bytes_of["lion"]["BFloat16"] <= 2.02 * count
