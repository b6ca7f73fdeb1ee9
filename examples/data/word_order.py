"""A classification task that a bag of words cannot solve: whether the words of a sentence are in their order.

The sentences are those of `docstrings`. Half of them, as a hash decides, have their words in a random order:

    "wake up the first waiter that isn't done"        in order
    "remove the all entries cache from"               shuffled

Labels cost nothing, so that any text makes such a task. What keeps it honest:

- A sentence is in the part that it has in `docstrings.load_split`, and occurs in one order only.
- Case and punctuation are left out, as a full stop in the middle would give the order away.
- A sentence ends after its twelfth word, so that all have about the same number.
"""

import dataclasses
import hashlib
import re

import numpy as np

from examples.data import docstrings, text

LABELS = ("in order", "shuffled")
SIZES = {"train": 160, "validation": 256, "test": 512}
MAX_WORDS = 12

_WORD = re.compile(r"[a-z]+(?:'[a-z]+)?")


def load_split() -> dict[str, text.TextExamples]:
    """The parts "train", "validation" and "test", each a random sample of the part of `docstrings`.

    Raises:
        ValueError: as for `docstrings.load`.
    """
    parts = docstrings.load_split()
    return {name: _relabelled(text.sample(parts[name], size)) for name, size in SIZES.items()}


def arranged(sentence: str) -> tuple[str, int]:
    """The words of a sentence, in their order or shuffled, and the label that says which.

    Args:
        sentence: a sentence; it decides alone.

    Example:
        >>> arranged("Wake up the first waiter that isn't done.")
        ("wake up the first waiter that isn't done", 0)
    """
    words = _WORD.findall(sentence.lower())[:MAX_WORDS]
    draw = np.random.default_rng(int.from_bytes(hashlib.sha256(sentence.encode()).digest()[:8]))
    order = draw.permutation(len(words)) if draw.integers(2) else range(len(words))
    found = [words[i] for i in order]
    return " ".join(found), int(found != words)


def _relabelled(sentences: text.TextExamples) -> text.TextExamples:
    texts, labels = zip(*map(arranged, sentences.texts), strict=True)
    given = {"texts": texts, "labels": np.array(labels, np.int32), "label_names": LABELS}
    return dataclasses.replace(sentences, **given, source=f"word order of {sentences.source}")
