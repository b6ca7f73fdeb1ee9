import jax.numpy as jnp
import numpy as np
import pytest

from optimiz import numerics


def test_smoothed_is_a_moving_average_from_zero():
    values, beta, average = np.array([1.0, 4.0, -2.0]), 0.9, jnp.float32(0)
    for value in values:
        average = numerics.smoothed(average, value, beta)
    np.testing.assert_allclose(average, 0.1 * np.sum(values * beta ** np.array([2, 1, 0])), rtol=1e-6)


def test_without_beta_the_average_is_the_value():
    assert numerics.smoothed(jnp.float32(7.0), jnp.float32(0.3), 0.0) == jnp.float32(0.3)


def test_the_rule_includes_its_bound():
    decrease, slope = jnp.float32(0.5), jnp.float32(2.0)
    assert numerics.sufficient_decrease(decrease, slope, jnp.float32(0.5), 0.5)
    assert not numerics.sufficient_decrease(decrease, slope, jnp.float32(0.50001), 0.5)


def test_tolerance_is_added_to_the_decrease():
    zero, slope, size = jnp.float32(0), jnp.float32(1e-7), jnp.float32(1)
    assert not numerics.sufficient_decrease(zero, slope, size, 0.5)
    assert numerics.sufficient_decrease(zero, slope, size, 0.5, tolerance=1e-7)


@pytest.mark.parametrize("decrease", [np.nan, np.inf, -np.inf])
def test_a_decrease_that_is_not_finite_is_refused(decrease):
    assert not numerics.sufficient_decrease(jnp.float32(decrease), jnp.float32(1), jnp.float32(1), 0.5)


def test_growth_each_step_and_each_search():
    sizes = jnp.array([2.0, 4.0])
    for due, searched in ((True, [3.0, 6.0]), (False, [2.0, 4.0])):
        due = jnp.array(due)
        np.testing.assert_array_equal(numerics.grow_each_step(sizes, due, factor=1.5), [3.0, 6.0])
        np.testing.assert_array_equal(numerics.grow_each_search(sizes, due, factor=1.5), searched)
