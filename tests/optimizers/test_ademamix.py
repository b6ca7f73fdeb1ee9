import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optimiz import ademamix, scale_by_ademamix
from tests.golden import parity, stacked


def equations(params, gradients, rates, b1, b2, b3, alpha, eps, warmup, decay):
    """The paper's equations with bias corrections, in float64."""
    theta, m, s, v = np.float64(params), 0.0, 0.0, 0.0
    for t, (g, rate) in enumerate(zip(np.float64(gradients), rates, strict=True), 1):
        weight, slow = alpha, b3
        if t < warmup:
            share = t / warmup
            of = lambda b: math.log(0.5) / math.log(b + 1e-8) - 1  # noqa: E731
            weight = share * alpha
            slow = 0.5 ** (1 / ((1 - share) * of(b1) + share * of(b3) + 1))
        m, s, v = b1 * m + (1 - b1) * g, slow * s + (1 - slow) * g, b2 * v + (1 - b2) * g**2
        direction = (m / (1 - b1**t) + weight * s) / (np.sqrt(v / (1 - b2**t)) + eps)
        theta = theta - rate * (direction + decay * theta)
    return theta


@pytest.mark.quick(2)
@pytest.mark.parametrize("warmup", [0, 7, 100])
def test_equals_the_equations(warmup):
    random = np.random.default_rng(0)
    gradients, lr = random.normal(size=(12, 5)), 0.1 * (1 - np.arange(12) / 12)
    settings = {"b1": 0.8, "b2": 0.95, "b3": 0.99, "alpha": 3.0, "eps": 1e-3}
    expected = equations(np.ones(5), gradients, lr, **settings, warmup=warmup, decay=0.1)
    with jax.enable_x64(True):
        schedule = lambda count: jnp.asarray(lr)[count]  # noqa: E731
        tx = ademamix(schedule, **settings, warmup_steps=warmup, weight_decay=0.1)
        np.testing.assert_allclose(stacked.run(tx, jnp.float64, np.ones(5), gradients), expected, rtol=1e-12)
    schedule = lambda count: jnp.asarray(lr, jnp.float32)[count]  # noqa: E731
    tx = ademamix(schedule, **settings, warmup_steps=warmup, weight_decay=0.1)
    np.testing.assert_allclose(stacked.run(tx, jnp.float32, np.ones(5), gradients), expected, rtol=1e-4)


def test_a_slow_average_of_many_steps_is_accurate_in_float32():
    def slow(dtype):
        tx = scale_by_ademamix(b3=0.9999, warmup_steps=2000)
        state = tx.init(jnp.zeros(1, dtype))
        step = lambda state, _: (tx.update(jnp.ones(1, dtype), state)[1], None)  # noqa: E731
        return jax.lax.scan(step, state, length=3000)[0].slow

    with jax.enable_x64(True):
        exact = slow(jnp.float64)
    np.testing.assert_allclose(slow(jnp.float32), exact, rtol=1e-3)


def test_without_weight_of_the_slow_average_it_is_adam():
    gradients = np.random.default_rng(0).normal(size=(9, 4))
    found = stacked.run(ademamix(0.1, alpha=0.0), jnp.float32, np.zeros(4), gradients)
    np.testing.assert_allclose(
        found, stacked.run(optax.adam(0.1), jnp.float32, np.zeros(4), gradients), rtol=1e-5, atol=1e-7
    )


def test_without_warm_up_it_is_that_of_optax():
    gradients = np.random.default_rng(0).normal(size=(9, 4))
    given = {"b3": 0.99, "alpha": 2.0, "weight_decay": 0.1}
    found = stacked.run(ademamix(0.1, **given), jnp.float32, np.ones(4), gradients)
    theirs = stacked.run(optax.contrib.ademamix(0.1, **given), jnp.float32, np.ones(4), gradients)
    np.testing.assert_allclose(found, theirs, rtol=1e-5, atol=1e-6)


def test_the_state_is_float32_for_bfloat16_parameters():
    p = {"w": jnp.ones(3, jnp.bfloat16)}
    tx = ademamix(0.1)
    updates, state = tx.update(p, tx.init(p), p)
    assert updates["w"].dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(state[0]._replace(count=None))} == {jnp.dtype("float32")}


def test_without_gradients_and_eps_nothing_moves():
    tx, p = ademamix(0.1, eps=0.0), jnp.ones(2)
    assert tx.update(jnp.zeros(2), tx.init(p), p)[0].tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("b1", 1.0), ("b2", -0.1), ("b3", 1.0), ("alpha", -1.0), ("eps", -1.0), ("eps_root", -1.0)],
        *[("weight_decay", -1.0), ("warmup_steps", -1)],
    ],
)
def test_refuses_what_is_outside_its_domain(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be"):
        ademamix(0.1, **{name: value})
    with pytest.raises(TypeError, match=f"^{name} must be"):
        ademamix(0.1, **{name: "x"})


def _case(title, warmup):
    return parity.Case(
        title=title,
        code="pytorch.ademamix.AdEMAMix",
        home="github:apple/ml-ademamix",
        settings={
            "betas": [0.9, 0.95, 0.99],
            "alpha": 2.0,
            "beta3_warmup": warmup,
            "alpha_warmup": warmup,
            "eps": 1e-8,
            "weight_decay": 0.1,
        },
        ours=lambda rate, s: ademamix(
            rate,
            *s["betas"],
            s["alpha"],
            s["eps"],
            weight_decay=s["weight_decay"],
            warmup_steps=s["alpha_warmup"] or 0,
        ),
    )


# The sources of the golden trajectories, and our arguments for their settings.
SOURCES = {
    "ademamix": _case("AdEMAMix", None),
    "ademamix_warmup": _case("AdEMAMix, warm-up", 15),
}
