"""A loss that devices share: its value and its gradient are the whole batch's, and searches agree on them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optimiz import mean_over

LAYOUTS = ("pmap", "shard_map that checks", "shard_map that does not check")


def check(program, devices, *names, layouts=LAYOUTS):
    report = program("tests.searches_with_mean_over", *names, *layouts, devices=devices)
    assert report.keys() == {*layouts}
    for layout, by_optimizer in report.items():
        assert by_optimizer.keys() == set(names)
        for name, found in by_optimizer.items():
            assert found["difference"] <= 1e-9, (layout, name)
            assert found["same"], (layout, name)
            assert found["last"] < 1


@pytest.mark.long
def test_a_search_that_asks_for_slopes_takes_the_steps_of_one_device(program):
    check(program, 2, "lbfgs", layouts=["pmap"])  # the others are long: each compiles for seconds


@pytest.mark.long
@pytest.mark.parametrize("devices", [2, 4, 8])
def test_searches_take_the_steps_of_one_device(program, devices):
    check(program, devices, "lbfgs", "backtracking", "salsa")


def test_value_and_gradient_on_one_device_are_those_of_the_loss():
    x = jnp.array([[1.0, 2.0], [3.0, -1.0]])

    def value_fn(params):
        return jnp.mean((x @ params["w"]) ** 2)

    params = {"w": jnp.array([0.5, -2.0])}
    shared = jax.pmap(jax.value_and_grad(mean_over("data", value_fn)), "data")
    value, grad = shared(jax.tree.map(lambda leaf: leaf[None], params))
    wanted, wanted_grad = jax.value_and_grad(value_fn)(params)
    np.testing.assert_array_equal(value[0], wanted)
    np.testing.assert_array_equal(grad["w"][0], wanted_grad["w"])
