"""Cautious directions and cautious decay: against the authors' numbers and entry by entry."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optimiz
from optimiz import cautious
from tests.golden import fixture_c, stacked

ADAM = optimiz.scale_by_adam(0.9, 0.999, 1e-8)


def test_equals_the_golden_values_of_c_adamw():
    """C-Optim of the authors with ``foreach``, decay 0.1."""
    golden = fixture_c.golden(
        ".9944204407 -1.98619407374 2.92029979509 .465087120116 -.0296421982836 -.981854729804 1.9341740124 "
        ".225879192876",
        ".087169951247 -.246270807634",
    )
    with jax.enable_x64(True):
        tx = optax.chain(
            cautious(ADAM),
            optimiz.decoupled_weight_decay(0.1),
            optimiz.scale_by_learning_rate(fixture_c.varying),
        )
        chex.assert_trees_all_close(
            stacked.run(tx, jnp.float64, fixture_c.params(), fixture_c.gradients()), golden, rtol=0, atol=1e-10
        )


def test_equals_the_golden_values_of_adamw_with_cautious_decay():
    """Of dion and nanochat, where a direction of 0 lets an entry decay; decay 0.5."""
    golden = fixture_c.golden(
        ".988788173179 -1.95311496777 2.85941177874 .45105060983 -.0403911000364 -.958884406682 1.90377570284 "
        ".220259735764",
        ".0770236599328 -.231930712614",
    )
    with jax.enable_x64(True):
        tx = optimiz.adamw(fixture_c.varying, weight_decay=0.5, cautious_decay=True)
        chex.assert_trees_all_close(
            stacked.run(tx, jnp.float64, fixture_c.params(), fixture_c.gradients()), golden, rtol=0, atol=1e-10
        )


def directed(d, g, **settings):
    """A direction d, whatever the gradient, made cautious for the gradient g."""
    fixed = optax.GradientTransformation(
        lambda params: optax.EmptyState(), lambda u, state, params=None: (d, state)
    )
    tx = cautious(fixed, **settings)
    return jax.jit(tx.update)(g, tx.init(g))[0]


def test_what_is_kept_is_divided_by_its_share_but_not_by_less_than_the_floor():
    g = {"w": jnp.array([1.0, -1.0, 0.0, 2.0])}
    assert directed({"w": jnp.array([3.0, 3.0, 3.0, 3.0])}, g)["w"].tolist() == [6, 0, 0, 6]
    assert directed({"w": jnp.array([3.0, 3.0, 3.0, -3.0])}, g, floor=0.5)["w"].tolist() == [6, 0, 0, 0]
    assert directed({"w": -g["w"]}, g)["w"].tolist() == [0, 0, 0, 0]


def test_signs_are_compared_also_where_a_product_underflows():
    tiny = {"w": jnp.full(3, 1e-30)}
    np.testing.assert_array_equal(directed(tiny, tiny)["w"], tiny["w"])


def test_each_layer_of_a_stack_has_a_share_of_its_own():
    g = {"layers": {"w": jnp.array([[1.0, 1.0], [1.0, -1.0]])}}
    d = {"layers": {"w": jnp.ones((2, 2))}}
    assert directed(d, g, scanned={"^layers/": 0})["layers"]["w"].tolist() == [[1, 1], [2, 0]]


def test_complex_entries_are_kept_where_the_angle_is_acute():
    g = {"w": jnp.array([1 + 1j, 1 - 2j])}
    d = {"w": jnp.array([1 + 0j, 0 + 1j])}
    assert directed(d, g)["w"].tolist() == [2 + 0j, 0j]


def test_a_gradient_that_is_not_finite_stays_visible():
    g = {"w": jnp.array([jnp.nan, 1.0])}
    tx = cautious(ADAM)
    assert jnp.isnan(tx.update(g, tx.init(g))[0]["w"][0])


@pytest.mark.parametrize("u", [2.0, -2.0, 0.0])
def test_an_entry_decays_unless_its_direction_grows_it(u):
    tx = optimiz.decoupled_weight_decay(0.5, cautious=True)
    params = jnp.array([4.0, -4.0, 0.0])
    updates, _ = tx.update(jnp.full(3, u), tx.init(params), params)
    expected = [u + 2 if u >= 0 else u, u - 2 if u <= 0 else u, u]
    assert updates.tolist() == expected


def test_what_makes_steps_is_refused():
    params = {"w": jnp.zeros(2)}
    for tx in (
        *(optimiz.adamw(0.1), optax.sgd(0.1), optimiz.lion(0.1), optax.chain(optax.adam(0.1))),
        optimiz.schedule_free_sgd(1.0),
    ):
        with pytest.raises(ValueError, match="cautious goes around a direction"):
            cautious(tx).init(params)


def test_refuses_what_is_outside_its_domain():
    for floor in (0.0, 1.5, np.nan):
        with pytest.raises(ValueError, match=r"floor must be"):
            cautious(optax.identity(), floor=floor)
    with pytest.raises(TypeError, match=r"direction must be"):
        cautious(0.1)
    with pytest.raises(ValueError, match="nowhere"):
        cautious(optax.identity(), scanned={"nowhere": 0}).init({"w": jnp.zeros(2)})
