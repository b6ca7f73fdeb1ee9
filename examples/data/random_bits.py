"""Random numbers that are the same for a seed and a step, on any machine and under any version of NumPy.

NumPy vouches for the raw bits of a bit generator across versions, and not for the methods of its `Generator`.
All that is drawn for a batch is drawn from these, so that a resumed run sees what it would have seen.
"""

from collections.abc import Iterable

import numpy as np


def bits(key: Iterable[int], shape: tuple[int, ...]) -> np.ndarray:
    """Uniform 64-bit integers.

    Args:
        key: integers ≥ 0, such as a seed, a purpose and a step: another key, other numbers.
        shape: of the result.

    Returns:
        uint64 of that shape.
    """
    raw = np.random.Philox(np.random.SeedSequence(list(key))).random_raw(int(np.prod(shape)))
    return np.asarray(raw, np.uint64).reshape(shape)


def uniform(key: Iterable[int], shape: tuple[int, ...]) -> np.ndarray:
    """Uniform float64 in [0, 1), multiples of 2⁻⁵³; arguments as of `bits`."""
    return (bits(key, shape) >> np.uint64(11)) * 2.0**-53


def choices(key: Iterable[int], rows: int, candidates: int, chosen: int) -> np.ndarray:
    """For each row, so many of the candidates, without replacement and in ascending order.

    Args:
        key: as of `bits`.
        rows: B.
        candidates: their number.
        chosen: of them, at most as many.

    Returns:
        int64 [B, chosen], of indices in [0, candidates).
    """
    order = np.argsort(bits(key, (rows, candidates)), axis=1, kind="stable")
    return np.sort(order[:, :chosen], axis=1)
