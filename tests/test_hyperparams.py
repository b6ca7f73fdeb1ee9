from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
import pytest

import optimiz
from optimiz import groups, schedules
from optimiz.hyperparams import hyperparams
from optimiz.primitives.accumulate import accumulate
from optimiz.primitives.clip_by_global_norm import clip_by_global_norm
from optimiz.primitives.guard import guard

PARAMS = {"head": {"w": jnp.array([3.0, 4.0])}, "stem": {"count": jnp.array(1.0)}}
SCHEDULE = schedules.over_steps(schedules.linear(0.5), 5)


def read(tx, steps=2, params=PARAMS, gradient=None):
    state = tx.init(params)
    for _ in range(steps):
        _, state = tx.update(params if gradient is None else gradient, state, params)
    return {name: round(float(value), 4) for name, value in hyperparams(state).items()}


@pytest.mark.parametrize(
    "make",
    [
        optimiz.adamw,
        optimiz.lion,
        optimiz.sgd,
        optimiz.sgd_sai,
        optimiz.sign_sgd,
        optimiz.signum,
    ],
)
def test_reads_the_rate_that_was_used_and_the_count(make):
    assert read(make(SCHEDULE), steps=0) == {"count": 0, "learning_rate": 0.5}
    assert read(make(SCHEDULE), steps=2) == {"count": 2, "learning_rate": 0.4}


def test_reads_all_the_way_in():
    tx = guard(optax.chain(clip_by_global_norm(1.0), accumulate(optimiz.adamw(SCHEDULE), 2)), 3)
    assert read(tx, steps=3, params={"w": jnp.array([3.0, 4.0])}) == {
        "skipped": 0,
        "skipped_in_a_row": 0,
        "global_norm": 5,
        "micro_step": 1,
        "count": 1,
        "learning_rate": 0.5,
    }
    readings = read(tx, gradient=jax.tree.map(lambda p: p * jnp.nan, PARAMS))
    assert (readings["skipped"], readings["skipped_in_a_row"], readings["count"]) == (2, 2, 0)


def test_groups_go_by_their_labels():
    labels = groups.label({"head": groups.path("^head"), "stem": groups.path("^stem")})
    tx = optax.partition({"head": optimiz.adamw(SCHEDULE), "stem": optimiz.sgd(0.1)}, labels)
    assert read(tx) == {
        "head/count": 2,
        "head/learning_rate": 0.4,
        "stem/count": 2,
        "stem/learning_rate": 0.1,
    }
    frozen = groups.freeze(optimiz.adamw(SCHEDULE), groups.path("^stem"))
    assert read(frozen) == {"trained/count": 2, "trained/learning_rate": 0.4}
    named = optax.named_chain(("clip", clip_by_global_norm(1.0)), ("sgd", optimiz.sgd(0.1)))
    assert read(named, 1) == {"clip/global_norm": 5.099, "sgd/count": 1, "sgd/learning_rate": 0.1}


def test_a_chain_of_masked_optimizers_shows_both_rates_and_one_count():
    head = {"head": True, "stem": False}
    tx = optax.chain(
        optax.masked(optimiz.sgd(SCHEDULE), head),
        optax.masked(optimiz.sgd(0.1), jax.tree.map(lambda yes: not yes, head)),
    )
    assert read(tx) == {"count": 2, "0/learning_rate": 0.4, "1/learning_rate": 0.1}


def test_injected_hyperparams_are_shown_as_they_are_set():
    tx = optax.inject_hyperparams(optimiz.adamw)(SCHEDULE, weight_decay=0.01)
    readings = read(tx)
    assert readings["count"] == 2 and readings["learning_rate"] == 0.4 and readings["weight_decay"] == 0.01
    assert {"b1", "b2", "eps", "eps_root"} < readings.keys()
    assert not [name for name in readings if "/" in name]
    tx = optax.inject_hyperparams(optimiz.sgd)(0.5)
    state = tx.init(PARAMS)
    state.hyperparams["learning_rate"] = 0.25
    assert hyperparams(state)["learning_rate"] == 0.25


def test_optax_finds_and_sets_the_injected_rate_by_its_name():
    tx = optax.inject_hyperparams(optimiz.adamw)(0.5)
    state = optax.tree.set(tx.init(PARAMS), learning_rate=0.25)
    assert optax.tree.get(state, "learning_rate") == 0.25 == hyperparams(state)["learning_rate"]


def test_reads_the_states_of_optax_too():
    tx = optax.MultiSteps(optax.apply_if_finite(optax.adam(SCHEDULE), 3), 2)
    readings = read(tx, steps=3)
    assert readings == {
        "mini_step": 1,
        "gradient_step": 1,
        "notfinite_count": 0,
        "total_notfinite": 0,
        "count": 1,
    }


class Weights(NamedTuple):
    count: jax.Array
    learning_rate: jax.Array


@pytest.mark.parametrize(
    "params", [Weights(jnp.ones([]), jnp.ones([])), [jnp.ones([])], {"nu": jnp.ones([])}, {}]
)
def test_parameters_are_not_taken_for_readings(params):
    assert read(optimiz.adamw(0.5), 1, params) == {"count": 1, "learning_rate": 0.5}


def test_keys_flags_and_stateless_transformations_are_no_readings():
    assert hyperparams(optax.EmptyState()) == {}
    noisy = optax.chain(optax.add_noise(0.1, 0.5, jax.random.key(0)), optax.identity())
    assert read(noisy, 1) == {"count": 1}


def test_may_be_traced():
    tx = optimiz.adamw(SCHEDULE)

    @jax.jit
    def step(state):
        return hyperparams(tx.update(PARAMS, state, PARAMS)[1])

    readings = step(tx.init(PARAMS))
    assert (int(readings["count"]), float(readings["learning_rate"])) == (1, 0.5)
