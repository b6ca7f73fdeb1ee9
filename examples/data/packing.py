"""Packing: documents of any length become rows of the same length, without padding or waste.

The documents are one stream of tokens, each followed by the token that ends it; the stream is cut into rows.
"""

import numpy as np


def pack(stream: np.ndarray, length: int, *, overlap: int = 0) -> np.ndarray:
    """Cut a stream into rows.

    Args:
        stream: token ids, int32 [S], in memory or in a file.
        length: T, the number of tokens per row.
        overlap: number of tokens at the end of a row that are repeated at the start of the next, < T. It is 1
            for predicting the next token, so that every token is predicted.

    Returns:
        int32 [N, T], a view of the stream; an incomplete last row is dropped.

    Raises:
        ValueError: there is less than one row, or `overlap` is outside its domain.

    Example:
        >>> pack(np.array([1, 2, 3, 0, 4, 0], np.int32), length=3, overlap=1).tolist()
        [[1, 2, 3], [3, 0, 4]]
    """
    if not 0 <= overlap < length:
        raise ValueError(f"overlap must be in [0, {length}), got {overlap}")
    if len(stream) < length:
        raise ValueError(f"the text must have the {length} tokens of a row, got {len(stream)}")
    return np.lib.stride_tricks.sliding_window_view(stream, length)[:: length - overlap]
