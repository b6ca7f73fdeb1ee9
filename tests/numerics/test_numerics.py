import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optimiz import numerics


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


def test_the_ratio_obeys_its_law():
    # G² = (d - 1) + d mean² / s², with the unbiased s.
    g = np.random.default_rng(1).normal(size=50) + 0.7
    with jax.enable_x64(True):
        norm, s = numerics.norm_and_deviation(jnp.asarray(g), ddof=1)
        assert float((norm / s) ** 2) == pytest.approx(49 + 50 * g.mean() ** 2 / g.var(ddof=1))


def test_squarable_keeps_squares_finite_and_shows_what_is_not():
    x = jnp.array([1e38, -1e38, 3.0, jnp.nan, jnp.inf, -jnp.inf])
    y = numerics.squarable(x)
    assert np.isfinite(np.square(y[:3])).all()
    np.testing.assert_array_equal(y[2:], [3.0, np.nan, np.nan, np.nan])
    z = numerics.squarable(jax.lax.complex(jnp.float32(1e38), jnp.float32(-1e38)))
    assert np.isfinite(numerics.abs_sq(z))


def test_a_bias_correction_is_found_once_for_all_leaves_of_a_dtype():
    tree = [jnp.zeros(2), jnp.zeros(3, jnp.bfloat16), jnp.zeros((), jnp.complex64)]
    found = numerics.bias_corrections(0.9, jnp.int32(3), tree)
    assert list(found) == [jnp.dtype("float32")]
    assert found[jnp.dtype("float32")] == numerics.bias_correction(0.9, jnp.float32(3))


@pytest.mark.parametrize("decay", [0.0, 0.9, 0.999, 0.999999])
@pytest.mark.parametrize("t", [1, 2, 1000, 2**31 - 1])
def test_bias_correction_is_exact_in_float32(decay, t):
    wanted = -np.expm1(t * np.log(np.float64(decay))) if decay else 1.0
    got = float(numerics.bias_correction(decay, jnp.float32(t)))
    assert got == pytest.approx(wanted, rel=1e-6)


def test_bias_correction_takes_a_traced_decay():
    got = jax.jit(numerics.bias_correction)(0.9, jnp.float32(2))
    assert float(got) == pytest.approx(0.19, rel=1e-5)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32, jnp.complex64])
@pytest.mark.parametrize("scale", [1e30, 1.0, 1e-30])
def test_block_norm_neither_overflows_nor_underflows(dtype, scale):
    x = (np.random.default_rng(2).normal(size=(3, 4, 5)) * scale).astype(dtype)
    got = numerics.block_norm(jnp.asarray(x), numerics.block_axes(3, 0))
    wanted = np.sqrt((np.abs(x.astype(np.complex128)) ** 2).sum(axis=(1, 2), keepdims=True))
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, wanted, rtol=1e-6)


def test_block_norm_of_nothing_is_zero_and_shows_what_is_not_finite():
    assert numerics.block_norm(jnp.zeros((0, 3)), (0, 1)).tolist() == [[0.0]]
    assert numerics.block_norm(jnp.array(-3.0), ()) == 3.0
    for bad in (jnp.nan, jnp.inf):
        assert np.isnan(numerics.block_norm(jnp.array([1.0, bad]), (0,)))


def test_narrow_keeps_what_is_finite_so_and_shows_what_is_not():
    x = jnp.array([1e30, -1e5, 1.0, jnp.nan, jnp.inf, -jnp.inf])
    narrowed = numerics.narrow(x, jnp.float16)
    assert narrowed.dtype == jnp.float16
    np.testing.assert_array_equal(narrowed, np.array([65504, -65504, 1, np.nan, np.inf, -np.inf]))
    assert numerics.narrow(x, jnp.float32) is x
