import chex
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest

import optimiz
from tests.contract.table import avals
from tests.primitives.test_stochastic_rounding import drift

RNG = np.random.default_rng(0)


def test_a_drift_below_the_resolution_arrives_to_within_one_rounding():
    arrived = drift(optimiz.kahan())
    assert np.all(np.abs(arrived - 0.9) < 2.0**-8) and np.ptp(arrived) == 0


def by_loop(p, updates):
    """The equations in NumPy's own bfloat16."""
    c = np.zeros_like(p)
    for u in updates:
        y = u.astype(np.float32) + c.astype(np.float32)
        step = y.astype(p.dtype)
        landed = p + step
        c = (y - (landed.astype(np.float32) - p.astype(np.float32))).astype(p.dtype)
        p = landed
    return p, c


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16])
def test_it_follows_its_equations_bit_for_bit_under_jit(dtype):
    p = RNG.normal(size=500).astype(dtype)
    updates = (RNG.normal(size=(50, 500)) * RNG.lognormal(mean=-5, sigma=3, size=500)).astype(np.float32)
    wanted = by_loop(p, updates)
    tx = optimiz.kahan()
    ours, state = jnp.asarray(p), tx.init(jnp.asarray(p))
    for u in updates:
        step, state = jax.jit(tx.update)(jnp.asarray(u), state, ours)
        ours = optax.apply_updates(ours, step)
    np.testing.assert_array_equal(np.asarray(ours, np.float32), wanted[0].astype(np.float32))
    np.testing.assert_array_equal(np.asarray(state.compensation, np.float32), wanted[1].astype(np.float32))


def test_parameter_and_compensation_together_are_the_float32_sum():
    p = RNG.normal(size=500).astype(ml_dtypes.bfloat16)
    updates = RNG.normal(size=(1000, 500)).astype(np.float32) * 1e-4
    tx = optimiz.kahan()

    def step(carry, u):
        p, state = carry
        d, state = tx.update(u, state, p)
        return (optax.apply_updates(p, d), state), None

    (ours, state), _ = jax.lax.scan(step, (jnp.asarray(p), tx.init(jnp.asarray(p))), updates)
    exact = p.astype(np.float64) + updates.sum(0, dtype=np.float64)
    together = np.asarray(ours, np.float64) + np.asarray(state.compensation, np.float64)
    assert np.abs(together - exact).max() < 5e-4
    assert np.abs(np.asarray(ours, np.float64) - exact).max() < 0.01


def test_float32_is_compensated_too():
    p = jnp.full(1, 2.0**10)
    tx = optimiz.kahan()
    state = tx.init(p)
    for _ in range(4096):
        d, state = jax.jit(tx.update)(jnp.full(1, 2.0**-15), state, p)
        p = optax.apply_updates(p, d)
    assert float(p[0]) == 2.0**10 + 0.125


def test_in_few_bits_around_the_chain_the_state_keeps_its_types():
    p = jnp.ones(3, jnp.bfloat16)
    tx = optimiz.low_bit(optax.chain(optimiz.sgd(0.1), optimiz.kahan()), optimiz.Int8())
    state = tx.init(p)  # as for float32 parameters, also of an array that stays as it is
    _, after = tx.update(p, state, p)
    assert avals(after) == avals(state)


def test_containers_types_and_states_come_back():
    p = {"w": jnp.ones((2, 3), jnp.bfloat16), "b": jnp.ones(3), "n": None, "m": optax.MaskedNode()}
    tx = optax.chain(optimiz.adamw(1e-3), optimiz.kahan())
    state = tx.init(p)
    updates, after = jax.jit(tx.update)(p, state, p)
    chex.assert_trees_all_equal_shapes_and_dtypes(updates, p)
    assert avals(after) == avals(state)
    assert after[1].compensation["w"].dtype == jnp.bfloat16


def test_a_step_that_is_not_finite_is_seen_and_leaves_no_trace():
    p = jnp.ones(2, jnp.bfloat16)
    tx = optimiz.kahan()
    updates, state = tx.update(jnp.array([jnp.nan, jnp.inf]), tx.init(p), p)
    assert np.isnan(updates[0]) and np.isinf(updates[1])
    assert np.all(np.asarray(state.compensation, np.float32) == 0)


def test_refuses_missing_parameters_and_another_shape():
    tx, p = optimiz.kahan(), {"w": jnp.ones(3, jnp.bfloat16)}
    with pytest.raises(ValueError, match="needs the parameters"):
        tx.update(p, tx.init(p))
    with pytest.raises(ValueError, match=r"update at \['w'\] has shape \(1,\)"):
        tx.update({"w": jnp.ones(1)}, tx.init(p), p)
