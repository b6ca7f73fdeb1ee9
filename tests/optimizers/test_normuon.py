import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optimiz.optimizers.normuon import normuon
from tests.golden import fixture_m, parity
from tests.optimizers import test_muon as muons
from tests.primitives.test_scale_by_muon import first

GOLDEN = {
    "the authors'": (
        {"weight_decay": 0.1},
        [0.233774838255, -0.403649290715, -0.464036299137, -0.0150955101174, -0.517895021604, -0.235373770833],
        [0.146613783029, -0.139297220065, 0.448530289308, 0.393216829254, 0.225454073498, 0.506515157164],
    ),
    "cautious decay": (
        {"weight_decay": 2.0, "cautious_decay": True},
        [0.195022073328, -0.407954145743, -0.451381847897, -0.00529222890977, -0.492420348113, -0.20973499328],
        [0.113984769267, -0.136595110215, 0.348816862174, 0.351248377098, 0.180920310498, 0.50201375262],
    ),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_the_trajectory_is_that_of_the_authors_code(name):
    settings, a, b = GOLDEN[name]
    with jax.enable_x64(True):
        adam = muons.schedule(0.05 * fixture_m.RATES)
        tx = normuon(muons.schedule(fixture_m.RATES), adam_learning_rate=adam, **settings)
        end = fixture_m.trained(tx)
    np.testing.assert_allclose(end["A"].ravel(), a, rtol=0, atol=1e-12)
    np.testing.assert_allclose(end["B"].ravel(), b, rtol=0, atol=1e-12)
    if not settings.get("cautious_decay"):
        np.testing.assert_allclose(end["b"], muons.ADAM, rtol=0, atol=1e-12)


@pytest.mark.quick(2)
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_an_output_without_a_gradient_stays_and_zeros_stay_zeros(dtype):
    g = {"w": jnp.ones((4, 6), dtype).at[:, 2].set(0), "zero": jnp.zeros((4, 6), dtype)}
    updates = first(normuon(0.1, adam_learning_rate=0.1), g)
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
