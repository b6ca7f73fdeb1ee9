import jax.numpy as jnp

from optimiz import numerics


def test_increment_stays_at_the_largest_number_of_its_dtype():
    largest = jnp.iinfo(jnp.int32).max
    assert numerics.increment(jnp.int32(largest)) == largest
    assert numerics.increment(jnp.int32(7)) == 8
