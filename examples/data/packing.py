"""Packing: documents of any length become rows of one length, with neither padding nor waste.

The documents stand one after another, each followed by the token that ends it, and the stream is cut into rows.
"""

from collections.abc import Sequence

import numpy as np


def pack(documents: Sequence[Sequence[int]], end: int, length: int, *, overlap: int = 0) -> np.ndarray:
    """Cut documents into rows.

    Args:
        documents: the token ids of each.
        end: id of the token that ends a document.
        length: T, tokens of a row.
        overlap: tokens of a row that begin the next one too, < T: one where a row is to be predicted from its
            own beginning, so that no token goes unpredicted.

    Returns:
        int32 [N, T]; what is left at the end, less than a row, is dropped.

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
        raise ValueError(f"the text must have the {length} tokens of one sequence, got {len(stream)}")
    starts = step * np.arange(rows)
    return stream[starts[:, None] + np.arange(length)]
