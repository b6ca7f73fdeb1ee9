"""Which entries share a byte is part of every checkpoint: here it is a loop over rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optimiz.numerics import nibbles


def packed_by_a_loop(x, block):
    packed = np.zeros((*x.shape[:-1], -(-x.shape[-1] // 2)), np.uint8)
    n = x.shape[-1]
    apart = block if n % (2 * block) == 0 else -(-n // 2)
    for place in np.ndindex(x.shape):
        pair, within = divmod(place[-1], 2 * apart)
        byte = (*place[:-1], pair * apart + within % apart)
        packed[byte] += x[place] * (16 if within >= apart else 1)
    return packed


@pytest.mark.quick(2)
@pytest.mark.parametrize("shape", [(3, 64), (3, 40), (2, 2, 33), (1,)])  # pairs of blocks, halves, an odd row
def test_entries_a_block_or_half_a_row_apart_share_a_byte(shape):
    x = np.random.default_rng(0).integers(0, 16, shape).astype(np.uint8)
    packed = nibbles.paired(jnp.asarray(x), 16)
    np.testing.assert_array_equal(packed, packed_by_a_loop(x, 16))
    unpacked = nibbles.unpaired(packed, jax.ShapeDtypeStruct(shape, jnp.uint8), 16)
    assert unpacked.dtype == jnp.uint8
    np.testing.assert_array_equal(unpacked, x)
