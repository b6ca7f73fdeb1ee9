"""The lengths of buckets, into which texts are sorted so that little of a batch is padding."""

import numpy as np

STEP = 8  # lengths are multiples of this


def bounds(lengths: np.ndarray, count: int, most: int) -> list[int]:
    """The lengths of buckets that need the fewest tokens in all, if every text is in the shortest that fits.

    Args:
        lengths: number of tokens of each text, [N], at most `most`.
        count: number of buckets, ≥ 1; there are fewer if fewer lengths occur.
        most: the last of the lengths; the others are multiples of STEP.

    Example:
        >>> bounds(np.array([3, 5, 8, 9, 15, 40, 62]), 3, 64)
        [8, 16, 64]
    """
    rounded = np.minimum(-(-lengths // STEP) * STEP, most)
    candidates = np.unique(np.append(rounded, most))
    texts = np.searchsorted(np.sort(rounded), candidates, side="right")  # that fit into each
    # tokens[i]: the fewest for all texts that fit into candidate i, with the buckets so far, i being the last.
    tokens, before = texts * candidates, []
    for _ in range(min(count, len(candidates)) - 1):
        more = tokens[None, :] + (texts[:, None] - texts[None, :]) * candidates[:, None]
        more[np.triu_indices(len(candidates), 1)] = np.iinfo(np.int64).max
        before.append(more.argmin(1))
        tokens = more.min(1)
    chosen = [len(candidates) - 1]
    for choice in reversed(before):
        chosen.append(int(choice[chosen[-1]]))
    return [int(length) for length in np.unique(candidates[chosen])]


def padding(lengths: np.ndarray, of: list[int]) -> float:
    """The share of padding in the tokens of texts, each in the shortest bucket that fits.

    Args:
        lengths: number of tokens of each text, [N].
        of: the lengths of the buckets, ascending.

    Example:
        >>> padding(np.array([4, 8, 12]), [16])
        0.5
    """
    bucket = np.array(of)[np.searchsorted(of, lengths)]
    return float(1 - lengths.sum() / bucket.sum())
