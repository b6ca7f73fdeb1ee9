import functools

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optimiz
from optimiz.numerics import matrix_scales


def rms(factor, inputs, outputs):
    """Of a factor times an orthogonal matrix, measured."""
    x = np.linalg.qr(np.random.default_rng(0).normal(size=(max(inputs, outputs), min(inputs, outputs))))[0]
    return factor * np.sqrt(np.mean(x**2))


@pytest.mark.parametrize("shape", [(4, 4), (3, 12), (12, 3)])
def test_the_root_mean_square_of_a_step(shape):
    inputs, outputs = shape
    assert rms(matrix_scales.keller(*shape), *shape) == pytest.approx(1 / np.sqrt(inputs))
    assert rms(matrix_scales.match_adam(0.3)(*shape), *shape) == pytest.approx(0.3)
    narrowing = min(1.0, outputs / inputs) ** 0.5
    assert rms(matrix_scales.spectral(*shape), *shape) == pytest.approx(narrowing / np.sqrt(inputs))


@pytest.mark.parametrize("scale", [matrix_scales.keller, matrix_scales.spectral, matrix_scales.match_adam()])
def test_a_scale_that_is_taken_for_a_schedule_says_so(scale):
    params = {"kernel": jnp.ones((4, 8))}
    make = functools.partial(optimiz.muon, adam_learning_rate=1e-3)
    tx = optax.inject_hyperparams(make)(1e-3, scale=scale)
    with pytest.raises(TypeError, match=r'got an array; .* unless static_args=\("scale",\) names it'):
        tx.init(params)
    assert scale(4, 8) == scale(inputs=4, outputs=8)
    tx = optax.inject_hyperparams(make, static_args=("scale",))(1e-3, scale=scale)
    updates, _ = tx.update(params, tx.init(params), params)
    assert updates["kernel"].shape == (4, 8)


def test_match_adam_takes_a_positive_number():
    with pytest.raises(ValueError, match=r"rms must be in \(0, "):
        matrix_scales.match_adam(0.0)
    with pytest.raises(TypeError, match="rms must be a number"):
        matrix_scales.match_adam("0.2")
