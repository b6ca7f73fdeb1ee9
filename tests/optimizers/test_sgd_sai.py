import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optimiz
from tests.golden import fixture_a, parity

# The authors' release 1.0.3 on fixture A, wd 0.1 unless said otherwise.
RELEASE = """
.985906194038 -1.98884290581 2.96648176021 .496144973938 -.0193194808003 -.967856570816
.0759835162673 -.204586826374"""
RELEASE_NO_DECAY = """
.988890729983 -1.99483078865 2.97544624607 .497642114119 -.019339198621 -.970821162221
.0762574456905 -.205191993653"""
RELEASE_VARYING = """
.983595202866 -1.98691548825 2.96014732696 .495033688712 -.0222294293853 -.961660735935
.0716745089738 -.20603641198"""
# Algorithm 1 of the paper, from its text: no code of the authors' computes it.
ALGORITHM_1 = """
.992235046523 -1.99178757763 2.98047040505 .497488973649 -.00830098092671 -.984479683962
.0865445949 -.2022774008"""


@pytest.mark.parametrize("degenerate", ["unit", "reference"])
def test_equals_the_authors_release(degenerate):
    def make(**kwargs):
        kwargs = {"learning_rate": 0.01, "weight_decay": 0.1} | kwargs
        return lambda: optimiz.sgd_sai(degenerate=degenerate, **kwargs)

    fixture_a.check(make(), RELEASE)
    fixture_a.check(make(weight_decay=0.0), RELEASE_NO_DECAY)
    fixture_a.check(make(learning_rate=fixture_a.varying), RELEASE_VARYING)


def test_max_is_algorithm_1():
    fixture_a.check(lambda: optimiz.sgd_sai(0.01, weight_decay=0.1, normalize="max"), ALGORITHM_1, f64=1e-9)


def test_equals_the_equations_over_twenty_steps_of_a_varying_rate():
    rng = np.random.default_rng(0)
    shapes = {"kernel": (7, 5), "bias": (5,), "stack": (3, 4, 2)}
    theta = {k: rng.normal(size=s) for k, s in shapes.items()}
    steps = [{k: rng.normal(size=s) + 0.1 for k, s in shapes.items()} for _ in range(20)]
    lam, mu, eps = 0.05, 0.8, 1e-8

    with jax.enable_x64(True):
        schedule = optimiz.schedules.over_steps(optimiz.schedules.cosine(0.03, floor=0.1), 20)
        tx = optimiz.sgd_sai(schedule, mu, weight_decay=lam)
        params = jax.tree.map(jnp.asarray, theta)
        state = tx.init(params)
        for g in steps:
            updates, state = tx.update(jax.tree.map(jnp.asarray, g), state, params)
            params = optax.apply_updates(params, updates)

    gain = {k: np.linalg.norm(g) / (g.std(ddof=1) + eps) for k, g in steps[0].items()}
    m = steps[0]
    for t, g in enumerate(steps):
        eta = 0.03 * (0.1 + 0.9 * (1 + np.cos(np.pi * t / 20)) / 2)
        if t > 0:
            m = {k: mu * m[k] + (1 - mu) * g[k] for k in m}
        theta = {k: (1 - lam * eta) * theta[k] - eta * gain[k] * m[k] for k in m}
    # G itself is kept in float32.
    chex.assert_trees_all_close(params, theta, rtol=0, atol=1e-6)


def test_momentum_zero_steps_along_the_gradient():
    tx = optimiz.sgd_sai(1.0, 0.0, weight_decay=0.0)
    params = jnp.zeros(2)
    state = tx.init(params)
    for g in ([1.0, -1.0], [3.0, 5.0]):
        updates, state = tx.update(jnp.array(g), state, params)
    np.testing.assert_allclose(updates, [-3.0, -5.0], rtol=1e-6)


def test_one_entry_block_is_bounded_unless_degenerate_is_reference():
    def first_step(degenerate):
        tx = optimiz.sgd_sai(1e-2, weight_decay=0.0, degenerate=degenerate)
        return float(tx.update(jnp.array([0.3]), tx.init(jnp.zeros(1)))[0][0])

    assert first_step("unit") == pytest.approx(-0.003)
    assert first_step("reference") == pytest.approx(-9.0e4, rel=1e-6)


def test_state_is_one_buffer_and_one_scalar_per_block():
    params = {"a": jnp.zeros((300, 400)), "b": jnp.zeros(7)}
    state = optimiz.sgd_sai().init(params)
    size = sum(x.nbytes for x in jax.tree.leaves(state))
    assert size - 4 * (300 * 400 + 7) < 64


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"learning_rate": float("nan")}, "learning_rate must be in"),
        ({"learning_rate": -1.0}, "learning_rate must be in .* got -1"),
        ({"momentum": 1.0}, r"momentum must be in \[0, 1\), got 1.0"),
        ({"eps": -1e-8}, "eps must be in"),
        ({"weight_decay": -0.1}, "weight_decay must be in"),
        ({"normalize": "mean"}, "normalize must be one of None, 'max', got 'mean'"),
        ({"degenerate": "safe"}, "degenerate must be one of 'unit', 'reference', got 'safe'"),
    ],
)
def test_refuses_bad_arguments_by_name(kwargs, message):
    with pytest.raises(ValueError, match=message):
        optimiz.sgd_sai(**kwargs)


def test_needs_parameters_to_decay():
    tx = optimiz.sgd_sai()
    with pytest.raises(ValueError, match="needs the parameters"):
        tx.update(jnp.ones(3), tx.init(jnp.ones(3)))


# The sources of the golden trajectories, and our arguments for their settings.
SOURCES = {
    "sgd_sai": parity.Case(
        title="SGD-SaI",
        code="sgd_sai.SGD_sai",
        home="sgd-sai",
        settings={"momentum": 0.9, "eps": 1e-8, "weight_decay": 0.1},
        note='The authors\' release; ours with degenerate="reference", for the parameter of one entry.',
        ours=lambda rate, s: optimiz.sgd_sai(rate, degenerate="reference", **s),
    )
}
