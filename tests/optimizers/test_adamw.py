import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optimiz
from tests.golden import fixture_a, parity

# PyTorch 2.13 Adam and AdamW on fixture A.
ADAM = """
.993495546404 -1.99781754772 2.97870850787 .487935488839 -.0249186820648 -.987321713732
.0838723986765 -.218563799806"""
ADAM_L2 = """
.985124896344 -1.97586574152 2.97242566124 .476459561531 -.0248828926736 -.982697435259
.0834034513781 -.217676893005"""
ADAMW = """
.990516058385 -1.99183987469 2.96974580084 .486444429707 -.0248919914832 -.98434815879
.0835961446345 -.217935231797"""
ADAMW_VARYING = """
.991989312529 -1.99242865388 2.96143908446 .481064883197 -.0274785236225 -.980008714441
.0814309078136 -.227315147564"""


def test_equals_pytorch():
    fixture_a.check(lambda: optimiz.adamw(0.01, weight_decay=0.0), ADAM)
    fixture_a.check(lambda: optimiz.adamw(0.01, weight_decay=0.1), ADAMW)
    fixture_a.check(lambda: optimiz.adamw(fixture_a.varying, weight_decay=0.1), ADAMW_VARYING)
    fixture_a.check(
        lambda: optax.chain(optax.add_decayed_weights(0.1), optimiz.adamw(0.01, weight_decay=0.0)),
        ADAM_L2,
    )


@pytest.mark.quick(2)
@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"b1": 0.0},
        {"eps_root": 1e-3},
        {"nesterov": True},
        {"weight_decay": optax.linear_schedule(0.1, 0, 3)},
    ],
)
def test_is_a_drop_in_for_optax(kwargs):
    ours = fixture_a.after_three_steps(optimiz.adamw(0.01, **kwargs), jnp.float32)[0]
    theirs = fixture_a.after_three_steps(optax.adamw(0.01, **kwargs), jnp.float32)[0]
    chex.assert_trees_all_close(ours, theirs, rtol=0, atol=1e-6)
    with jax.enable_x64(True):
        ours, theirs = (fixture_a.after_three_steps(m.adamw(0.01, **kwargs))[0] for m in (optimiz, optax))
        chex.assert_trees_all_close(ours, theirs, rtol=0, atol=1e-12)


def test_mask_takes_the_group_rule():
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    tx = optimiz.adamw(0.1, weight_decay=0.5, mask=optimiz.groups.no_decay())
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    np.testing.assert_allclose(updates["kernel"], -0.05, rtol=1e-6)
    np.testing.assert_array_equal(updates["bias"], 0)


def test_second_moment_decays_in_bfloat16_where_that_of_optax_does_not():
    params = jnp.zeros(1, jnp.bfloat16)

    def after_silence(tx):
        state = tx.init(params)
        update = jax.jit(lambda g, s: tx.update(g, s, params)[1])
        for _ in range(300):
            state = update(jnp.ones(1, jnp.bfloat16), state)
        before = float(state[0].nu[0])
        for _ in range(3000):
            state = update(jnp.zeros(1, jnp.bfloat16), state)
        return before, float(state[0].nu[0])

    before, after = after_silence(optimiz.adamw(1e-3))
    assert (round(before, 4), round(after, 4)) == (0.2593, 0.0129)
    before, after = after_silence(optax.adamw(1e-3))
    assert before == after


def test_a_huge_gradient_does_no_lasting_harm():
    def last_update(tx):
        params = jnp.zeros(1)
        state, update = tx.init(params), jax.jit(tx.update)
        for g in [1e30] + [1.0] * 2000:
            updates, state = update(jnp.array([g]), state, params)
        return float(updates[0]), state

    update, state = last_update(optimiz.adamw(1e-3, b2=0.9))
    assert np.isfinite(state[0].nu[0])
    assert update == pytest.approx(-1e-3, rel=0.05)
    update, state = last_update(optax.adamw(1e-3, b2=0.9))
    assert np.isinf(state[0].nu[0]) and update == 0.0


def test_eps_zero_leaves_a_coordinate_without_gradient_where_it_is():
    tx = optimiz.adamw(0.1, eps=0.0, weight_decay=0.0)
    updates, _ = tx.update(jnp.array([0.0, 2.0]), tx.init(jnp.zeros(2)))
    np.testing.assert_allclose(updates, [0.0, -0.1], rtol=1e-5)


def test_a_nan_gradient_stays_visible():
    tx = optimiz.adamw(0.1, weight_decay=0.0)
    for bad in (jnp.nan, jnp.inf):
        updates, _ = tx.update(jnp.array([bad]), tx.init(jnp.zeros(1)))
        assert not np.isfinite(updates[0])


@pytest.mark.parametrize("name", ["b1", "b2"])
@pytest.mark.parametrize("bad", [1.0, -0.1, float("nan")])
def test_refuses_a_beta_outside_its_domain(name, bad):
    with pytest.raises(ValueError, match=rf"{name} must be in \[0, 1\)"):
        optimiz.adamw(1e-3, **{name: bad})
    optax.adamw(1e-3, **{name: bad})  # which Optax accepts


def test_refuses_a_number_given_as_text():
    with pytest.raises(TypeError, match="learning_rate must be a number, got '1e-3' of type str"):
        optimiz.adamw("1e-3")


def test_an_update_has_a_derivative_at_zero_with_eps_root():
    def moved(gradient, eps_root):
        tx = optimiz.adamw(0.1, eps_root=eps_root, weight_decay=0.0)
        return tx.update(gradient, tx.init(gradient), gradient)[0]

    # √x has none at zero; beside ε_root the first update is -0.1 g / √(g² + ε_root), of slope -0.1 / √ε_root.
    assert np.isnan(jax.grad(moved)(jnp.float32(0), 0.0))
    np.testing.assert_allclose(jax.grad(moved)(jnp.float32(0), 1e-4), -10.0, rtol=1e-5)


def test_a_beta_that_bfloat16_rounds_to_one_is_refused_and_float32_is_taken():
    params = jnp.ones(2, jnp.bfloat16)
    injected = optax.inject_hyperparams(optimiz.adamw)
    with pytest.raises(ValueError, match=r"b2 must be in \[0, 1\), got 1"):
        injected(0.1, b2=0.999).init(params)
    tx = optax.inject_hyperparams(optimiz.adamw, hyperparam_dtype=jnp.float32)(0.1, b2=0.999, weight_decay=0.0)
    updates, _ = tx.update(params, tx.init(params), params)
    np.testing.assert_allclose(updates.astype(jnp.float32), -0.1, rtol=4e-3)
    assert updates.dtype == jnp.bfloat16


# The sources of the golden trajectories, and our arguments for their settings.
SOURCES = {
    "adamw": parity.Case(
        title="AdamW",
        code="torch.optim.AdamW",
        home="torch",
        settings=parity.MOMENTS,
        ours=lambda rate, s: optimiz.adamw(rate, weight_decay=s["weight_decay"], **parity.moments(s)),
    )
}
