import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optimiz import numerics


@pytest.mark.quick(4)
@pytest.mark.parametrize("ddof", [0, 1])
@pytest.mark.parametrize("axes", [None, (1, 2), (0,)])
def test_norm_and_deviation_equal_numpy(ddof, axes):
    g = np.random.default_rng(0).normal(size=(3, 4, 5))
    with jax.enable_x64(True):
        norm, deviation = numerics.norm_and_deviation(jnp.asarray(g), ddof=ddof, axes=axes)
    keepdims = axes is not None
    wanted = np.sqrt((g**2).sum(axis=axes, keepdims=keepdims))
    np.testing.assert_allclose(norm, wanted, rtol=1e-13)
    np.testing.assert_allclose(deviation, g.std(axis=axes, ddof=ddof, keepdims=keepdims), rtol=1e-13)


def test_the_g_snr_follows_from_mean_and_deviation():
    # G² = (d - 1) + d mean² / s², with the unbiased s.
    g = np.random.default_rng(1).normal(size=50) + 0.7
    with jax.enable_x64(True):
        norm, s = numerics.norm_and_deviation(jnp.asarray(g), ddof=1)
        assert float((norm / s) ** 2) == pytest.approx(49 + 50 * g.mean() ** 2 / g.var(ddof=1))


def test_the_deviation_of_as_many_entries_as_ddof_is_zero():
    norm, deviation = numerics.norm_and_deviation(jnp.array([[3.0], [-4.0]]), ddof=1, axes=(1,))
    assert norm.ravel().tolist() == [3.0, 4.0] and deviation.ravel().tolist() == [0.0, 0.0]
