import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optimiz import groups
from optimiz.optimizers.lamb import lamb
from tests.golden import fixture_a, parity, stacked

# Fixture A, wd 0.1, the equations in float64 and Optax 0.2.8.
GOLDEN = """
.986912348367 -1.99296925685 2.93324700313 .463138712614 -.0586270857821 -.971906660202
.0954037637872 -.203003024463"""


def rate(count):
    return 0.02 / (1 + count)


def test_equals_the_golden_row():
    fixture_a.check(lambda: lamb(0.01, weight_decay=0.1), GOLDEN)


def test_equals_the_equations_over_a_varying_rate():
    theta, gradients = stacked.arrays()
    lam, b1, b2, eps, low, high = 0.05, 0.8, 0.95, 1e-6, 0.7, 4.0
    with jax.enable_x64(True):
        tx = lamb(
            rate,
            b1,
            b2,
            eps,
            weight_decay=lam,
            min_norm=low,
            max_norm=high,
            mask={k: k != "bias" for k in stacked.SHAPES},
        )
        got = stacked.run(tx, jnp.float64)
    assert np.linalg.norm(theta["kernel"]) > high and abs(theta["scale"]) < low  # both bounds are met
    m, v = ({k: np.zeros(s) for k, s in stacked.SHAPES.items()} for _ in range(2))
    for t, g in enumerate(gradients, 1):
        for k in stacked.SHAPES:
            m[k] = b1 * m[k] + (1 - b1) * g[k]
            v[k] = b2 * v[k] + (1 - b2) * g[k] ** 2
            r = m[k] / (1 - b1**t) / (np.sqrt(v[k] / (1 - b2**t)) + eps) + lam * (k != "bias") * theta[k]
            phi = min(max(np.sqrt(np.sum(theta[k] ** 2)), low), high)
            theta[k] = theta[k] - rate(t - 1) * phi / np.sqrt(np.sum(r**2)) * r
    chex.assert_trees_all_close(got, theta, rtol=0, atol=1e-12)


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"b1": 0.0, "eps_root": 1e-3},
        {"weight_decay": 0.1, "mask": {k: k == "kernel" for k in stacked.SHAPES}},
    ],
)
def test_is_a_drop_in_for_optax(kwargs):
    stacked.check_drop_in(lambda _: lamb(rate, **kwargs), lambda _: optax.lamb(rate, **kwargs))


def test_what_the_mask_spares_steps_as_adam():
    params = {"kernel": jnp.full((2, 2), 3.0), "bias": jnp.full(2, 3.0)}
    tx = lamb(0.1, trust_ratio_mask=groups.no_decay())
    updates, _ = tx.update(params, tx.init(params), params)
    np.testing.assert_allclose(updates["bias"], -0.1, rtol=1e-5)
    np.testing.assert_allclose(updates["kernel"], -0.3, rtol=1e-5)  # ratio 6 / 2


def test_layers_stacked_by_scan_train_as_they_would_alone():
    stacked.check_layers(functools.partial(lamb, rate, weight_decay=0.1))


def test_parameters_at_zero_move_as_those_of_adam():
    params = jnp.zeros(2)
    tx = lamb(0.1)
    updates, _ = tx.update(jnp.array([2.0, -3.0]), tx.init(params), params)
    np.testing.assert_allclose(updates, [-0.1, 0.1], rtol=1e-5)


def test_a_gradient_of_zero_with_decay_shrinks_by_the_rate():
    # r is λ θ and the ratio 1 / λ: the layer-wise step has the length η ‖θ‖ whatever λ is.
    params = jnp.array([3.0, -4.0])
    for weight_decay in (0.1, 0.5):
        tx = lamb(0.1, weight_decay=weight_decay)
        updates, _ = tx.update(jnp.zeros(2), tx.init(params), params)
        np.testing.assert_allclose(updates, -0.1 * params, rtol=1e-6)


def test_a_huge_gradient_does_no_lasting_harm():
    def last_update(tx):
        params = jnp.ones(2)
        state = tx.init(params)
        update = jax.jit(tx.update)
        for g in [1e30] + [1.0] * 1000:
            updates, state = update(jnp.full(2, g), state, params)
        return np.asarray(updates)

    np.testing.assert_allclose(last_update(lamb(1e-3, b2=0.9)), -1e-3, rtol=1e-4)
    theirs = last_update(optax.lamb(1e-3, b2=0.9))
    assert not np.isfinite(theirs).all() or (theirs == 0).all()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"learning_rate": float("nan")}, "learning_rate must be in"),
        ({"b1": 1.0}, r"b1 must be in \[0, 1\), got 1.0"),
        ({"b2": -0.1}, "b2 must be in"),
        ({"eps": -1e-8}, "eps must be in"),
        ({"weight_decay": -0.1}, "weight_decay must be in"),
        ({"min_norm": -1.0}, "min_norm must be in"),
        ({"min_norm": 2.0, "max_norm": 1.0}, "max_norm must be in"),
        ({"mask": True, "weight_decay_mask": True}, "give one of them"),
    ],
)
def test_refuses_bad_arguments_by_name(kwargs, message):
    with pytest.raises(ValueError, match=message):
        lamb(**({"learning_rate": 1e-3} | kwargs))


def test_needs_the_parameters():
    tx = lamb(1e-3)
    with pytest.raises(ValueError, match="needs the parameters"):
        tx.update(jnp.ones(3), tx.init(jnp.ones(3)))


# The sources of the golden trajectories, and our arguments for their settings.
SOURCES = {
    "lamb": parity.Case(
        title="LAMB",
        code="timm.optim.Lamb",
        home="timm",
        settings=parity.MOMENTS | {"eps": 1e-6, "max_grad_norm": None},
        ours=lambda rate, s: lamb(rate, weight_decay=s["weight_decay"], **parity.moments(s)),
    )
}
