import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optimiz
from optimiz.optimizers.sqrt_size_sgd import sqrt_size_sgd
from tests.golden import parity, stacked


def rate(count):
    return 0.02 / (1 + count)


@pytest.mark.parametrize("normalize", [None, "max"])
def test_equals_the_equations_over_a_varying_rate(normalize):
    theta, gradients = stacked.arrays()
    lam, mu = 0.05, 0.8
    with jax.enable_x64(True):
        tx = sqrt_size_sgd(rate, mu, weight_decay=lam, normalize=normalize, scanned={"^stack$": 0})
        got = stacked.run(tx, jnp.float64)
    size = {"kernel": 35, "bias": 5, "stack": 24, "scale": 1}  # one layer of the stack has 6 × 4 entries
    m = gradients[0]
    for t, g in enumerate(gradients):
        for k in stacked.SHAPES:
            m[k] = mu * m[k] + (1 - mu) * g[k]
            root = np.sqrt(size[k] / (35 if normalize == "max" else 1))
            theta[k] = theta[k] - rate(t) * (root * m[k] + lam * theta[k])
    chex.assert_trees_all_close(got, theta, rtol=0, atol=1e-12)


@pytest.mark.parametrize("normalize", [None, "max"])
def test_is_sgd_sai_where_the_gradients_mean_is_zero(normalize):
    # There G is √(d - 1) by the unbiased deviation, and √d by that of the population.
    def shrunk(d):
        return np.sqrt((d - 1) / d) if normalize is None else 1.0

    rng = np.random.default_rng(1)
    params = {"a": jnp.zeros((20, 30)), "b": jnp.zeros(8)}
    g = jax.tree.map(lambda p: rng.normal(size=p.shape).astype(np.float32), params)
    g = jax.tree.map(lambda x: jnp.asarray(x - x.mean()), g)
    step, sai = (
        tx.update(g, tx.init(params), params)[0]
        for tx in (sqrt_size_sgd(normalize=normalize), optimiz.sgd_sai(normalize=normalize))
    )
    wanted = {k: u * shrunk(u.size) for k, u in step.items()}
    chex.assert_trees_all_close(sai, wanted, rtol=1e-5)


def test_layers_stacked_by_scan_train_as_they_would_alone():
    stacked.check_layers(functools.partial(sqrt_size_sgd, rate))


def test_a_scaled_gradient_beyond_its_dtype_stays_finite_and_infinity_is_seen():
    params = jnp.zeros(4, jnp.float16)
    tx = sqrt_size_sgd(1e-3, weight_decay=0.0)
    g = jnp.array([6e4, -6e4, 1.0, jnp.inf], jnp.float16)
    updates, _ = tx.update(g, tx.init(params), params)
    np.testing.assert_allclose(updates, [-65.5, 65.5, -0.002, -np.inf], rtol=1e-3)


def test_keeps_the_momentum_alone():
    params = {"a": jnp.zeros((300, 400)), "b": jnp.zeros(7)}
    state = sqrt_size_sgd().init(params)
    assert sum(x.nbytes for x in jax.tree.leaves(state)) - 4 * (300 * 400 + 7) < 64


def test_an_empty_tree_and_an_empty_block_are_left_alone():
    tx = sqrt_size_sgd(normalize="max")
    for params in ({}, {"a": jnp.zeros((0, 3))}):
        updates, _ = tx.update(params, tx.init(params), params)
        chex.assert_trees_all_equal_shapes(updates, params)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"learning_rate": float("nan")}, "learning_rate must be in"),
        ({"momentum": 1.0}, r"momentum must be in \[0, 1\), got 1.0"),
        ({"weight_decay": -0.1}, "weight_decay must be in"),
        ({"normalize": "mean"}, "normalize must be one of None, 'max', got 'mean'"),
    ],
)
def test_refuses_bad_arguments_by_name(kwargs, message):
    with pytest.raises(ValueError, match=message):
        sqrt_size_sgd(**kwargs)


def test_refuses_a_pattern_that_matches_nothing_and_a_gradient_that_does_not_fit():
    tx = sqrt_size_sgd(scanned={"^layers/": 0})
    with pytest.raises(ValueError, match="matches no parameter"):
        tx.update(jnp.ones(3), tx.init(jnp.ones(3)), jnp.ones(3))
    tx = sqrt_size_sgd(weight_decay=0.0)
    with pytest.raises(ValueError, match=r"has shape \(1,\)"):
        tx.update({"a": jnp.ones(1)}, tx.init({"a": jnp.ones(3)}))


# The sources of the golden trajectories, and our arguments for their settings.
def _equations(case, given):
    """The leaves after every step."""
    mu, decay = case.settings["momentum"], case.settings["weight_decay"]
    params = list(given["params"].values())
    momentum = [g[0] for g in given["gradients"].values()]
    for count, rate in enumerate(given["rates"]):
        if count > 0:
            latest = [g[count] for g in given["gradients"].values()]
            momentum = [mu * m + (1 - mu) * g for m, g in zip(momentum, latest, strict=True)]
        params = [p - rate * (np.sqrt(p.size) * m + decay * p) for p, m in zip(params, momentum, strict=True)]
        yield params


SOURCES = {
    "sqrt_size_sgd": parity.Case(
        title="SGD with the rate √size, the control for SGD-SaI",
        paper="none, it is a baseline",
        equations=_equations,
        home="numpy",
        settings={"momentum": 0.9, "weight_decay": 0.1},
        note="The equations of its page in NumPy: nobody has published code of it.",
        ours=lambda rate, s: optimiz.sqrt_size_sgd(rate, **s),
    )
}
