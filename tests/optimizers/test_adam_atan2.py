import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optimiz
from optimiz import adam_atan2, scale_by_adam_atan2
from tests.golden import fixture_c, parity, stacked


def equations(params, gradients, rates, b1, b2, a, b, decay):
    theta, m, v = np.float64(params), 0.0, 0.0
    for t, (g, rate) in enumerate(zip(np.float64(gradients), rates, strict=True), 1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        angle = np.arctan2(m / (1 - b1**t), b * np.sqrt(v / (1 - b2**t)))
        theta = theta - rate * (a * angle + decay * theta)
    return theta


def test_equals_the_golden_values():
    """adam-atan2-pytorch 0.4.1."""
    golden = fixture_c.golden(
        ".994486237854 -1.98034527609 2.93180870849 .459134722103 -.0446962005246 -.97558583113 1.94797386763 "
        ".222284496077",
        ".0759938690015 -.232618598311",
    )
    with jax.enable_x64(True):
        tx = adam_atan2(fixture_c.varying, weight_decay=0.1)
        found = stacked.run(tx, jnp.float64, fixture_c.params(), fixture_c.gradients())
        chex.assert_trees_all_close(found, golden, rtol=0, atol=1e-10)


def test_equals_the_equations():
    random = np.random.default_rng(0)
    gradients, lr = random.normal(size=(12, 5)), 0.1 * (1 - np.arange(12) / 12)
    settings = {"b1": 0.8, "b2": 0.95, "a": 0.7, "b": 2.0}
    with jax.enable_x64(True):
        tx = adam_atan2(lambda count: jnp.asarray(lr)[count], **settings, weight_decay=0.1)
        found = stacked.run(tx, jnp.float64, np.ones(5), gradients)
        np.testing.assert_allclose(
            found, equations(np.ones(5), gradients, lr, **settings, decay=0.1), rtol=1e-12
        )


@pytest.mark.parametrize("scale", [np.float32(1e-12), np.float32(1e12)])
def test_does_not_see_the_scale_of_the_gradients(scale):
    gradients = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32)
    found, wanted = (
        stacked.run(adam_atan2(0.1), jnp.float32, np.zeros(8), g) for g in (gradients * scale, gradients)
    )
    np.testing.assert_allclose(found, wanted, rtol=1e-4)


def test_no_entry_of_the_direction_is_larger_than_a_quarter_turn():
    tx = scale_by_adam_atan2(0.0, 0.999, a=1.0)
    state = tx.init(jnp.zeros(1))
    for g in (1e-20, 1e-8, 1.0, 1e8, 1e30):
        updates, state = tx.update(jnp.full(1, g), state)
        assert 0 < float(updates[0]) < np.pi / 2 + 1e-6
    assert np.isfinite(state.nu).all()


def test_without_gradients_nothing_moves():
    tx, p = adam_atan2(0.1), jnp.ones(2)
    assert tx.update(jnp.zeros(2), tx.init(p), p)[0].tolist() == [0.0, 0.0]


def test_a_complex_entry_keeps_its_angle():
    tx = scale_by_adam_atan2(a=4 / np.pi)
    updates, _ = tx.update(jnp.array([3 + 4j]), tx.init(jnp.zeros(1, jnp.complex64)))
    np.testing.assert_allclose(updates, [0.6 + 0.8j], rtol=1e-5)


def test_the_state_is_float32_for_bfloat16_parameters():
    p = {"w": jnp.ones(3, jnp.bfloat16)}
    tx = adam_atan2(0.1)
    updates, state = tx.update(p, tx.init(p), p)
    assert updates["w"].dtype == jnp.bfloat16
    assert state[0].mu["w"].dtype == state[0].nu["w"].dtype == jnp.float32


@pytest.mark.parametrize(
    ("name", "value"), [("b1", 1.0), ("b2", -0.1), ("a", 0.0), ("b", 0.0), ("weight_decay", -1.0)]
)
def test_refuses_what_is_outside_its_domain(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be"):
        adam_atan2(0.1, **{name: value})
    with pytest.raises(TypeError, match=f"^{name} must be"):
        adam_atan2(0.1, **{name: "x"})


# The sources of the golden trajectories, and our arguments for their settings.
SOURCES = {
    "adam_atan2": parity.Case(
        title="Adam-atan2",
        code="adam_atan2_pytorch.adam_atan2.AdamAtan2",
        home="adam-atan2-pytorch",
        settings={"betas": [0.9, 0.99], "weight_decay": 0.1},
        ours=lambda rate, s: optimiz.adam_atan2(rate, *s["betas"], weight_decay=s["weight_decay"]),
    )
}
