"""Packing: documents of any length become rows of the same length, without padding or waste.

The documents are concatenated, each followed by the token that ends it, and the stream is cut into rows.
"""

from collections.abc import Sequence

import numpy as np


def pack(documents: Sequence[Sequence[int]], end: int, length: int, *, overlap: int = 0) -> np.ndarray:
    """Cut documents into rows.

    Args:
        documents: the token ids of each document.
        end: id of the token that ends a document.
        length: T, the number of tokens per row.
        overlap: number of tokens at the end of a row that are repeated at the start of the next, < T. It is 1
            for predicting the next token, so that every token is predicted.

    Returns:
        int32 [N, T]; an incomplete last row is dropped.

    Raises:
        ValueError: there is less than one row, or `overlap` is outside its domain.

    Example:
        >>> pack([[1, 2, 3], [4]], end=0, length=3, overlap=1).tolist()
        [[1, 2, 3], [3, 0, 4]]
    """
    if not 0 <= overlap < length:
        raise ValueError(f"overlap must be in [0, {length}), got {overlap}")
    if not documents:
        raise ValueError("there are no documents")
    stream = np.concatenate([np.array([*document, end], np.int32) for document in documents])
    step = length - overlap
    rows = (len(stream) - overlap) // step
    if rows < 1:
        raise ValueError(f"the text must have the {length} tokens of a row, got {len(stream)}")
    starts = step * np.arange(rows)
    return stream[starts[:, None] + np.arange(length)]
