"""Layers of different ages have their own counts, at no cost for unrolled layers."""

import jax
import jax.numpy as jnp
import optax
import pytest

import optimiz
from optimiz.training.methods.layer_stack import Stack
from optimiz.training.methods.per_generation_counts import own_counts, per_generation_counts

PARAMS = {"head": jnp.ones(3), "layers": [{"w": jnp.ones((32, 32))} for _ in range(4)]}


@pytest.mark.parametrize(
    ("tx", "expected"),
    [
        (optimiz.adamw(optax.constant_schedule(0.1)), ["[0].count"]),
        (optax.adamw(optax.constant_schedule(0.1)), ["[0].count"]),
        (optimiz.sgd(optax.constant_schedule(0.1), 0.9), []),
        (optax.inject_hyperparams(optax.adam)(0.1), [".inner_state[0].count"]),
        (optax.MultiSteps(optax.adam(0.1), 2).gradient_transformation(), [".inner_opt_state[0].count"]),
        (
            optax.partition({"a": optax.adam(0.1)}, jax.tree.map(lambda _: "a", PARAMS)),
            [".inner_states['a'].inner_state[0].count"],
        ),
        (optimiz.adafactor(0.1), ["[0].count"]),
        (optax.adan(0.1), ["[0].t"]),
    ],
    ids=lambda value: "" if not isinstance(value, list) else str(value),
)
def test_a_count_belongs_to_the_moments_in_the_same_state(tx, expected):
    counts = own_counts(jax.eval_shape(tx.init, PARAMS), PARAMS)
    found = [jax.tree_util.keystr(path) for path in counts]
    assert [path for path in found if path in expected] == expected
    assert all("schedule" not in path for path in found) and len(found) == len(expected)


def test_unrolled_layers_cost_no_more_arithmetic():
    """Every generation's update of every layer is written down; what no layer needs is left out."""

    def flops(tx):
        state = tx.init(PARAMS)
        return jax.jit(tx.update).lower(PARAMS, state, PARAMS).compile().cost_analysis()["flops"]

    tx = optimiz.adamw(0.1)
    aged = per_generation_counts(tx, Stack(), (1, 2, 4))
    assert flops(aged) < 1.05 * flops(tx)


def test_layers_of_the_same_age_are_updated_as_by_the_optimizer_itself():
    tx = optimiz.adamw(0.1)
    aged = per_generation_counts(tx, Stack(), (1, 2, 4))
    updates, state = aged.update(PARAMS, aged.init(PARAMS), PARAMS)
    expected, inner = tx.update(PARAMS, tx.init(PARAMS), PARAMS)
    jax.tree.map(lambda a, b: (a == b).all() or pytest.fail("differs"), updates, expected)
    assert jax.tree.structure(state.inner_state) == jax.tree.structure(inner)
    assert optimiz.hyperparams(state)["learning_rate"] == jnp.float32(0.1)
