import dataclasses
from typing import Any, NamedTuple

import flax.core
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx, serialization
from flax.training.train_state import TrainState

import optimiz
from optimiz import diagnostics, groups, schedules
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


# --- who keeps a state may wrap its arrays, and make mappings of its tuples ------------------------------

KEPT = {
    "adamw": optimiz.adamw(0.5),
    "adafactor": optimiz.adafactor(0.1),
    "sophia_h": optimiz.sophia_h(0.1),
    "salsa": optimiz.salsa(),
    "guard": guard(optimiz.adamw(0.5), 2),
    "accumulate": accumulate(guard(optimiz.adamw(0.5), 2), 2),
    "low_bit": optimiz.low_bit(optimiz.adamw(0.5), optimiz.Int8(), min_size=1),
    "inject_hyperparams": optax.inject_hyperparams(optimiz.adamw)(0.5),
    "partition": optax.partition(
        {"a": optimiz.adamw(0.5), "b": optimiz.sgd(0.1)},
        groups.label({"a": groups.path("bias"), "b": groups.everything}),
    ),
    "masked": optax.masked(optimiz.adamw(0.5), groups.path("bias")),
    "freeze": groups.freeze(optimiz.adamw(0.5), groups.path("bias")),
    "named_chain": optax.named_chain(("clip", clip_by_global_norm(1.0)), ("sgd", optimiz.sgd(0.1))),
    "two": optax.chain(
        optax.masked(optimiz.sgd(0.2), groups.path("bias")),
        optax.masked(optimiz.sgd(0.1), groups.path("kernel")),
    ),
    "MultiSteps": optax.MultiSteps(optimiz.adamw(0.4), 2),
    "probe": optax.chain(diagnostics.probe(every=1), optimiz.adamw(0.5)),
    "stochastic_rounding": optax.chain(optimiz.sgd(0.1), optimiz.stochastic_rounding(0)),
}


@dataclasses.dataclass
class Trained:
    """What a loop of one's own keeps, as an Equinox module would."""

    step: jax.Array
    params: Any
    opt_state: Any


jax.tree_util.register_dataclass(Trained)


def plain(node):
    """As a checkpoint gives back what it knows no classes of."""
    if hasattr(node, "_asdict"):
        return {name: plain(x) for name, x in node._asdict().items()}
    if isinstance(node, dict):
        return {name: plain(x) for name, x in node.items()}
    return [plain(x) for x in node] if isinstance(node, tuple | list) else node


@pytest.mark.parametrize("tx", KEPT.values(), ids=KEPT)
def test_reads_every_container_of_a_state_alike(tx):
    model = nnx.Linear(2, 2, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    params = {"bias": jnp.ones(2), "kernel": jnp.ones((2, 2))}
    state = tx.init(params)
    assert hyperparams(state)
    linen = TrainState.create(apply_fn=None, params=params, tx=tx)
    containers = {
        "opt_state": optimizer.opt_state,
        "nnx.state": nnx.state(optimizer),
        "the state in it": nnx.state(optimizer)["opt_state"],
        "nnx.Optimizer": optimizer,
        "nnx.split": nnx.split(optimizer)[1],
        "pure dict": nnx.to_pure_dict(nnx.state(optimizer)),
        "to_state_dict": serialization.to_state_dict(state),
        "TrainState": linen,
        "its state_dict": serialization.to_state_dict(linen),
        "dataclass": Trained(jnp.int32(3), params, state),
        "FrozenDict": flax.core.freeze({"params": params, "opt_state": state}),
        "NumPy": jax.tree.map(np.asarray, state),
        "dicts and lists": plain(state),
    }
    for name, container in containers.items():
        read = hyperparams(container)
        assert read == hyperparams(state), name
        assert all(np.ndim(value) == 0 and not isinstance(value, nnx.Variable) for value in read.values())


def test_a_state_that_nnx_keeps_may_be_traced_and_follows_its_updates():
    model = nnx.Linear(2, 2, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, guard(optimiz.adamw(SCHEDULE), 2), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        optimizer.update(model, nnx.grad(lambda m: m(jnp.ones((1, 2))).sum())(model))
        return hyperparams(optimizer.opt_state), hyperparams(nnx.state(optimizer))

    for read in step(model, optimizer):
        assert (int(read["count"]), float(read["learning_rate"]), int(read["skipped"])) == (1, 0.5, 0)


@pytest.mark.parametrize("params", [Weights(jnp.ones([]), jnp.ones([])), [jnp.ones([])], {"nu": jnp.ones([])}])
def test_parameters_are_not_taken_for_readings_in_mappings(params):
    state = serialization.to_state_dict(optimiz.adamw(0.5).init(params))
    assert {name: float(x) for name, x in hyperparams(state).items()} == {"count": 0, "learning_rate": 0.5}
