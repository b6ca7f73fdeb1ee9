import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optimiz import numerics


def test_squarable_limits_finite_entries_and_makes_others_nan():
    x = jnp.array([1e38, -1e38, 3.0, jnp.nan, jnp.inf, -jnp.inf])
    y = numerics.squarable(x)
    assert np.isfinite(np.square(y[:3])).all()
    np.testing.assert_array_equal(y[2:], [3.0, np.nan, np.nan, np.nan])
    z = numerics.squarable(jax.lax.complex(jnp.float32(1e38), jnp.float32(-1e38)))
    assert np.isfinite(numerics.abs_sq(z))


def test_bias_corrections_are_computed_once_per_dtype():
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


def test_limited_square_limits_infinity_and_keeps_nan():
    x = jnp.array([1e30, -2.0, jnp.inf, jnp.nan])
    largest = numerics.largest_square(x.dtype)
    np.testing.assert_allclose(numerics.limited_square(x), [largest, 4.0, largest, np.nan])


def test_nonzero_divisor_replaces_zero_by_one_unless_a_bound_excludes_it():
    x = jnp.array([0.0, 3.0, jnp.inf, jnp.nan])
    np.testing.assert_array_equal(numerics.nonzero_divisor(x), [1.0, 3.0, np.inf, np.nan])
    assert numerics.nonzero_divisor(x, 1e-8) is x


def test_accumulators_have_the_compute_dtype_or_the_given_one():
    p = jnp.ones(3, jnp.bfloat16)
    assert numerics.zero_moment(p, None).dtype == jnp.float32
    assert numerics.real_moment(jnp.ones(3, jnp.complex64), None, 0.5).tolist() == [0.5] * 3
    assert numerics.zero_moment(p, jnp.float16).dtype == jnp.float16
    with pytest.raises(TypeError, match="must be floating point, got int32"):
        numerics.real_moment(p, jnp.int32)
