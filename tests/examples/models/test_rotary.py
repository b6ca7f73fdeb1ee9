"""Rotary positions have the frequencies of `transformers`, for the scalings of published models."""

import dataclasses
import math

import jax
import numpy as np
import pytest

from examples.models import rotary_fields
from examples.models.rotary import Dynamic, Linear, Llama3, Rotary, Yarn, turn
from tests.examples import golden
from tests.golden.models import ROTARIES


@pytest.mark.parametrize("name", ROTARIES)
def test_frequencies_and_factor_equal_pytorch(name):
    expected, (theta, size, positions, scaling) = np.load(golden.GOLDEN / "rotary.npz"), ROTARIES[name]
    described = {"rope_theta": theta, "rope_scaling": scaling, "max_position_embeddings": positions}
    rotary = rotary_fields.read(described)
    np.testing.assert_allclose(rotary.frequencies(size), expected[f"{name}_frequencies"], rtol=1e-6)
    assert rotary.factor == pytest.approx(float(expected[f"{name}_factor"]), rel=1e-12)
    again = rotary_fields.read({"max_position_embeddings": positions, **rotary_fields.written(rotary)})
    assert again == rotary
    assert (
        rotary_fields.read(
            {"rope_parameters": {"rope_theta": theta} | scaling} | described | {"rope_scaling": None}
        )
        == rotary
    )


def test_a_dynamic_scaling_follows_the_length_of_the_text():
    expected, rotary = np.load(golden.GOLDEN / "rotary.npz"), Rotary(10000.0, Dynamic(2.0, 4096))
    # The angles at position 1 are the frequencies.
    for longest, name in ((4095, "dynamic_frequencies"), (3 * 4096 - 1, "dynamic_longer")):
        cosine, sine = rotary.turns(np.array([[1, longest]], np.int32), 128)
        np.testing.assert_allclose(np.arctan2(sine, cosine)[0, 0, 0], expected[name], rtol=2e-5)


def test_a_product_depends_on_the_distance_alone():
    random, rotary = np.random.default_rng(0), Rotary(100.0)
    q, k = random.normal(size=(2, 1, 1, 1, 8)).astype(np.float32)

    def product(p, r):
        turned = (turn(x, rotary.turns(np.array([[at]]), 8)) for x, at in ((q, p), (k, r)))
        return float((next(turned) * next(turned)).sum())

    assert product(9, 4) == pytest.approx(product(5, 0), abs=1e-5)
    assert product(5, 5) == pytest.approx(float((q * k).sum()), abs=1e-5)
    # Plane i holds coordinates i and i + 4: its two components turn by p θ^(-i/4).
    x = np.zeros((1, 1, 1, 8), np.float32)
    x[..., 1] = 1
    turned = np.asarray(turn(x, rotary.turns(np.array([[2]]), 8)))[0, 0, 0]
    angle = 2 * 100 ** (-1 / 4)
    np.testing.assert_allclose(turned[[1, 5]], [math.cos(angle), math.sin(angle)], rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Rotary(1.0), "theta must be above 1, got 1.0"),
        (lambda: Linear(0.5), "factor must be at least 1, got 0.5"),
        (lambda: Dynamic(2.0, 0), "original must be at least 1, got 0"),
        (lambda: Llama3(8.0, 4.0, 4.0, 8192), "high must be above low, 4.0, got 4.0"),
        (lambda: Yarn(4.0, 8192, fast=1.0), "fast must be above slow, 1.0, got 1.0"),
        (lambda: Yarn(4.0, 8192, attention=0.0), "attention must be positive or None, got 0.0"),
    ],
)
def test_what_is_refused(make, message):
    with pytest.raises(ValueError) as error:
        make()
    assert str(error.value) == message


LLAMA3 = ROTARIES["llama3.1"][3]


@pytest.mark.parametrize(
    ("described", "message"),
    [
        (
            {"rope_scaling": {"rope_type": "longrope", "factor": 2.0}},
            "rope_type must be one of ['default', 'linear'",
        ),
        (
            {"rope_scaling": {"type": "mrope", "mrope_section": [1, 2]}},
            "rope_scaling: rope_type must be one of",
        ),
        ({"rope_scaling": {"type": ["linear"]}}, "rope_scaling: rope_type must be one of"),
        (
            {"rope_scaling": {"type": "linear", "rope_type": "dynamic", "factor": 2.0}},
            "rope_type must be one of",
        ),
        ({"rope_scaling": {"type": "linear"}}, "rope_scaling: factor must be given for linear"),
        ({"rope_scaling": {"type": "linear", "factor": "2"}}, "factor must be of type float, got '2'"),
        (
            {"rope_scaling": {"type": "linear", "factor": 2.0, "low_freq_factor": 1}},
            "low_freq_factor is not known",
        ),
        ({"rope_scaling": {"rope_type": "default", "factor": 2.0}}, "rope_scaling: factor is not known here"),
        ({"rope_scaling": LLAMA3 | {"high_freq_factor": 0.5}}, "high must be above low, 1.0, got 0.5"),
        ({"rope_scaling": LLAMA3 | {"partial_rotary_factor": 0.5}}, "partial_rotary_factor must be 1"),
        ({"rope_scaling": "linear"}, "rope_scaling must be of type dict, got 'linear'"),
        (
            {"rope_scaling": LLAMA3, "rope_parameters": LLAMA3},
            "rope_scaling must not be given beside rope_param",
        ),
        ({"rope_theta": "10000"}, "rope_theta must be of type float, got '10000'"),
        (
            {"rope_theta": 1e4, "rope_parameters": {"rope_theta": 1e6}},
            "rope_theta must be the same in rope_param",
        ),
        (
            {
                "rope_scaling": {"type": "dynamic", "factor": 2.0, "original_max_position_embeddings": 8},
                "max_position_embeddings": 9,
            },
            "original_max_position_embeddings of a dynamic scaling must be 9, got 8",
        ),
    ],
)
def test_descriptions_that_are_refused(described, message):
    with pytest.raises(ValueError) as error:
        rotary_fields.read(described)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_turns_are_float32_whatever_is_turned():
    half = jax.numpy.ones((1, 1, 1, 4), jax.numpy.bfloat16)
    turns = Rotary().turns(np.array([[1000]]), 4)
    assert {each.dtype for each in turns} == {np.dtype("float32")}
    assert turn(half, turns).dtype == half.dtype


def test_yarn_rounds_the_planes_unless_told_otherwise():
    yarn = Yarn(4.0, 512)
    rounded, exact = (
        Rotary(scaling=each).frequencies(64) for each in (yarn, dataclasses.replace(yarn, truncate=False))
    )
    assert not np.allclose(rounded, exact, rtol=1e-3)
