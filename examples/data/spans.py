"""Span corruption: spans of a text are cut out, and the model predicts them as its answer.

    text      Thank you for inviting me to your party last week .
    ids       Thank you ⟨0⟩ me to your party ⟨1⟩ week . ⟨end⟩
    answer    ⟨0⟩ for inviting ⟨1⟩ last ⟨end⟩

15 % of the tokens are cut out, in spans of 3 on average. Both numbers are exact for every row, so that all
batches have the same shape; lengths and positions of the spans are random, uniform among all with the right
sums. Sentinel ⟨0⟩ is the last id of the vocabulary, ⟨1⟩ the one before it.

Source: Raffel et al., "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer"
(arXiv:1910.10683) and its code.
"""

import dataclasses

import numpy as np

from examples.data import random_bits

RATE, MEAN_LENGTH = 0.15, 3.0


@dataclasses.dataclass(frozen=True)
class Shape:
    """How many tokens of a row of text are cut out, and in how many spans.

    Attributes:
        length: number of tokens of text, at least 2.
        cut: number of tokens cut out.
        spans: number of spans cut out.
    """

    length: int
    cut: int
    spans: int

    @classmethod
    def of(cls, length: int) -> "Shape":
        """The shape of a row of text with a number of tokens, at least 2."""
        if length < 2:
            raise ValueError(f"a row must have 2 tokens or more, got {length}")
        cut = min(max(round(RATE * length), 1), length - 1)
        return cls(length, cut, min(max(round(cut / MEAN_LENGTH), 1), cut, length - cut))

    @property
    def inputs(self) -> int:
        """Number of tokens of the corrupted row, including its end."""
        return self.length - self.cut + self.spans + 1

    @property
    def answers(self) -> int:
        """Number of tokens of the answer, including its end."""
        return self.cut + self.spans + 1


def shape_of_inputs(length: int) -> Shape:
    """The longest row of text whose corruption has at most `length` tokens.

    Raises:
        ValueError: the corruption of every row is longer.

    Example:
        >>> shape = shape_of_inputs(512)
        >>> shape.length, shape.inputs, shape.answers  # as in T5
        (568, 512, 114)
    """
    shape = Shape.of(2)
    if shape.inputs > length:
        raise ValueError(f"length must be at least {shape.inputs}, got {length}")
    while (longer := Shape.of(shape.length + 1)).inputs <= length:
        shape = longer
    return shape


def corrupt(rows_BT: np.ndarray, end: int, vocabulary: int, seed: int, step: int) -> dict[str, np.ndarray]:
    """Cut spans out of a batch.

    Args:
        rows_BT: ids, int32 [B, T], T at least 2.
        end: id of the token that ends a row.
        vocabulary: size of the vocabulary, whose last ids are the sentinels.
        seed: seed of the choice.
        step: the training step; each step has its own choice.

    Returns:
        `ids_BS`, the corrupted rows, and `targets_BT`, the answers.
    """
    rows, length = rows_BT.shape
    shape = Shape.of(length)
    kept_BN = _lengths(shape.length - shape.cut, shape.spans, rows, (seed, 0, step))
    cut_BN = _lengths(shape.cut, shape.spans, rows, (seed, 1, step))
    # Stretches alternate: kept, cut, kept, cut …
    lengths = np.stack([kept_BN, cut_BN], axis=2).reshape(rows, -1)
    ends = np.cumsum(lengths, axis=1)
    stretch_BT = (np.arange(length)[None, :, None] >= ends[:, None, :]).sum(axis=2)
    sentinels_BN = np.broadcast_to(vocabulary - 1 - np.arange(shape.spans), (rows, shape.spans))
    ends_B1 = np.full((rows, 1), end)

    def joined(is_ours: np.ndarray, stretch_of_sentinel: int, last: np.ndarray) -> np.ndarray:
        """The tokens of one kind of stretch, a sentinel in place of each of the others, and the end."""
        count = is_ours[0].sum()
        tokens = rows_BT[is_ours].reshape(rows, count)
        places = stretch_BT[is_ours].reshape(rows, count)
        sentinel_places = np.broadcast_to(2 * np.arange(shape.spans) + stretch_of_sentinel, sentinels_BN.shape)
        order = np.argsort(np.concatenate([places, sentinel_places], axis=1), axis=1, kind="stable")
        ordered = np.take_along_axis(np.concatenate([tokens, sentinels_BN], axis=1), order, axis=1)
        return np.concatenate([ordered, last], axis=1).astype(np.int32)

    is_cut = stretch_BT % 2 == 1
    return {"ids_BS": joined(~is_cut, 1, ends_B1), "targets_BT": joined(is_cut, 0, ends_B1)}


def _lengths(total: int, parts: int, rows: int, key: tuple[int, ...]) -> np.ndarray:
    """Positive lengths [rows, parts] that add up to a total, uniform among all such lengths."""
    cuts = random_bits.choices(key, rows, total - 1, parts - 1) + 1
    edges = np.concatenate([np.zeros((rows, 1), int), cuts, np.full((rows, 1), total)], axis=1)
    return np.diff(edges, axis=1)
