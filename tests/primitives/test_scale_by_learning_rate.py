import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optimiz


def test_schedule_reads_a_zero_based_count_and_the_state_keeps_the_rate():
    tx = optimiz.scale_by_learning_rate(lambda count: 1.0 / (1.0 + count))
    state = tx.init(jnp.zeros(1))
    assert float(state.rate) == 1.0
    for wanted in (1.0, 0.5, 1 / 3):
        updates, state = tx.update(jnp.ones(1), state)
        assert float(updates[0]) == pytest.approx(-wanted)
        assert float(state.rate) == pytest.approx(wanted)


NUMBERS = [0.5, np.float32(0.5), np.float64(0.5), jnp.float32(0.5), jnp.bfloat16(0.5)]


@pytest.mark.parametrize("number", NUMBERS, ids=lambda n: type(n).__name__)
@pytest.mark.parametrize("param", [jnp.bfloat16, jnp.float16, jnp.float32])
@pytest.mark.parametrize("gradient", [jnp.bfloat16, jnp.float32])
def test_updates_have_the_parameters_dtype(number, param, gradient):
    tx = optimiz.scale_by_learning_rate(number)
    params = jnp.zeros(2, param)
    updates, _ = tx.update(jnp.ones(2, gradient), tx.init(params), params)
    assert updates.dtype == param
    np.testing.assert_array_equal(updates, -0.5)


def test_optax_lets_an_array_rate_promote_the_updates():
    g = jnp.ones(2, jnp.bfloat16)
    tx = optax.scale_by_learning_rate(jnp.float32(0.5))
    assert tx.update(g, tx.init(g), g)[0].dtype == jnp.float32


def test_float64_parameters_get_the_rate_in_full():
    with jax.enable_x64(True):
        params = jnp.zeros(1)
        tx = optimiz.scale_by_learning_rate(0.1)
        updates, state = tx.update(jnp.ones(1), tx.init(params), params)
        assert float(updates[0]) == -0.1
        assert state.rate.dtype == jnp.float32


def test_counter_saturates():
    tx = optimiz.scale_by_learning_rate(0.1)
    last = jnp.int32(2**31 - 1)
    state = tx.init(jnp.zeros(1))._replace(count=last)
    assert int(tx.update(jnp.ones(1), state)[1].count) == last


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -0.1, np.float32(-1), jnp.float32(jnp.nan)])
def test_refuses_a_bad_rate(bad):
    with pytest.raises(ValueError, match=r"learning_rate must be in \[0, inf\), got"):
        optimiz.scale_by_learning_rate(bad)


@pytest.mark.parametrize("bad", ["0.1", None, True, [0.1]])
def test_refuses_what_is_no_number(bad):
    with pytest.raises(TypeError, match="learning_rate must be a number"):
        optimiz.scale_by_learning_rate(bad)


def test_a_traced_rate_passes():
    def first_step(rate):
        tx = optimiz.scale_by_learning_rate(rate)
        return tx.update(jnp.ones(1), tx.init(jnp.ones(1)))[0]

    np.testing.assert_allclose(jax.vmap(first_step)(jnp.array([0.5, 2.0])), [[-0.5], [-2.0]])


def test_refuses_a_gradient_of_another_shape_and_a_rate_that_is_no_scalar():
    tx = optimiz.scale_by_learning_rate(0.1)
    params = {"w": jnp.zeros(4)}
    with pytest.raises(ValueError, match=r"gradient at \['w'\] has shape \(1,\), but the parameter has"):
        tx.update({"w": jnp.zeros(1)}, tx.init(params), params)
    tx = optimiz.scale_by_learning_rate(lambda count: jnp.ones(2))
    with pytest.raises(ValueError, match=r"learning_rate must be a scalar at each step, got shape"):
        tx.init(params)


@pytest.mark.quick(4)
@pytest.mark.parametrize(
    "name",
    ["adafactor", "adam", "adamax", "adamaxw", "adamw", "amsgrad", "lamb", "lion", "nadam", "nadamw"],
)
def test_there_is_one_count_where_optax_has_one(name):
    params = {"w": jnp.ones((4, 3))}
    for tx in (getattr(optimiz, name)(0.1), getattr(optax, name)(0.1)):
        state = tx.init(params)
        for _ in range(2):
            _, state = tx.update(params, state, params)
        assert optax.tree.get(state, "count") == 2
        assert optax.tree.get(optax.tree.set(state, count=7), "count") == 7


@pytest.mark.parametrize("rate", [0.1, optax.constant_schedule(0.1)])
def test_a_state_has_the_paths_that_saved_files_have(rate):
    state = optimiz.adamw(rate).init({"w": jnp.ones(2)})
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(state)]
    assert paths == ["[0].count", "[0].mu['w']", "[0].nu['w']", "[2].count", "[2].rate"]
    readings = optimiz.hyperparams(state)
    assert readings.keys() == {"count", "learning_rate"}
