import jax.numpy as jnp
import numpy as np
import pytest

from optimiz import numerics


def test_narrow_limits_finite_entries_and_keeps_nan_and_infinity():
    x = jnp.array([1e30, -1e5, 1.0, jnp.nan, jnp.inf, -jnp.inf])
    narrowed = numerics.narrow(x, jnp.float16)
    assert narrowed.dtype == jnp.float16
    np.testing.assert_array_equal(narrowed, np.array([65504, -65504, 1, np.nan, np.inf, -np.inf]))
    assert numerics.narrow(x, jnp.float32) is x


@pytest.mark.parametrize(
    ("dtype", "compute", "real"),
    [
        (jnp.bfloat16, "float32", "float32"),
        (jnp.float32, "float32", "float32"),
        (jnp.float64, "float64", "float64"),
        (jnp.complex64, "complex64", "float32"),
        (jnp.complex128, "complex128", "float64"),
    ],
)
def test_the_compute_dtype_is_at_least_float32(dtype, compute, real):
    assert (numerics.compute_dtype(dtype), numerics.real_dtype(dtype)) == (compute, real)


def test_scaled_computes_in_float32_and_keeps_the_dtype():
    x = jnp.array([1.0, -2.0], jnp.bfloat16)
    assert numerics.scaled(x, 1 / 3).dtype == jnp.bfloat16
    np.testing.assert_array_equal(numerics.scaled(x, 1 / 3), (np.float32([1, -2]) / 3).astype(jnp.bfloat16))
