import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optimiz import numerics

LABELS = {"x": 0, "y": 1, "frozen": -1}
GRAD = {"x": jnp.array([3.0, 4.0]), "y": jnp.array([1.0]), "frozen": jnp.array([7.0])}
UPDATES = {"x": jnp.array([-2.0, 0.0]), "y": jnp.array([2.0]), "frozen": jnp.array([7.0])}


def directions_of(updates, grad=GRAD, steepest=True):
    directions, slopes, ascends = numerics.directions_of(updates, grad, LABELS, jnp.float32, steepest=steepest)
    return directions, slopes.tolist(), bool(ascends)


def test_a_unit_that_ascends_is_replaced_at_its_length_and_the_other_stays():
    directions, slopes, ascends = directions_of(UPDATES)
    assert directions.search is directions.step and ascends
    np.testing.assert_allclose(directions.step["x"], [1.2, 1.6], rtol=1e-6)  # as long as (-2, 0), along (3, 4)
    np.testing.assert_array_equal(directions.step["y"], UPDATES["y"])
    np.testing.assert_allclose(slopes, [10.0, 2.0], rtol=1e-6)


def test_a_unit_that_ascends_may_be_left_as_it_is():
    directions, slopes, ascends = directions_of(UPDATES, steepest=False)
    assert directions.search is UPDATES and directions.step is UPDATES
    assert (slopes, ascends) == ([-6.0, 2.0], False)


def test_two_directions_stay_as_they_are_with_the_slope_of_the_first():
    given = numerics.Directions(search=GRAD, step=UPDATES)
    directions, slopes, ascends = directions_of(given)
    assert directions is given
    assert (slopes, ascends) == ([25.0, 1.0], False)


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_squares_that_leave_the_range_leave_no_direction(size):
    """The square of the gradient is 0 or infinite, and no length is to be had of it."""
    ascent = {"x": jnp.full(2, -1.0), "y": jnp.ones(1), "frozen": jnp.zeros(1)}
    grad = ascent | {"x": jnp.full(2, size)}
    directions, slopes, _ = directions_of(ascent, grad)
    np.testing.assert_array_equal(directions.step["x"], [0, 0])
    np.testing.assert_array_equal(directions.step["y"], ascent["y"])
    assert slopes[1] == 1


def test_moves_add_both_directions_in_the_parameters_dtype_and_leave_what_is_in_no_unit():
    params = {"x": jnp.zeros(2, jnp.bfloat16), "y": jnp.zeros(1), "frozen": jnp.zeros(1)}
    sizes = numerics.Directions(search=jnp.array([0.5, 0.0]), step=jnp.array([0.25, 2.0]))
    moves = numerics.moves(LABELS, sizes, numerics.Directions(GRAD, UPDATES), params)
    assert jax.tree.map(lambda leaf: leaf.tolist(), moves) == {"x": [-1.0, -2.0], "y": [-4.0], "frozen": [0.0]}
    assert jax.tree.map(lambda leaf: leaf.dtype, moves) == jax.tree.map(lambda leaf: leaf.dtype, params)
