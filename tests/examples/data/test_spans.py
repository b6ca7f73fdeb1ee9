import collections

import numpy as np
import pytest

from examples.data.spans import Shape, corrupt, shape_of_inputs

END, VOCABULARY = 1, 1_000


def restored(ids, answer):
    """The text again: each sentinel of the ids replaced by its stretch in the answer."""
    assert ids[-1] == answer[-1] == END
    stretches = collections.defaultdict(list)
    for token in answer[:-1]:
        if token > 900:
            sentinel = token
        else:
            stretches[sentinel].append(token)
    return [t for token in ids[:-1] for t in (stretches[token] if token > 900 else [token])]


def test_nothing_is_lost():
    rows_BT = np.random.default_rng(0).integers(2, 900, (50, 67)).astype(np.int32)
    shape = Shape.of(67)
    assert (shape.cut, shape.spans) == (10, 3)
    cut = corrupt(rows_BT, END, VOCABULARY, seed=0, step=0)
    assert cut["ids_BS"].shape == (50, shape.inputs) and cut["targets_BT"].shape == (50, shape.answers)
    for text, ids, answer in zip(
        rows_BT.tolist(), cut["ids_BS"].tolist(), cut["targets_BT"].tolist(), strict=True
    ):
        assert restored(ids, answer) == text
        assert [t for t in ids if t > 900] == [999, 998, 997] == [t for t in answer if t > 900]
        assert ids[0] < 900 and answer[0] == 999 and ids[-2] == 997  # it begins kept and ends cut


def test_stretches_are_uniform():
    text = np.tile(np.arange(2, 22, dtype=np.int32), (6_000, 1))
    cut = corrupt(text, END, VOCABULARY, seed=0, step=0)
    assert Shape.of(20) == Shape(20, cut=3, spans=1)
    # One stretch of 3, at the end.
    np.testing.assert_array_equal(cut["targets_BT"][0], [999, 19, 20, 21, END])
    longer = np.tile(np.arange(2, 42, dtype=np.int32), (6_000, 1))
    cut = corrupt(longer, END, VOCABULARY, seed=0, step=0)
    assert Shape.of(40) == Shape(40, cut=6, spans=2)
    first = (cut["targets_BT"] == 998).argmax(1) - 1  # length of the first stretch: 1 to 5
    counts = np.bincount(first, minlength=6)
    assert counts[0] == 0 and abs(counts[1:] - 1_200).max() < 4 * np.sqrt(1_200)


def test_seed_and_step_decide():
    rows_BT = np.arange(2, 82, dtype=np.int32).reshape(2, 40)
    first = corrupt(rows_BT, END, VOCABULARY, seed=0, step=3)
    for other, same in (((0, 3), True), ((0, 4), False), ((1, 3), False)):
        again = corrupt(rows_BT, END, VOCABULARY, *other)
        assert all(np.array_equal(first[name], again[name]) for name in first) == same


@pytest.mark.parametrize("length", [4, 10, 64, 128, 511])
def test_the_longest_text_that_fits(length):
    shape = shape_of_inputs(length)
    assert shape.inputs <= length < Shape.of(shape.length + 1).inputs


def test_too_short():
    with pytest.raises(ValueError, match="length must be at least 3, got 2"):
        shape_of_inputs(2)


def test_a_row_of_one_token_has_no_span():
    with pytest.raises(ValueError, match="a row must have 2 tokens or more, got 1"):
        corrupt(np.ones((1, 1), np.int32), END, VOCABULARY, seed=0, step=0)
