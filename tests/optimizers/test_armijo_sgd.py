import jax.numpy as jnp
import numpy as np
import pytest

from optimiz.optimizers.armijo_sgd import armijo_sgd
from tests.contract import searches


def test_the_accepted_step_size_on_a_parabola():
    """f = L x²/2 accepts η ≤ 2 (1 - c) / L, and the step before was too long."""
    curvature, c, shrink = 4.0, 0.3, 0.9
    tx = armijo_sgd(c, init_step=10.0, shrink=shrink, growth=1.0)
    state = searches.step(tx, lambda x: curvature * x**2 / 2, jnp.array(1.0))[1][-1]
    size, bound = float(state.step_size[0]), 2 * (1 - c) / curvature
    assert shrink * bound < size <= bound
    assert size == pytest.approx(0.343368382, rel=1e-6)


def test_the_slope_is_the_squared_norm_so_that_small_gradients_do_not_stall_it():
    """With the norm itself, as in a later code, no step size passes where it is less than c."""

    def loss(x):
        return 1e-3 * jnp.sum(x**2)

    tx = armijo_sgd(0.3, growth=1.0, max_step=10.0)
    x, state = jnp.array([0.6, 0.8]), None
    for _ in range(40):
        x, state = searches.step(tx, loss, x, state)
    assert state[-1].step_size[0] == 1
    np.testing.assert_allclose(x, np.array([0.6, 0.8]) * (1 - 2e-3) ** 40, rtol=1e-5)


@pytest.mark.long
@pytest.mark.parametrize("check", [searches.check_bounded, searches.check_recovers, searches.check_rounding])
def test_departure_guards(check):
    check(armijo_sgd)


def test_departure_a_failed_search_moves_by_what_is_left_and_not_by_a_fixed_step():
    tx = armijo_sgd(init_step=0.5, shrink=0.5, growth=1.0, max_trials=3)
    x, _ = searches.step(tx, jnp.square, jnp.array(4.0), lift=100.0)
    assert float(x) == 4.0 - 0.5**4 * 8.0  # the code's would be 4 - 1e-6 · 8


def test_decay_is_part_of_the_direction_of_search():
    # d = g + λ x = 4 + 1, so that the slope is 20.
    tx = armijo_sgd(init_step=0.1, growth=1.0, weight_decay=0.5)
    after, state = searches.step(tx, jnp.square, jnp.array(2.0))
    np.testing.assert_allclose(state[-1].slope, [20.0], rtol=1e-6)
    assert float(after) == pytest.approx(1.5)


@pytest.mark.parametrize(("kwargs", "error", "message"), searches.BAD)
def test_refuses_bad_arguments_by_name(kwargs, error, message):
    with pytest.raises(error, match=message):
        armijo_sgd(**kwargs)


def test_refuses_a_gradient_of_another_shape():
    with pytest.raises(ValueError, match=r"gradient has shape \(1,\)"):
        searches.step(armijo_sgd(), jnp.sum, jnp.ones(4), grad=jnp.ones(1))
