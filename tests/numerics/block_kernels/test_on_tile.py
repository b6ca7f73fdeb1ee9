"""What a tile computes in place of an operation that a kernel does not have."""

import jax.numpy as jnp
import numpy as np
import pytest

from optimiz.numerics.block_kernels.on_tile import rounded

# Parameters in units of their last place: of float8, bfloat16 and float16; below them, and far above.
POWERS = {"float8": 3, "bfloat16": 7, "float16": 10, "below one": -1, "one": 0, "ties no more": 23}


def check_rounded(numbers):
    for x in (numbers, -numbers):
        np.testing.assert_array_equal(  # the bits, so that zeros have their sign
            np.asarray(rounded(jnp.asarray(x))).view(np.uint32),
            np.asarray(jnp.round(jnp.asarray(x))).view(np.uint32),
        )


@pytest.mark.parametrize("power", POWERS)
def test_every_number_of_a_power_of_two_is_rounded_to_the_nearest_integer(power):
    exponent = np.uint32(POWERS[power] + 127)
    check_rounded(((exponent << np.uint32(23)) + np.arange(2**23, dtype=np.uint32)).view(np.float32))


def test_numbers_of_any_size_are_rounded_and_ties_to_even():
    bits = np.random.default_rng(0).integers(2**31, size=2**20, dtype=np.uint32)
    numbers = bits.view(np.float32)
    check_rounded(numbers[~np.isnan(numbers)])
    check_rounded(np.arange(2**13, dtype=np.float32) / 2)
    check_rounded(np.float32([0, np.inf, np.finfo(np.float32).max, 1e-40]))
    assert np.isnan(rounded(jnp.float32(np.nan)))
