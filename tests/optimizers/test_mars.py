import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optimiz import mars
from tests.golden import parity, stacked


def equations(params, gradients, rates, b1, b2, eps, gamma, decay):
    """The authors' equations for one tensor, in float64."""
    theta, m, v, last = np.float64(params), 0.0, 0.0, 0.0
    for t, (g, rate) in enumerate(zip(np.float64(gradients), rates, strict=True), 1):
        c = g + gamma * b1 / (1 - b1) * (g - last)
        c = c / max(1, np.linalg.norm(c))
        last = g
        m, v = b1 * m + (1 - b1) * c, b2 * v + (1 - b2) * c**2
        direction = m / (1 - b1**t) / (np.sqrt(v / (1 - b2**t)) + eps)
        theta = theta - rate * (direction + decay * theta)
    return theta


@pytest.mark.parametrize("scale", [0.1, 3.0])
def test_equals_the_equations_on_both_sides_of_the_clip(scale):
    random = np.random.default_rng(0)
    gradients, lr = scale * random.normal(size=(12, 5)), 0.1 * (1 - np.arange(12) / 12)
    settings = {"b1": 0.8, "b2": 0.9, "eps": 1e-3, "gamma": 0.3}
    expected = equations(np.ones(5), gradients, lr, **settings, decay=0.1)
    with jax.enable_x64(True):
        tx = mars(lambda count: jnp.asarray(lr)[count], **settings, weight_decay=0.1)
        np.testing.assert_allclose(stacked.run(tx, jnp.float64, np.ones(5), gradients), expected, rtol=1e-12)


def test_without_correction_and_below_the_clip_it_is_adamw():
    gradients = 0.1 * np.random.default_rng(0).normal(size=(9, 4))
    found = stacked.run(mars(0.1, gamma=0.0, weight_decay=0.1), jnp.float32, np.ones(4), gradients)
    wanted = stacked.run(optax.adamw(0.1, 0.95, 0.99, weight_decay=0.1), jnp.float32, np.ones(4), gradients)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_layers_stacked_by_scan_train_as_they_would_alone():
    stacked.check_layers(lambda scanned: mars(0.1, scanned=scanned))


def test_the_state_is_float32_for_bfloat16_parameters():
    p = {"w": jnp.ones(3, jnp.bfloat16)}
    tx = mars(0.1)
    updates, state = tx.update(p, tx.init(p), p)
    assert updates["w"].dtype == jnp.bfloat16
    assert state[0].grad["w"].dtype == state[1].nu["w"].dtype == jnp.float32


def test_without_gradients_nothing_moves():
    tx, p = mars(0.1, eps=0.0), jnp.ones(2)
    assert tx.update(jnp.zeros(2), tx.init(p), p)[0].tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("name", "value"), [("b1", 1.0), ("b2", -0.1), ("eps", -1.0), ("gamma", -1.0), ("weight_decay", -1.0)]
)
def test_refuses_what_is_outside_its_domain(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be"):
        mars(0.1, **{name: value})
    with pytest.raises(TypeError, match=f"^{name} must be"):
        mars(0.1, **{name: "x"})


# The sources of the golden trajectories, and our arguments for their settings.
SOURCES = {
    "mars": parity.Case(
        title="MARS-AdamW",
        code="MARS.optimizers.mars.MARS",
        home="github:AGI-Arena/MARS",
        settings={
            "betas": [0.95, 0.99],
            "eps": 1e-8,
            "gamma": 0.025,
            "weight_decay": 0.1,
            "optimize_1d": True,
        },
        note="For all parameters, with the last batch's gradient.",
        ours=lambda rate, s: mars(
            rate, *s["betas"], s["eps"], gamma=s["gamma"], weight_decay=s["weight_decay"]
        ),
    )
}
