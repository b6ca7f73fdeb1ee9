import numpy as np
import pytest

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


def test_match_adam_takes_a_positive_number():
    with pytest.raises(ValueError, match=r"rms must be in \(0, "):
        matrix_scales.match_adam(0.0)
    with pytest.raises(TypeError, match="rms must be a number"):
        matrix_scales.match_adam("0.2")
