import chex
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest

import optimiz
from tests.contract.table import avals

RNG = np.random.default_rng(0)


def drift(tx, steps=1000, start=1.0, u=-1e-4, n=64):
    """n parameters after so many equal steps, by plain apply_updates in bfloat16."""
    p = jnp.full(n, start, jnp.bfloat16)

    def step(carry, _):
        p, state = carry
        updates, state = tx.update(jnp.full(n, u, jnp.float32), state, p)
        return (optax.apply_updates(p, updates), state), None

    (p, _), _ = jax.jit(lambda p: jax.lax.scan(step, (p, tx.init(p)), length=steps))(p)
    assert p.dtype == jnp.bfloat16
    return np.asarray(p, np.float64)


def test_a_drift_below_the_resolution_arrives():
    assert np.all(drift(optax.identity()) == 1)
    arrived = drift(optimiz.stochastic_rounding(0))
    # 1000 draws of ±2⁻⁸ with probability 0.0256, and later of other sizes: a standard deviation of 0.02 each.
    assert abs(arrived.mean() - 0.9) < 4 * 0.02 / 8
    assert 0.005 < arrived.std() < 0.04


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("ratio", [1e-3, 0.1])
def test_plain_apply_updates_lands_on_a_neighbour_in_every_draw_and_on_the_sum_in_the_mean(dtype, ratio):
    p = jnp.full(200_000, 1.7, dtype)
    u = jnp.full(200_000, 1.7 * ratio * 1.23, jnp.float32)
    tx = optimiz.stochastic_rounding(3)
    updates, _ = jax.jit(tx.update)(u, tx.init(p), p)
    assert updates.dtype == dtype
    landed = np.asarray(optax.apply_updates(p, updates), np.float64)
    target = float(p[0]) + float(u[0])
    numpy_dtype = ml_dtypes.bfloat16 if dtype == jnp.bfloat16 else np.float16
    near = np.float64(np.float32(target).astype(numpy_dtype))
    gap = np.ptp(landed)
    assert set(np.abs(np.unique(landed) - near) / gap) <= {0.0, 1.0} and len(np.unique(landed)) == 2
    share = (target - landed.min()) / gap
    assert abs(landed.mean() - target) < 4 * gap * np.sqrt(share * (1 - share) / 200_000)


def test_each_update_each_parameter_and_each_key_has_its_own_noise():
    p = {"a": jnp.ones(1000, jnp.bfloat16), "b": jnp.ones(1000, jnp.bfloat16)}
    u = jax.tree.map(lambda x: jnp.full(1000, 2.0**-8, jnp.float32), p)
    tx = optimiz.stochastic_rounding(0)
    first, state = tx.update(u, tx.init(p), p)
    second, _ = tx.update(u, state, p)
    other, _ = optimiz.stochastic_rounding(1).update(u, tx.init(p), p)  # the state has the key
    draws = [first["a"], first["b"], second["a"], second["b"]]
    correlations = np.corrcoef(np.asarray(jnp.stack(draws), np.float64))[np.triu_indices(4, 1)]
    assert np.all(np.abs(correlations) < 0.15)
    chex.assert_trees_all_equal(other, first)
    state = optimiz.stochastic_rounding(1).init(p)
    assert np.any(optimiz.stochastic_rounding(1).update(u, state, p)[0]["a"] != first["a"])


def test_a_run_goes_on_from_its_state_and_a_key_is_a_key_in_any_form():
    p = jnp.ones(100, jnp.bfloat16)
    u = jnp.full(100, 0.002, jnp.float32)
    forms = [5, jax.random.key(5, impl="threefry2x32"), jax.random.PRNGKey(5)]
    outcomes = []
    for key in forms:
        tx = optimiz.stochastic_rounding(key)
        _, state = tx.update(u, tx.init(p), p)
        assert state.key.dtype == jnp.uint32 and state.count.dtype == jnp.int32
        outcomes.append(jax.jit(tx.update)(u, jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), state), p))
    chex.assert_trees_all_equal(outcomes[0], outcomes[1], outcomes[2])


def test_parameters_of_32_bits_and_others_pass():
    p = {"f": jnp.ones(2), "c": jnp.ones(2, jnp.complex64), "i": jnp.ones(2, jnp.int32), "n": None}
    u = {"f": jnp.full(2, 1e-9), "c": jnp.full(2, 1j, jnp.complex64), "i": jnp.ones(2, jnp.int32), "n": None}
    tx = optimiz.stochastic_rounding(0)
    updates, _ = tx.update(u, tx.init(p), p)
    chex.assert_trees_all_equal(updates, u)
    masked, _ = tx.update({"f": optax.MaskedNode()}, tx.init(p), {"f": optax.MaskedNode()})
    assert masked == {"f": optax.MaskedNode()}


@pytest.mark.long
def test_it_goes_last_in_a_chain_and_keeps_its_types():
    p = {"w": jnp.ones((8, 8), jnp.bfloat16), "b": jnp.ones(8)}
    tx = optax.chain(optimiz.adamw(1e-3), optimiz.stochastic_rounding(0))
    state = tx.init(p)
    updates, after = jax.jit(tx.update)(p, state, p, value=jnp.float32(1))
    chex.assert_trees_all_equal_dtypes(updates, p)
    assert avals(after) == avals(state)
    structs = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), p)
    assert avals(tx.init(structs)) == avals(state)
    replicas = jax.vmap(lambda p, s: tx.update(p, s, p)[0])(
        *jax.tree.map(lambda x: jnp.stack([x, x]), (p, state))
    )
    np.testing.assert_array_equal(replicas["w"][0], replicas["w"][1])


def test_what_is_not_finite_is_seen():
    p = jnp.ones(2, jnp.bfloat16)
    tx = optimiz.stochastic_rounding(0)
    updates, _ = tx.update(jnp.array([jnp.nan, jnp.inf]), tx.init(p), p)
    assert np.isnan(updates[0]) and np.isinf(updates[1])


def test_refuses_a_bad_key_missing_parameters_and_another_shape():
    with pytest.raises(TypeError, match="key"):
        optimiz.stochastic_rounding("0")
    with pytest.raises(ValueError, match="key"):
        optimiz.stochastic_rounding(-1)
    tx, p = optimiz.stochastic_rounding(0), {"w": jnp.ones(3, jnp.bfloat16)}
    with pytest.raises(ValueError, match="needs the parameters"):
        tx.update(p, tx.init(p))
    with pytest.raises(ValueError, match=r"update at \['w'\] has shape \(1,\)"):
        tx.update({"w": jnp.ones(1)}, tx.init(p), p)
