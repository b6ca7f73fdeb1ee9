"""Averages of parameters: against weights written out, torch.optim.swa_utils' numbers, and through a run."""

import chex
import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import optimiz
from optimiz import averaged_params, training
from tests.golden import fixture_c
from tests.training import tiny


def trained(tx, params, gradients, dtype=None):
    """The parameters after each update, and the last state."""
    params = jax.tree.map(lambda p: jnp.asarray(p, dtype), params)
    state, path = tx.init(params), []
    update = jax.jit(tx.update)
    for g in gradients:
        g = jax.tree.map(lambda g, p: jnp.asarray(g, p.dtype), g, params)
        updates, state = update(g, state, params)
        params = optax.apply_updates(params, updates)
        path.append(params)
    return path, state


# Five steps of Adam; torch.optim.swa_utils with equal weights, and the debiased average by hand.
GOLDEN = {
    1.0: fixture_c.golden(
        ".994776898142 -1.99511855174 2.97153994814 .48230175447 -.0265804764189 -.984821114246 1.97302406479 "
        ".233425456179",
        ".0824803646624 -.225721911387",
    ),
    0.9: fixture_c.golden(
        ".995135711747 -1.99518123522 2.96995378369 .480739217156 -.0280175662689 -.984580542915 1.97189935533 "
        ".23284104557",
        ".0819387288354 -.226662737207",
    ),
}


# timm 1.0.31, ModelEmaV3(decay=0.9, use_warmup=True, warmup_gamma=1, warmup_power=2/3), called with each step.
WARMED_UP = fixture_c.golden(
    ".995908998736 -1.99528871227 2.96652921363 .477366955127 -.0311146394454 -.984073086045 1.96948824698 "
    ".231577675537",
    ".0807821078698 -.228667236705",
)


def test_equals_the_golden_values_of_a_decay_that_warms_up():
    with jax.enable_x64(True):
        tx = optimiz.average(optimiz.adam(fixture_c.varying), 0.9, power=2 / 3)
        path, state = trained(tx, fixture_c.params(), fixture_c.gradients())
        chex.assert_trees_all_close(averaged_params(state, path[-1]), WARMED_UP, rtol=0, atol=1e-7)


@pytest.mark.parametrize("decay", [1.0, 0.8])
def test_with_power_one_it_is_the_mean_until_the_decay_is_reached(decay):
    gradients = [{"w": g} for g in np.random.default_rng(0).normal(size=(8, 3))]
    path, state = trained(
        optimiz.average(optax.sgd(0.1), decay, start=2, power=1), {"w": np.zeros(3)}, gradients
    )
    kept = np.stack([p["w"] for p in path[2:]])
    mean = kept.mean(0) if decay == 1 else 0.8 * kept[:5].mean(0) + 0.2 * kept[5]  # five updates: 1 / 0.2
    np.testing.assert_allclose(averaged_params(state, path[-1])["w"], mean, rtol=1e-5)


@pytest.mark.parametrize("decay", GOLDEN)
def test_equals_the_golden_values(decay):
    with jax.enable_x64(True):
        adam = optimiz.adam(fixture_c.varying)
        path, state = trained(optimiz.average(adam, decay), fixture_c.params(), fixture_c.gradients())
        # The weight is float32.
        chex.assert_trees_all_close(averaged_params(state, path[-1]), GOLDEN[decay], rtol=0, atol=1e-9)


@pytest.mark.parametrize(("decay", "start"), [(0.5, 0), (1.0, 0), (0.9, 3), (1.0, 4)])
def test_is_the_weighted_mean_of_the_parameters_after_the_start(decay, start):
    random = np.random.default_rng(0)
    gradients = [{"w": g} for g in random.normal(size=(7, 5))]
    path, state = trained(optimiz.average(optax.sgd(0.1), decay, start=start), {"w": np.zeros(5)}, gradients)
    kept = np.stack([p["w"] for p in path[start:]])
    weights = decay ** np.arange(len(kept))[::-1]
    np.testing.assert_allclose(averaged_params(state, path[-1])["w"], weights @ kept / weights.sum(), rtol=1e-5)


def test_until_the_start_it_is_the_parameters():
    tx, params = optimiz.average(optax.sgd(1.0), start=2), {"w": jnp.zeros(1)}
    assert averaged_params(tx.init(params), params)["w"].tolist() == [0.0]
    for n in (1, 2, 3):
        path, state = trained(tx, params, [{"w": np.ones(1)}] * n)
        assert averaged_params(state, path[-1])["w"].tolist() == [-n]


def test_for_sgd_the_mean_is_the_last_iterate_of_a_linear_decay_on_given_gradients():
    steps = 20
    gradients = [{"w": g} for g in np.random.default_rng(1).normal(size=(steps, 3))]
    path, state = trained(optimiz.average(optax.sgd(0.5), 1.0), {"w": np.zeros(3)}, gradients)
    decayed, _ = trained(optax.sgd(optax.linear_schedule(0.5, 0.0, steps)), {"w": np.zeros(3)}, gradients)
    np.testing.assert_allclose(averaged_params(state, path[-1])["w"], decayed[-1]["w"], rtol=1e-5, atol=1e-6)


def test_the_updates_and_the_state_of_the_optimizer_are_untouched():
    params, gradients = fixture_c.params(), fixture_c.gradients()
    path, state = trained(optimiz.average(optimiz.adamw(0.1)), params, gradients, jnp.float32)
    alone, state_alone = trained(optimiz.adamw(0.1), params, gradients, jnp.float32)
    chex.assert_trees_all_equal(path, alone)
    chex.assert_trees_all_equal(state.inner_state, state_alone)


def test_parameters_in_bfloat16_have_a_float32_average_of_what_they_are_rounded_to():
    steps = 300
    tx = optimiz.average(optimiz.sgd(1e-2), 0.99)
    path, state = trained(tx, {"w": np.ones(4)}, [{"w": np.ones(4)}] * steps, jnp.bfloat16)
    assert state.average["w"].dtype == jnp.float32
    kept = np.stack([np.float64(p["w"][0]) for p in path])
    weights = 0.99 ** np.arange(steps)[::-1]
    np.testing.assert_allclose(state.average["w"][0], weights @ kept / weights.sum(), rtol=1e-4)
    assert averaged_params(state, path[-1])["w"].dtype == jnp.bfloat16


def test_a_skipped_step_and_a_micro_batch_are_not_averaged():
    params = {"w": jnp.zeros(1)}
    gradients = [{"w": np.array([g])} for g in (1.0, np.nan, 1.0)]
    path, state = trained(optimiz.guard(optimiz.average(optax.sgd(1.0), 1.0), 5), params, gradients)
    assert averaged_params(state, path[-1])["w"].tolist() == [-1.5]
    path, state = trained(
        optimiz.accumulate(optimiz.average(optax.sgd(1.0), 1.0), 2), params, [{"w": np.ones(1)}] * 4
    )
    assert averaged_params(state, path[-1])["w"].tolist() == [-1.5]


def test_masked_parameters_are_returned_as_they_are():
    params = {"a": jnp.zeros(1), "b": jnp.ones(1)}
    txs = {"averaged": optimiz.average(optax.sgd(1.0), 1.0), "plain": optax.sgd(1.0)}
    tx = optax.partition(txs, {"a": "averaged", "b": "plain"})
    path, state = trained(tx, params, [{"a": np.ones(1), "b": np.ones(1)}] * 3)
    assert {name: x.tolist() for name, x in averaged_params(state, path[-1]).items()} == {"a": [-2], "b": [-2]}


@pytest.mark.parametrize("make", [optimiz.average, lambda tx: optimiz.schedule_free_sgd(0.1)])
def test_integers_are_returned_as_they_are(make):
    params = {"steps": jnp.array(123_456_789), "w": jnp.ones(1)}  # not a float32
    tx = make(optimiz.sgd(0.1))
    updates, state = tx.update(optax.tree.zeros_like(params), tx.init(params), params)
    assert averaged_params(state, optax.apply_updates(params, updates))["steps"] == 123_456_789


@pytest.mark.parametrize("tx", [optimiz.average(optax.sgd(0.1)), optimiz.schedule_free_sgd(0.1)])
def test_averages_are_read_where_flax_has_wrapped_arrays_and_refused_where_tuples_are_mappings(tx):
    model = nnx.Linear(2, 2, rngs=nnx.Rngs(0))
    optimizer, params = nnx.Optimizer(model, tx, wrt=nnx.Param), nnx.state(model, nnx.Param)
    plain = nnx.to_pure_dict(params)
    state = tx.init(plain)
    for g in (1.0, 3.0):
        optimizer.update(model, jax.tree.map(lambda p, g=g: jnp.full_like(p, g), params))
        updates, state = tx.update(jax.tree.map(lambda p, g=g: jnp.full_like(p, g), plain), state, plain)
        plain = optax.apply_updates(plain, updates)
    averages = averaged_params(optimizer.opt_state, nnx.state(model, nnx.Param))
    assert isinstance(averages, nnx.State) and isinstance(averages["bias"], nnx.Param)
    chex.assert_trees_all_close(nnx.to_pure_dict(averages), averaged_params(state, plain), rtol=1e-6)
    assert not np.allclose(averages["bias"][...], model.bias[...])
    for mapping in (nnx.state(optimizer), flax.serialization.to_state_dict(state)):
        with pytest.raises(TypeError, match="got a mapping with the fields of an average"):
            averaged_params(mapping, plain)


def test_the_average_is_stored_as_it_is_in_few_bits_around_it():
    tx = optimiz.low_bit(optimiz.average(optimiz.adam(0.1)), optimiz.Int8(), min_size=16)
    state = tx.init({"w": jnp.ones((4, 32))})
    assert state.inner_state.average["w"].dtype == jnp.float32
    assert state.inner_state.inner_state[0].mu["w"].dtype == jnp.int8


class Stop(Exception):
    """Ends a run in an evaluation."""


def test_it_is_evaluated_saved_and_returned_by_a_run_that_resumes_to_the_bit(tmp_path):
    seen, stop_at = [], None

    def evaluate(params):
        if len(seen) == stop_at:
            raise Stop
        seen.append(jax.device_get(params))
        return {"loss": 1.0}

    task = tiny.task(evaluate=evaluate)

    def fit(directory):
        tx = optimiz.average(tiny.optimizer(), 0.9)
        settings = tiny.settings(save_every=4)
        return training.fit(task, tx, settings, tmp_path / directory, identity={}, resume=True)

    whole = fit("whole")
    chex.assert_trees_all_equal(jax.device_get(whole.params), seen[-1])
    chex.assert_trees_all_equal(training.load_params(tmp_path / "whole"), whole.params)
    plain = training.fit(tiny.task(), tiny.optimizer(), tiny.settings(), tmp_path / "plain", identity={})
    assert np.any(plain.params["w1"] != whole.params["w1"])

    stop_at = len(seen) + 2
    with pytest.raises(Stop):
        fit("parts")
    stop_at = None
    chex.assert_trees_all_equal(fit("parts").params, whole.params)


def test_refuses_what_is_outside_its_domain():
    for bad in (0.0, 1.1, np.nan):
        with pytest.raises(ValueError, match=r"^decay must be"):
            optimiz.average(optax.sgd(0.1), bad)
    with pytest.raises(ValueError, match=r"^start must be"):
        optimiz.average(optax.sgd(0.1), start=-1)
    with pytest.raises(TypeError, match=r"^tx must be"):
        optimiz.average(0.9)
    with pytest.raises(TypeError, match="got the optimizer"):
        averaged_params(optax.sgd(0.1), {})


def test_refuses_what_would_change_the_update_that_it_has_averaged():
    params = {"w": jnp.zeros(2)}
    tx = optax.chain(optimiz.average(optax.sgd(0.1)), optax.scale(0.5))
    with pytest.raises(ValueError, match="average must be the last"):
        tx.update(params, tx.init(params), params)
    with pytest.raises(ValueError, match="params"):
        optimiz.average(optax.sgd(0.1)).update(params, optimiz.average(optax.sgd(0.1)).init(params))
