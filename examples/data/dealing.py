"""Deal examples to the parts of a split, by positions that depend on each example alone."""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np


def position(content: bytes) -> float:
    """A number in [0, 1), uniform over contents.

    Example:
        >>> round(position(b"one"), 3), round(position(b"two"), 3)
        (0.463, 0.249)
    """
    # 48 bits are exact in a float, which keeps the result below 1.
    return int.from_bytes(hashlib.sha256(content).digest()[:6]) / 2**48


def owners(positions: Sequence[float], shares: Mapping[str, float], *, fill: bool) -> np.ndarray:
    """The index of the part of each example, [N].

    Args:
        positions: position of each example in [0, 1), equal for equal ones, N.
        shares: part → expected share, > 0; the shares add up to 1.
        fill: whether a part without an example gets those of the nearest positions, as many different ones as
            its share asks for, from the largest part, which keeps one at least.

    Example:
        >>> owners([0.1, 0.85, 0.5, 0.85], {"train": 0.9, "test": 0.1}, fill=True).tolist()
        [0, 1, 0, 1]
    """
    sizes, at = np.array([*shares.values()]), np.array(positions)
    ends, largest = np.cumsum(sizes), sizes.argmax()
    found = np.searchsorted(ends[:-1], at, side="right")
    for part in range(len(sizes)) if fill else ():
        theirs = np.unique(at[found == largest])
        if (found == part).any() or len(theirs) < 2:
            continue
        count = min(max(round(sizes[part] * len(np.unique(at))), 1), len(theirs) - 1)
        middle = ends[part] - sizes[part] / 2
        nearest = theirs[np.argsort(np.abs(theirs - middle), kind="stable")[:count]]
        found[np.isin(at, nearest)] = part
    return found
