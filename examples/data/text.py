"""Labelled texts, or pairs of texts, and their parts."""

import collections
import dataclasses
import itertools
import math
import unicodedata
from collections.abc import Iterator, Mapping

import numpy as np

from examples.data import dealing, overlap, targets

# A text with more copies than that is a crowd, and goes to the largest part.
_CROWD = 0.1  # of the smallest part of a split
_UNUSUAL = 5  # times as many as texts have on average


@dataclasses.dataclass(frozen=True, eq=False)
class TextExamples:
    """N labelled texts, or pairs of texts.

    Attributes:
        texts: N texts, or the first of each pair; a text may be empty.
        pairs: N second texts, or None.
        labels: int32 [N], each the index of a name in `label_names`; float32 [N, C] of zeros and ones for
            several labels each, and float32 [N] for numbers.
        label_names: the classes, in a fixed order; for numbers, the name of their column.
        source: where the examples come from, for the record of a run.
        problem: what a text is labelled with, one of `targets.PROBLEMS`.
        notes: what to know of the files, such as what was left out → how often.
        columns: columns of the text, or of the two texts of a pair; empty if they had none.
    """

    texts: tuple[str, ...]
    pairs: tuple[str, ...] | None
    labels: np.ndarray
    label_names: tuple[str, ...]
    source: str
    problem: str = targets.CLASS
    notes: Mapping[str, int] = dataclasses.field(default_factory=dict)
    columns: tuple[str, ...] = ()


def split(examples: TextExamples, fractions: Mapping[str, float]) -> dict[str, TextExamples]:
    """Distribute examples over named parts by a hash of their (first) text.

    The part of an example depends only on its text, up to case and white space: not on other examples, their
    order, or the machine. So a text that occurs twice is never in two parts. Two exceptions keep the parts
    balanced. Examples without any text are distributed one by one, by their position. A text that has many
    more copies than others, and would fill more than a tenth of the smallest part, goes to the largest part,
    with all its copies.

    Args:
        examples: N examples.
        fractions: part → expected share of the examples, > 0; the shares add up to 1.

    Raises:
        ValueError: the fractions are not positive or do not add up to 1, or a part gets no example.

    Example:
        >>> digits = tuple("0123456789")
        >>> examples = TextExamples(digits, None, np.arange(10) % 2, ("even", "odd"), "digits")
        >>> parts = split(examples, {"train": 0.7, "test": 0.3})
        >>> "".join(parts["train"].texts), "".join(parts["test"].texts)
        ('0134789', '256')
    """
    shares = np.array(list(fractions.values()), np.float64)
    if not (np.all(shares > 0) and math.isclose(shares.sum(), 1)):
        raise ValueError(f"fractions must be positive and add up to 1, got {dict(fractions)}")
    keys = [text or pair for text, pair in same_texts(examples)]
    positions = [dealing.position((key or f"\0{row}").encode()) for row, key in enumerate(keys)]
    owners = dealing.owners(positions, fractions, fill=False)
    copies = collections.Counter(keys)
    many = max(_UNUSUAL * len(keys) / max(len(copies), 1), _CROWD * shares.min() * len(keys))
    owners[[bool(key) and copies[key] > many for key in keys]] = shares.argmax()
    parts = {}
    for owner, name in enumerate(fractions):
        rows = np.flatnonzero(owners == owner)
        if not rows.size:
            different = f", {len(copies)} of them different" if len(copies) < len(keys) else ""
            raise ValueError(
                f"{name}: no example among {len(keys)} of {examples.source}{different}; "
                "there must be more, or a separate file for this part"
            )
        source = f"{examples.source}, {name} part ({fractions[name]:g})" if len(shares) > 1 else examples.source
        parts[name] = dataclasses.replace(_of_rows(examples, rows), source=source)
    return parts


def apart(train: TextExamples, others: Mapping[str, TextExamples]) -> TextExamples:
    """The training examples without those whose texts are in another part, which are counted in `notes`.

    Args:
        train: the training examples.
        others: other part → its examples.

    Raises:
        ValueError: more than a tenth of a part is in training, or nothing is left of training.
    """
    keys = {name: [key if any(key) else None for key in same_texts(part)] for name, part in others.items()}
    sources = {name: part.source for name, part in others.items()}
    rows = overlap.apart(same_texts(train), keys, sources, "texts")
    if not (count := len(train.texts) - len(rows)):
        return train
    notes = {**train.notes, overlap.note("texts"): count}
    return dataclasses.replace(_of_rows(train, np.array(rows)), notes=notes)


def sample(examples: TextExamples, count: int) -> TextExamples:
    """Draw examples at random, but always the same ones; all of them if there are not enough.

    Args:
        examples: N examples.
        count: number of examples to draw, ≥ 1.
    """
    return _of_rows(examples, np.random.default_rng(0).permutation(len(examples.texts))[:count])


def same(text: str) -> str:
    r"""Normalize the case, white space and Unicode form of a text, so that copies become equal.

    Example:
        >>> same("So it \n goes") == same("so it goes ")
        True
    """
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())


def same_texts(examples: TextExamples) -> list[tuple[str, str]]:
    """The text and the second text of each example, or an empty one, normalized by `same`."""
    return [(same(text), same(pair)) for text, pair in _both(examples)]


def _both(examples: TextExamples) -> Iterator[tuple[str, str]]:
    pairs = itertools.repeat("") if examples.pairs is None else examples.pairs
    return zip(examples.texts, pairs, strict=False)


def _of_rows(examples: TextExamples, rows: np.ndarray) -> TextExamples:
    return dataclasses.replace(
        examples,
        texts=tuple(examples.texts[row] for row in rows),
        pairs=None if examples.pairs is None else tuple(examples.pairs[row] for row in rows),
        labels=examples.labels[rows],
    )
