"""The task whose labels only the order of words decides."""

import collections

import numpy as np
import pytest

from examples.data import docstrings, text, word_order


@pytest.fixture(scope="module")
def parts():
    return word_order.load_split()


def test_parts_have_the_stated_sizes_and_both_labels_about_equally_often(parts):
    assert {name: len(part.texts) for name, part in parts.items()} == word_order.SIZES
    for part in parts.values():
        assert part.label_names == word_order.LABELS
        assert abs(part.labels.mean() - 0.5) < 2 / np.sqrt(len(part.texts)), part.source


def test_a_sentence_keeps_its_words_and_the_label_says_whether_they_moved(parts):
    sentences = text.sample(docstrings.load_split()["test"], word_order.SIZES["test"]).texts
    for sentence, given, label in zip(sentences, parts["test"].texts, parts["test"].labels, strict=True):
        words = sentence.lower()
        assert given == given.lower() and len(given.split()) <= word_order.MAX_WORDS
        assert collections.Counter(given.split()) <= collections.Counter(word_order._WORD.findall(words))
        in_order = " ".join(word_order._WORD.findall(words)[: word_order.MAX_WORDS])
        assert (given == in_order) == (label == 0)


def test_no_sentence_is_in_two_parts(parts):
    words = [sorted(given.split()) for part in parts.values() for given in part.texts]
    copies = sum(count - 1 for count in collections.Counter(map(tuple, words)).values())
    assert copies <= 0.01 * len(words)  # sentences that differ after their twelfth word only
