import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optimiz
from optimiz import stable_adamw
from tests.golden import fixture_c, parity, stacked


def equations(params, gradients, rates, b1, b2, eps, decay, clip_rms):
    theta, m, v = np.float64(params), 0.0, 0.0
    for t, (g, rate) in enumerate(zip(np.float64(gradients), rates, strict=True), 1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        m_hat, v_hat = m / (1 - b1**t), v / (1 - b2**t)
        rms = np.sqrt(np.mean(g**2 / np.maximum(v_hat, eps**2)))
        theta = theta - rate / max(1, rms / clip_rms) * (m_hat / (np.sqrt(v_hat) + eps) + decay * theta)
    return theta


def test_equals_the_golden_values():
    """torch-optimi 0.3.3, decay 0.1; the gradients of the fourth step are 50 times as large."""
    golden = fixture_c.golden(
        ".977185998989 -1.97461385869 2.94043820787 .466657962574 -.0154138952418 -.977163843673 1.94495942186 "
        ".243338467121",
        ".0688639205362 -.23903019598",
    )
    with jax.enable_x64(True):
        gradients = fixture_c.gradients()
        gradients[3] = {name: 50 * g for name, g in gradients[3].items()}
        tx = stable_adamw(fixture_c.varying, weight_decay=0.1)
        found = stacked.run(tx, jnp.float64, fixture_c.params(), gradients)
        chex.assert_trees_all_close(found, golden, rtol=0, atol=1e-10)


def test_equals_the_equations():
    random = np.random.default_rng(0)
    gradients, lr = random.normal(size=(12, 5)), 0.1 * (1 - np.arange(12) / 12)
    gradients[6] *= 20
    settings = {"b1": 0.8, "b2": 0.95, "eps": 1e-3, "clip_rms": 0.7}
    with jax.enable_x64(True):
        tx = stable_adamw(lambda count: jnp.asarray(lr)[count], **settings, weight_decay=0.1)
        found = stacked.run(tx, jnp.float64, np.ones(5), gradients)
        expected = equations(np.ones(5), gradients, lr, **settings, decay=0.1)
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_a_burst_is_cut_and_steady_gradients_are_adamws():
    def step_at_the_end(make, last):
        tx, p = make(0.1, b1=0.0, b2=0.99, weight_decay=0.0), jnp.zeros(4)
        state = tx.init(p)
        for g in [1.0] * 20 + [last]:
            updates, state = tx.update(jnp.full(4, g), state, p)
        return float(updates[0])

    assert step_at_the_end(stable_adamw, 1.0) == pytest.approx(step_at_the_end(optimiz.adamw, 1.0), rel=1e-4)
    assert step_at_the_end(optimiz.adamw, 100.0) < -0.4
    assert step_at_the_end(stable_adamw, 100.0) == pytest.approx(-0.1, rel=1e-4)


def test_layers_stacked_by_scan_train_as_they_would_alone():
    def make(scanned):
        return stable_adamw(0.1, b2=0.5, scanned=scanned)

    stacked.check_layers(make)


@pytest.mark.parametrize("eps", [1e-6, 0.0])
def test_without_gradients_only_the_decay_moves(eps):
    tx, p = stable_adamw(0.5, eps=eps, weight_decay=0.5), jnp.ones(2)
    assert tx.update(jnp.zeros(2), tx.init(p), p)[0].tolist() == [-0.25, -0.25]


@pytest.mark.parametrize(
    ("name", "value"),
    [("b1", 1.0), ("b2", -0.1), ("eps", -1.0), ("clip_rms", 0.0), ("weight_decay", -1.0)],
)
def test_refuses_what_is_outside_its_domain(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be"):
        stable_adamw(0.1, **{name: value})
    with pytest.raises(TypeError, match=f"^{name} must be"):
        stable_adamw(0.1, **{name: "x"})


# The sources of the golden trajectories, and our arguments for their settings.
SOURCES = {
    "stable_adamw": parity.Case(
        title="StableAdamW",
        code="optimi.StableAdamW",
        home="torch-optimi",
        settings={"lr": 1.0, "betas": [0.9, 0.99], "eps": 1e-6, "weight_decay": 0.1, "foreach": False},
        ours=lambda rate, s: optimiz.stable_adamw(
            rate, *s["betas"], eps=s["eps"], weight_decay=s["weight_decay"]
        ),
    )
}
