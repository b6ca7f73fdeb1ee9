import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optimiz import numerics


@pytest.mark.parametrize("key", [3, jnp.uint32(3), jax.random.key(3), jax.random.key_data(jax.random.key(3))])
def test_a_seed_a_key_and_its_data_mean_one_key(key):
    np.testing.assert_array_equal(jax.random.key_data(numerics.typed_key(key)), [0, 3])


def test_a_seed_means_the_same_key_whatever_the_default_implementation():
    with jax.default_prng_impl("rbg"):
        key = numerics.typed_key(3)
    assert jax.random.key_impl(key) == "threefry2x32"
