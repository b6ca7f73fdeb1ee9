"""Pieces of tokens become rows of the same length, in segments that do not see each other.

Each row holds several whole pieces, and what is left over is padding. `packing`, in contrast, fills rows with
one stream.
"""

import bisect
from collections.abc import Sequence

import numpy as np


def fit(lengths: Sequence[int], length: int) -> list[list[int]]:
    """Distribute pieces over rows: the longest first, each into the row with the least room that is enough.

    Args:
        lengths: number of tokens of each piece, in [1, `length`].
        length: T, the number of tokens per row.

    Returns:
        The indices of the pieces of each row.

    Raises:
        ValueError: a piece is empty, or longer than a row.

    Example:
        >>> fit([3, 6, 2, 5], 8)
        [[1, 2], [3, 0]]
    """
    if wrong := [each for each in lengths if not 1 <= each <= length]:
        raise ValueError(f"a piece must have 1 to {length} tokens, got {wrong[0]}")
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # of each row, ascending, with its index
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        place = bisect.bisect_left(room, (lengths[index], 0))
        if place == len(room):
            rows.append([])
            left, row = length, len(rows) - 1
        else:
            left, row = room.pop(place)
        rows[row].append(index)
        if left > lengths[index]:
            bisect.insort(room, (left - lengths[index], row))
    return rows


def laid_out(
    pieces: Sequence[tuple[np.ndarray, np.ndarray]], rows: Sequence[Sequence[int]], length: int
) -> dict[str, np.ndarray]:
    """Lay pieces out in rows, as the arguments of a causal model and its targets.

    Args:
        pieces: ids of each piece, [n + 1], and for each of them whether it is to be predicted, likewise; the
            first is not, and is never a target.
        rows: the indices of the pieces of each row, as from `fit`; a piece takes n tokens.
        length: T, the number of tokens per row.

    Returns:
        int32 arrays [N, T]: `ids_BT`; `targets`, the token after each, or -1 where it is not to be predicted;
        `segments_BT`, the number of the piece in its row from 1 on, and 0 at padding; `positions_BT`, from 0 in
        every piece. And `weight`, float32 [N], the number of targets.

    Example:
        >>> piece = np.array([7, 8, 9]), np.array([False, False, True])
        >>> laid_out([piece, piece], [[0, 1]], 5)["targets"].tolist()
        [[-1, 9, -1, 9, -1]]
    """
    names = ("ids_BT", "targets", "segments_BT", "positions_BT")
    arrays = {name: np.zeros((len(rows), length), np.int32) for name in names}
    arrays["targets"] -= 1
    for row, of_row in enumerate(rows):
        start = 0
        for number, index in enumerate(of_row, 1):
            ids, predicted = pieces[index]
            here = slice(start, start + len(ids) - 1)
            arrays["ids_BT"][row, here] = ids[:-1]
            arrays["targets"][row, here] = np.where(predicted[1:], ids[1:], -1)
            arrays["segments_BT"][row, here] = number
            arrays["positions_BT"][row, here] = np.arange(len(ids) - 1)
            start = here.stop
    return arrays | {"weight": (arrays["targets"] >= 0).sum(1).astype(np.float32)}
