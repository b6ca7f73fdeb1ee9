import numpy as np

from examples.data import random_bits

BITS = [5527141919257688469, 1364028082176693913]


def test_the_numbers_are_fixed():
    # Those of NumPy 2.4; another version must give the same.
    assert random_bits.bits((1, 2), (2,)).tolist() == BITS
    np.testing.assert_array_equal(random_bits.bits((1, 2), (2, 1)).ravel(), BITS)
    assert random_bits.bits((1, 3), (2,)).tolist() != BITS


def test_uniform():
    x = random_bits.uniform((0,), (10_000,))
    assert x.min() >= 0 and x.max() < 1
    assert abs(x.mean() - 0.5) < 0.01 and abs(x.var() - 1 / 12) < 0.002


def test_choices():
    chosen = random_bits.choices((0,), 6_000, candidates=4, chosen=2)
    assert (np.diff(chosen, axis=1) > 0).all() and chosen.min() == 0 and chosen.max() == 3
    counts = np.bincount(chosen[:, 0] * 4 + chosen[:, 1], minlength=16)
    pairs = counts[counts > 0]
    assert len(pairs) == 6 and abs(pairs - 1_000).max() < 4 * np.sqrt(1_000)
    assert random_bits.choices((0,), 2, candidates=3, chosen=0).shape == (2, 0)
