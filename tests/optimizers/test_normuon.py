import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optimiz import groups
from optimiz.optimizers.normuon import normuon, scale_by_normuon
from tests.golden import fixture_m, parity
from tests.optimizers import test_muon as muons


def test_the_trajectory_is_that_of_the_authors_code():
    a = [0.233774838255, -0.403649290715, -0.464036299137, -0.0150955101174, -0.517895021604, -0.235373770833]
    b = [0.146613783029, -0.139297220065, 0.448530289308, 0.393216829254, 0.225454073498, 0.506515157164]
    with jax.enable_x64(True):
        adam = muons.schedule(0.05 * fixture_m.RATES)
        tx = normuon(muons.schedule(fixture_m.RATES), adam_learning_rate=adam, weight_decay=0.1)
        end = fixture_m.trained(tx)
    np.testing.assert_allclose(end["A"].ravel(), a, rtol=0, atol=1e-12)
    np.testing.assert_allclose(end["B"].ravel(), b, rtol=0, atol=1e-12)
    np.testing.assert_allclose(end["b"], muons.ADAM, rtol=0, atol=1e-12)


def direction(gradients, **given):
    return muons.first(scale_by_normuon(ns_dtype=jnp.float32, scale=lambda a, b: 1.0, **given), gradients)


def test_at_first_all_outputs_move_equally_far_and_the_norm_is_that_of_muon():
    g = {"w": muons.normal(6, 4) * jnp.array([1.0, 0.1, 3.0, 1.0])}
    y = direction(g)["w"]
    norms = np.linalg.norm(y, axis=0)
    np.testing.assert_allclose(norms, norms[0], rtol=1e-5)
    x = muons.direction(g, scale=lambda a, b: 1.0)["w"]
    assert np.linalg.norm(y) == pytest.approx(np.linalg.norm(x), rel=1e-5)
    assert np.std(np.linalg.norm(x, axis=0)) > 1e-3


def test_the_state_has_one_number_for_each_output_of_each_matrix():
    params = {
        "attention": {"query": {"kernel": jnp.ones((8, 2, 3))}, "out": {"kernel": jnp.ones((2, 3, 8))}},
        "layers": jnp.ones((5, 4, 6), jnp.bfloat16),
        "bias": jnp.ones(3),
    }
    nu = scale_by_normuon(scanned={"layers": 0}).init(params).nu
    assert nu["attention"]["query"]["kernel"].shape == (1, 2, 3)
    assert nu["attention"]["out"]["kernel"].shape == (1, 1, 8)
    assert nu["layers"].shape == (5, 1, 6) and nu["layers"].dtype == jnp.float32
    assert nu["bias"] == optax.MaskedNode()


def test_stacked_and_fused_matrices_are_each_alone():
    layers, fused = muons.normal(3, 4, 6), muons.normal(4, 12, seed=1)
    stacked = direction({"layers": layers}, scanned={"layers": 0})["layers"]
    together = direction({"qkv": fused}, matrices={"qkv": groups.Matrix(sizes=(4, 4, 4))})["qkv"]
    for i in range(3):
        np.testing.assert_allclose(stacked[i], direction({"w": layers[i]})["w"], atol=1e-6)
        block = slice(4 * i, 4 * i + 4)
        np.testing.assert_allclose(together[:, block], direction({"w": fused[:, block]})["w"], atol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_an_output_without_a_gradient_stays_and_zeros_stay_zeros(dtype):
    g = {"w": jnp.ones((4, 6), dtype).at[:, 2].set(0), "zero": jnp.zeros((4, 6), dtype)}
    updates = muons.first(normuon(0.1, adam_learning_rate=0.1), g)
    assert np.all(updates["zero"] == 0) and np.all(updates["w"][:, 2] == 0)
    assert jnp.isfinite(updates["w"]).all() and updates["w"].dtype == dtype


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"b2": 1.0}, ValueError, r"b2 must be in \[0, 1\)"),
        ({"eps": -1.0}, ValueError, r"eps must be in \[0, "),
        ({"momentum": 1.0}, ValueError, "momentum must be in"),
        ({"newton_schulz": "keller"}, TypeError, "newton_schulz must be a set of polynomials"),
        ({"scale": 0.2}, TypeError, "scale must be a function of two numbers"),
        ({"adam_learning_rate": None}, ValueError, "adam_learning_rate must be given"),
    ],
)
def test_refuses_bad_input_by_name(given, error, message):
    with pytest.raises(error, match=message):
        normuon(**{"learning_rate": 0.02, "adam_learning_rate": 3e-4} | given)


def test_its_numbers_may_be_injected():
    tx = optax.inject_hyperparams(normuon)(0.02, adam_learning_rate=3e-4)
    params = {"kernel": jnp.ones((2, 3))}
    updates, _ = jax.jit(tx.update)(params, tx.init(params), params)
    assert jnp.isfinite(updates["kernel"]).all()


SOURCES = {
    "normuon": parity.Case(
        title="NorMuon",
        code="normuon.SingleDeviceNorMuonWithAuxAdam",
        home="github:zichongli5/NorMuon",
        settings={"momentum": 0.95, "beta2": 0.95, "weight_decay": 0.1, "betas": [0.9, 0.95], "eps": 1e-10},
        make=muons.with_adam,
        step=muons.in_float64,
        note=muons.PRODUCTS,
        ours=lambda rate, s: normuon(
            rate,
            momentum=s["momentum"],
            b2=s["beta2"],
            adam_learning_rate=rate,
            adam_b1=s["betas"][0],
            adam_b2=s["betas"][1],
            adam_eps=s["eps"],
            weight_decay=s["weight_decay"],
            matrices=muons.output_first(2, 3),
        ),
    )
}
