"""The record of scaling holds what the code says, adds up, and is rendered as it stands."""

import json

import jax
import jax.numpy as jnp
import pytest

import optimiz
from examples.models import shapes
from optimiz import training
from tests import scaling_record
from tests.scaling_record import DEVICES, FORMATS, LAYOUTS, MODELS, OPTIMIZERS

RECORD = json.loads(scaling_record.PATH.read_text(encoding="utf-8"))
PARAMETERS = {"Llama-2-7B": 6_738_415_616, "Llama-2-70B": 68_976_648_192}  # as their authors count them


def check(model, fmt, name, optimizers):
    found = scaling_record.reckon(model, fmt, name, optimizers)
    recorded = RECORD["models"][model]["held"][fmt][name]
    assert found["parameters"] == recorded["parameters"]
    for optimizer in optimizers:
        assert found["state"][optimizer] == recorded["state"][optimizer], optimizer


def test_the_record_is_what_the_code_says():
    assert list(DEVICES) == RECORD["devices"] and PARAMETERS.keys() == RECORD["models"].keys()
    for model, count in PARAMETERS.items():
        assert RECORD["models"][model]["parameters"] == count
    check("Llama-2-7B", "int8", "ZeRO-1", ["adamw"])
    check("Llama-2-70B", "float32", "split parameters", ["adamw", "sgd_sai"])


@pytest.mark.long
@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("model", MODELS)
def test_all_of_the_record_is_what_the_code_says(model, fmt, name):
    check(model, fmt, name, list(OPTIMIZERS))


def test_counting_each_shape_once_gives_the_bytes_of_a_whole_model(monkeypatch):
    two = shapes.Llama(2, 512, 1376, 128, 32000).shapes()
    monkeypatch.setitem(MODELS, "two layers", shapes.counted(two))
    params = shapes.as_structs(shapes.unstacked(two), jnp.bfloat16)
    state = jax.eval_shape(scaling_record.make("adamw", optimiz.Int8()).init, params)
    found = scaling_record.reckon("two layers", "int8", "ZeRO-1", ["adamw"])
    for n, of_state in zip(DEVICES, found["state"]["adamw"], strict=True):
        layout = scaling_record.layout("ZeRO-1", n)
        assert of_state == training.bytes_per_device(state, layout.opt_state(state, params))


def test_it_adds_up():
    """AdamW keeps 8 bytes a parameter, beside 4 of the parameter; split, each device has its part of them."""
    count = PARAMETERS["Llama-2-7B"]
    held = RECORD["models"]["Llama-2-7B"]["held"]["float32"]
    assert held["data parallel"]["parameters"] == [4 * count] * len(DEVICES)
    for name in ("ZeRO-1", "split parameters"):
        for n, of_state in zip(DEVICES, held[name]["state"]["adamw"], strict=True):
            assert 8 * count / n <= of_state <= 8 * count / n + 100
    assert held["split parameters"]["parameters"] == [4 * count // n for n in DEVICES]


def test_what_is_sent_is_reckoned_by_the_formulas_of_the_page():
    assert scaling_record.sent("data parallel", 8, 1000) == 1750
    assert scaling_record.sent("ZeRO-1", 8, 1000) == 1750
    assert scaling_record.sent("split parameters", 8, 1000) == 2625
    assert scaling_record.sent_for_curvature("ZeRO-1", 8, 1000) == 875
