import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optimiz.numerics import Directions
from optimiz.primitives.decoupled_weight_decay import decoupled_weight_decay
from optimiz.primitives.on_step import on_step

DIRECTIONS = Directions(search={"w": jnp.array([1.0, 2.0])}, step={"w": jnp.array([3.0, 4.0])})
PARAMS = {"w": jnp.array([10.0, 20.0])}


def test_only_the_step_is_changed():
    tx = on_step(decoupled_weight_decay(0.5))
    updates, _ = tx.update(DIRECTIONS, tx.init(PARAMS), PARAMS)
    assert updates.search is DIRECTIONS.search
    np.testing.assert_array_equal(updates.step["w"], [8.0, 14.0])


def test_state_is_that_of_the_transformation_and_is_kept():
    tx, alone = on_step(optax.trace(0.5)), optax.trace(0.5)
    state, state_alone = tx.init(PARAMS), alone.init(PARAMS)
    for _ in range(3):
        updates, state = tx.update(DIRECTIONS, state, PARAMS)
        step, state_alone = alone.update(DIRECTIONS.step, state_alone, PARAMS)
    np.testing.assert_array_equal(updates.step["w"], step["w"])
    np.testing.assert_array_equal(state.trace["w"], state_alone.trace["w"])


def test_extra_arguments_reach_what_takes_them():
    def scale_by_value(updates, state, params=None, *, value, **extra_args):
        return optax.tree.scale(value, updates), state

    tx = on_step(optax.GradientTransformationExtraArgs(optax.init_empty_state, scale_by_value))
    updates, _ = tx.update(DIRECTIONS, tx.init(PARAMS), PARAMS, value=2.0, other=None)
    np.testing.assert_array_equal(updates.step["w"], [6.0, 8.0])
    tx = on_step(optax.scale(0.5))
    updates, _ = tx.update(DIRECTIONS, tx.init(PARAMS), PARAMS, value=2.0, other=None)
    np.testing.assert_array_equal(updates.step["w"], [1.5, 2.0])


def test_it_is_for_directions():
    tx = on_step(optax.identity())
    with pytest.raises(TypeError, match="step"):
        tx.update(PARAMS, tx.init(PARAMS), PARAMS)
