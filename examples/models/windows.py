"""Long texts as several windows of tokens, whose predictions are averaged.

A window is as long as the model reads, special tokens included, and neighbours share some tokens of the text.
Of a pair, the second text is divided, and every window begins with the first one.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from tokenizers import Tokenizer

from examples.data import memory, tokenizer_file
from examples.models import pretrained

_AT_ONCE = 1000  # texts, whose encodings are large
_ARRAYS = ("ids_BT", "mask_BT", "types_BT")


def encode(
    tokenizer: Tokenizer,
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    length: int,
    stride: int | None,
) -> tuple[dict[str, np.ndarray], np.ndarray, int]:
    """Encode texts, or pairs of texts, as the arguments of an encoder, the long ones in windows.

    A pair whose texts are both longer than half of the tokens has its first text truncated to half of them.

    Args:
        tokenizer: from `pretrained.load_tokenizer`.
        texts: N texts.
        pairs: None, or the second text of each.
        length: T, the number of tokens of a window.
        stride: number of tokens of a text that neighbouring windows share, as `transformers` names it; None for
            one window a text, which truncates it as `pretrained.encode` does.

    Returns:
        `ids_BT`, `mask_BT` and `types_BT`, int32 `[W, T]`; the text of each window, ascending, int64 `[W]`; and
        the number of texts that were truncated.

    Raises:
        ValueError: `pairs` has another length than `texts`, `length` leaves no room for text, `stride` is not
            below that room, or the windows would not fit into memory.
    """
    if stride is None:
        arrays, cut = pretrained.encode(tokenizer, texts, pairs, length)
        return arrays, np.arange(len(texts)), cut
    if pairs is not None and len(pairs) != len(texts):
        raise ValueError(f"there must be as many pairs as texts, {len(texts)}, got {len(pairs)}")
    room = length - tokenizer.num_special_tokens_to_add(pairs is not None)
    least = room if pairs is None else room - room // 2
    if not 0 <= stride < least:
        told = "tokens of a text" if pairs is None else "tokens of the second text of a pair"
        raise ValueError(
            f"stride must be below the {max(least, 0)} {told} in a window of {length}, got {stride}"
        )
    template, pad = _template(tokenizer, pairs is not None), tokenizer.padding["pad_id"]
    rows: list[np.ndarray] = []
    owners, cut, limit = [], 0, memory.limit()
    for i, (*fixed, divided) in enumerate(_tokens(tokenizer, texts, pairs)):
        most = room
        if fixed:
            kept = max(room // 2, room - len(divided))
            cut += len(fixed[0]) > kept
            fixed = [fixed[0][:kept]]
            most -= len(fixed[0])
        of_text = spans(len(divided), most, stride)
        if (size := (len(rows) + len(of_text)) * len(_ARRAYS) * length * 4) > limit:
            memory.check(size, f"windows of {length} tokens of {len(texts)} texts")
        rows += [_row(template, [*fixed, divided[start:end]], length, pad) for start, end in of_text]
        owners += [i] * len(of_text)
    found = np.stack(rows, 1) if rows else np.zeros((len(_ARRAYS), 0, length), np.int32)
    return dict(zip(_ARRAYS, found, strict=True)), np.array(owners, np.int64), cut


def spans(count: int, most: int, stride: int) -> list[tuple[int, int]]:
    """Start and end of each window of a text.

    Args:
        count: number of tokens of the text.
        most: number of tokens of it in a window.
        stride: number of tokens that neighbouring windows share, ≥ 0; less than `most` if there are several.

    Example:
        >>> spans(10, 4, 1), spans(4, 4, 1), spans(0, 4, 1)
        ([(0, 4), (3, 7), (6, 10)], [(0, 4)], [(0, 0)])
    """
    if count <= most:
        return [(0, count)]
    starts = range(0, count - stride, most - stride)
    return [(start, min(start + most, count)) for start in starts]


def counts(owners: np.ndarray) -> np.ndarray:
    """The number of windows of each text, [N].

    Args:
        owners: the text of each window, ascending, [W].
    """
    return np.bincount(owners)


def means(values: np.ndarray, owners: np.ndarray) -> np.ndarray:
    """The mean over the windows of each text, [N, C].

    Args:
        values: one row for each window, [W, C].
        owners: the text of each window, ascending, [W]; every text has a window.

    Example:
        >>> means(np.array([[1.0], [2.0], [5.0]]), np.array([0, 1, 1])).tolist()
        [[1.0], [3.5]]
    """
    of_each = counts(owners)
    if len(of_each) == len(values):
        return values
    sums = np.add.reduceat(values, np.cumsum(of_each) - of_each, axis=0)
    return sums / of_each[:, None].astype(values.dtype)


def _template(tokenizer: Tokenizer, pairs: bool) -> list[tuple[int | None, int, int]]:
    """What a row is made of: (which of the texts, None for a special token; its id; type), in order."""
    (row,) = tokenizer_file.encode(tokenizer, [("a", "b") if pairs else "a"])
    padded = zip(row.sequence_ids, row.ids, row.type_ids, row.attention_mask, strict=True)
    parts = [(which, id_, type_) for which, id_, type_, is_token in padded if is_token]
    return [part for i, part in enumerate(parts) if part[0] is None or part[0] not in {p[0] for p in parts[:i]}]


def _row(
    template: Sequence[tuple[int | None, int, int]], texts: Sequence[Sequence[int]], length: int, pad: int
) -> np.ndarray:
    """Ids, mask and types of a window, int32 [3, T]."""
    row = np.zeros((len(_ARRAYS), length), np.int32)
    row[0], end = pad, 0
    for which, id_, type_ in template:
        ids = [id_] if which is None else texts[which]
        start, end = end, end + len(ids)
        row[0, start:end], row[1, start:end], row[2, start:end] = ids, 1, type_
    return row


def _tokens(
    tokenizer: Tokenizer, texts: Sequence[str], pairs: Sequence[str] | None
) -> Iterator[tuple[list[int], ...]]:
    """The ids of each text, or of both texts of each pair, without special tokens."""
    padding = tokenizer.padding
    tokenizer.no_truncation()
    tokenizer.no_padding()
    try:
        for i in range(0, len(texts), _AT_ONCE):
            parts = [texts[i : i + _AT_ONCE], *([] if pairs is None else [pairs[i : i + _AT_ONCE]])]
            rows = [tokenizer_file.encode(tokenizer, part, add_special_tokens=False) for part in parts]
            yield from zip(*([row.ids for row in part] for part in rows), strict=True)
    finally:
        tokenizer.enable_padding(**padding)
