import jax.numpy as jnp
import numpy as np
import pytest

from optimiz.optimizers.momentum_sls import momentum_sls
from optimiz.primitives.scale_by_adam import scale_by_adam
from tests.contract import searches


def parabola(x):
    return x**2 / 2


def past_the_minimum():
    """Where the direction with momentum has passed the minimum and ascends: search, x, state, direction."""
    tx, adam = momentum_sls(init_step=0.75, growth=1.0), scale_by_adam(0.9, 0.999, 1e-8)
    x, state = jnp.array(1.0), None
    adam_state = adam.init(x)
    for _ in range(10):
        direction, adam_state = adam.update(x, adam_state)
        if float(x * direction) < 0:
            return tx, x, state, direction
        x, state = searches.step(tx, parabola, x, state)
    raise AssertionError("momentum never went past the minimum")


def test_departure_a_direction_that_does_not_descend_is_replaced_by_the_gradient_at_its_length():
    tx, x, state, direction = past_the_minimum()
    after, following = searches.step(tx, parabola, x, state)
    assert state[-1].ascents == 0
    assert following[-1].ascents == 1
    eta = float(following[-1].step_size[0])
    assert float(after) == pytest.approx(float(x + eta * direction))  # the other way
    assert abs(after) < abs(x)


def test_departure_the_slope_is_exact_where_float32_shows_no_difference_quotient():
    p, direction = 5e-9, 1.0
    assert parabola(jnp.float32(1)) == parabola(jnp.float32(1 - p * direction))  # the code's probe sees nothing
    state = searches.step(momentum_sls(beta=0.0), parabola, jnp.float32(1))[1][-1]
    np.testing.assert_allclose(state.slope, [1.0], rtol=1e-6)
    assert state.evaluations == 1  # and takes no forward pass


def test_both_sides_of_the_rule_are_averages():
    tx = momentum_sls(0.5, beta=0.75, init_step=0.5, growth=1.0)
    x, state = searches.step(tx, parabola, jnp.array(2.0))
    # d = 1: η = 1/2 lowers f from 2 to 1.125, of a slope of 2.
    np.testing.assert_allclose(state[-1].decrease, [0.25 * 0.875], rtol=1e-5)
    np.testing.assert_allclose(state[-1].slope, [0.25 * 2.0], rtol=1e-5)
    following = searches.step(tx, parabola, x, state)[1][-1]
    assert following.slope[0] > 0.75 * 0.25 * 2.0 + 0.25 * 1.3


@pytest.mark.long
@pytest.mark.parametrize("check", [searches.check_bounded, searches.check_recovers, searches.check_rounding])
def test_departure_guards(check):
    check(momentum_sls)


def test_decay_is_part_of_the_direction_of_search():
    # d = 1 + λ x: with λ = 1/2 at x = 2 it is 2, and the slope 4.
    tx = momentum_sls(beta=0.0, init_step=0.5, growth=1.0, weight_decay=0.5)
    after, state = searches.step(tx, parabola, jnp.array(2.0))
    np.testing.assert_allclose(state[-1].slope, [4.0], rtol=1e-5)
    assert float(after) == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [*searches.BAD, *searches.BAD_ADAM, ({"beta": 1.0}, ValueError, r"beta must be in \[0, 1\), got 1.0")],
)
def test_refuses_bad_arguments_by_name(kwargs, error, message):
    with pytest.raises(error, match=message):
        momentum_sls(**kwargs)


def test_refuses_a_gradient_of_another_shape():
    with pytest.raises(ValueError, match=r"gradient has shape \(1,\)"):
        searches.step(momentum_sls(), jnp.sum, jnp.ones(4), grad=jnp.ones(1))
