"""Random numbers that are the same for a seed and a step, on any machine and with any version of NumPy.

Across versions, NumPy guarantees the raw bits of a bit generator, but not the methods of its `Generator`.
Everything that is drawn for a batch comes from raw bits, so that a resumed run sees the same data.
"""

from collections.abc import Iterable

import numpy as np


def bits(key: Iterable[int], shape: tuple[int, ...]) -> np.ndarray:
    """Uniform 64-bit integers.

    Args:
        key: integers ≥ 0, such as a seed, a purpose and a step; different keys give different numbers.
        shape: shape of the result.

    Returns:
        uint64 of this shape.
    """
    raw = np.random.Philox(np.random.SeedSequence(list(key))).random_raw(int(np.prod(shape)))
    return np.asarray(raw, np.uint64).reshape(shape)


def uniform(key: Iterable[int], shape: tuple[int, ...]) -> np.ndarray:
    """Uniform float64 in [0, 1), multiples of 2⁻⁵³; arguments as for `bits`."""
    return (bits(key, shape) >> np.uint64(11)) * 2.0**-53


def choices(key: Iterable[int], rows: int, candidates: int, chosen: int) -> np.ndarray:
    """For each row, choose some of the candidates, without replacement and in ascending order.

    Args:
        key: as for `bits`.
        rows: number of rows, B.
        candidates: number of candidates.
        chosen: number of candidates to choose, at most all.

    Returns:
        int64 [B, chosen], indices in [0, candidates).
    """
    order = np.argsort(bits(key, (rows, candidates)), axis=1, kind="stable")
    return np.sort(order[:, :chosen], axis=1)
