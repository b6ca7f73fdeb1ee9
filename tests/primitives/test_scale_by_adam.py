import jax.numpy as jnp
import numpy as np
import pytest

from optimiz import numerics
from optimiz.primitives.scale_by_adam import scale_by_adam

B1, B2, EPS, EPS_ROOT = 0.9, 0.99, 1e-3, 1e-4
GRADIENTS = np.random.default_rng(0).normal(size=(4, 3, 2)).astype(np.float32)


def directions(tx, gradients=GRADIENTS):
    state, found = tx.init(jnp.zeros(gradients.shape[1:], gradients.dtype)), []
    for g in gradients:
        direction, state = tx.update(jnp.asarray(g), state)
        found.append(direction)
    return found, state


@pytest.mark.parametrize("nesterov", [False, True])
def test_equals_the_equations(nesterov):
    found, state = directions(scale_by_adam(B1, B2, EPS, EPS_ROOT, nesterov=nesterov))
    m = v = np.zeros(GRADIENTS.shape[1:])
    for t, (g, got) in enumerate(zip(GRADIENTS.astype(np.float64), found, strict=True), 1):
        m, v = B1 * m + (1 - B1) * g, B2 * v + (1 - B2) * g**2
        m_hat = m / (1 - B1**t)
        if nesterov:
            m_hat = B1 * m / (1 - B1 ** (t + 1)) + (1 - B1) * g / (1 - B1**t)
        np.testing.assert_allclose(got, m_hat / (np.sqrt(v / (1 - B2**t) + EPS_ROOT) + EPS), rtol=1e-5)
    np.testing.assert_allclose(state.mu, m, rtol=1e-5)
    np.testing.assert_allclose(state.nu, v, rtol=1e-5)
    assert state.count == len(GRADIENTS)


def test_the_search_direction_has_the_gradient_instead_of_the_momentum():
    plain, _ = directions(scale_by_adam(B1, B2, EPS))
    both, state = directions(scale_by_adam(B1, B2, EPS, for_search=True))
    assert all(isinstance(d, numerics.Directions) for d in both)
    np.testing.assert_array_equal([d.step for d in both], plain)
    root = np.sqrt(np.asarray(state.nu) / (1 - B2 ** len(GRADIENTS))) + EPS
    np.testing.assert_allclose(both[-1].search, GRADIENTS[-1] / root, rtol=1e-5)
    assert np.sum(both[-1].search * GRADIENTS[-1]) > 0


def test_moments_keep_their_dtypes_and_updates_that_of_the_gradient():
    tx = scale_by_adam(B1, B2, EPS)
    params = jnp.zeros(3, jnp.bfloat16)
    for dtype in (jnp.bfloat16, jnp.float32):
        direction, state = tx.update(jnp.ones(3, dtype), tx.init(params))
        assert (direction.dtype, state.mu.dtype, state.nu.dtype) == (dtype, jnp.bfloat16, jnp.float32)


def test_a_huge_gradient_leaves_finite_moments():
    _, state = directions(scale_by_adam(B1, B2, EPS), np.full((1, 2), 1e30, np.float32))
    assert np.isfinite(state.mu).all() and np.isfinite(state.nu).all()


def test_with_eps_zero_a_coordinate_without_a_gradient_does_not_move():
    [direction], _ = directions(scale_by_adam(B1, B2, 0.0), np.array([[0.0, -2.0]], np.float32))
    np.testing.assert_allclose(direction, [0.0, -1.0], rtol=1e-5)


@pytest.mark.parametrize("name", ["b1", "b2", "eps", "eps_root"])
def test_refuses_bad_arguments_by_name(name):
    with pytest.raises(ValueError, match=f"{name} must be in"):
        scale_by_adam(**{"b1": B1, "b2": B2, "eps": EPS} | {name: -0.1})


def test_refuses_a_gradient_of_another_shape():
    tx = scale_by_adam(B1, B2, EPS)
    with pytest.raises(ValueError, match=r"the gradient has shape|the gradient is a tree|shape \(1,\)"):
        tx.update(jnp.ones(1), tx.init(jnp.zeros(4)))
