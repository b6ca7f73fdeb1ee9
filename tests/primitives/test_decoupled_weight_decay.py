import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optimiz

PARAMS = {"kernel": jnp.array([[4.0, -2.0]]), "bias": jnp.array([1.0, 3.0])}
ZERO = jax.tree.map(jnp.zeros_like, PARAMS)


def decayed(tx, updates=ZERO):
    return tx.update(updates, tx.init(PARAMS), PARAMS)[0]


def test_adds_the_parameters_times_the_decay():
    got = decayed(optimiz.decoupled_weight_decay(0.5), jax.tree.map(jnp.ones_like, PARAMS))
    np.testing.assert_array_equal(got["kernel"], [[3.0, 0.0]])
    np.testing.assert_array_equal(got["bias"], [1.5, 2.5])


@pytest.mark.parametrize(
    "mask",
    [
        {"kernel": True, "bias": False},
        lambda params: jax.tree.map(lambda p: p.ndim > 1, params),
        optimiz.groups.no_decay(),
        optimiz.groups.path("kernel"),
    ],
)
def test_mask_may_be_a_tree_a_function_or_a_rule(mask):
    got = decayed(optimiz.decoupled_weight_decay(0.5, mask))
    np.testing.assert_array_equal(got["kernel"], [[2.0, -1.0]])
    np.testing.assert_array_equal(got["bias"], [0.0, 0.0])


def test_decay_may_follow_a_schedule():
    tx = optimiz.decoupled_weight_decay(lambda count: jnp.asarray([0.5, 0.25])[count])
    state = tx.init(PARAMS)
    first, state = tx.update(ZERO, state, PARAMS)
    second, state = tx.update(ZERO, state, PARAMS)
    assert (float(first["bias"][0]), float(second["bias"][0])) == (0.5, 0.25)


def test_zero_is_the_identity_and_needs_no_parameters():
    tx = optimiz.decoupled_weight_decay(0.0)
    chex.assert_trees_all_equal(tx.update(PARAMS, tx.init(PARAMS), value=1.0)[0], PARAMS)


def test_a_traced_zero_works_as_well():
    got = jax.jit(lambda lam: decayed(optimiz.decoupled_weight_decay(lam)))(0.0)
    chex.assert_trees_all_equal(got, ZERO)


@pytest.mark.parametrize("number", [0.5, np.float32(0.5), np.float64(0.5), jnp.float32(0.5)])
def test_updates_keep_their_dtype_whatever_number_the_decay_is(number):
    p = jnp.ones(2, jnp.bfloat16)
    tx = optimiz.decoupled_weight_decay(number)
    assert tx.update(p, tx.init(p), p)[0].dtype == jnp.bfloat16


def test_refuses_missing_parameters_and_bad_numbers():
    tx = optimiz.decoupled_weight_decay(0.5)
    with pytest.raises(ValueError, match="needs the parameters"):
        tx.update(ZERO, tx.init(PARAMS))
    with pytest.raises(ValueError, match=r"weight_decay must be in \[0, inf\), got -0.5"):
        optimiz.decoupled_weight_decay(-0.5)
    with pytest.raises(ValueError, match=r"weight_decay must be a scalar at each step, got shape \(2,\)"):
        decayed(optimiz.decoupled_weight_decay(lambda count: jnp.ones(2)))


@pytest.mark.quick(2)
@pytest.mark.parametrize(
    ("coupling", "share"),
    [
        ("learning_rate", lambda eta: eta),
        ("schedule", lambda eta: eta / 0.5),
        ("independent", lambda eta: eta > 0),
    ],
)
def test_coupling_determines_how_the_decay_scales_with_the_learning_rate(coupling, share):
    rates = [0.0, 0.25, 0.5, 0.375, 0.25, 0.125, 0.0]
    schedule = optimiz.schedules.over_steps(optimiz.schedules.warm_up(optimiz.schedules.linear(0.5), 1 / 3), 6)
    tx = optax.chain(
        optimiz.decoupled_weight_decay(0.1, coupling=coupling, learning_rate=schedule),
        optimiz.scale_by_learning_rate(schedule),
    )
    state = tx.init(PARAMS)
    for eta in rates:
        updates, state = tx.update(ZERO, state, PARAMS)
        np.testing.assert_allclose(updates["bias"], -0.1 * share(eta) * PARAMS["bias"], rtol=1e-5, atol=1e-7)


def test_a_coupling_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match="decay_coupling must be one of 'learning_rate', 'schedule'"):
        optimiz.decoupled_weight_decay(0.1, coupling="paper")
    with pytest.raises(ValueError, match="decay_coupling 'independent' needs the learning_rate"):
        optimiz.decoupled_weight_decay(0.1, coupling="independent")
    with pytest.raises(ValueError, match="the peak of a schedule is known where"):
        optimiz.adamw(lambda count: 0.1, decay_coupling="schedule")
    with pytest.raises(ValueError, match="mask and weight_decay_mask are the same thing; give one of them"):
        optimiz.adamw(0.1, mask=True, weight_decay_mask=True)


def test_a_mask_function_that_reads_values_reads_those_of_the_parameters():
    tx = optimiz.decoupled_weight_decay(0.5, lambda params: jax.tree.map(lambda p: bool(p > 0), params))
    params = {"a": jnp.array(2.0), "b": jnp.array(-2.0)}
    updates, _ = tx.update({"a": jnp.array(-1.0), "b": jnp.array(1.0)}, tx.init(params), params)
    assert jax.tree.map(float, updates) == {"a": 0.0, "b": 1.0}
