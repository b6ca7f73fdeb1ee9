"""Balanced batches see every class equally often, and every example of a class before one comes again."""

import itertools

import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight

from examples.data import buckets
from examples.data.sampling import balanced, class_weights

LABELS = np.array([0] * 9 + [1] * 3 + [3])


def test_balanced_batches():
    arrays = {"row": np.arange(13), "label": LABELS}
    batch = balanced(arrays, LABELS, 6, 0, (0, 1))
    drawn = np.concatenate([batch(step)["row"] for step in range(9)])  # 54: 18 of each class
    assert np.bincount(LABELS[drawn]).tolist() == [18, 18, 0, 18]
    assert np.bincount(drawn, minlength=13).tolist() == [2] * 9 + [6] * 3 + [18]
    for step in range(9):
        assert np.bincount(batch(step)["label"]).tolist() == [2, 2, 0, 2]
    again = balanced(arrays, LABELS, 6, 0, (0, 1))
    assert again(8)["row"].tolist() == batch(8)["row"].tolist()
    assert balanced(arrays, LABELS, 6, 1, (0, 1))(8)["row"].tolist() != batch(8)["row"].tolist()


def test_the_shares_of_a_balanced_batch_are_the_batch():
    arrays = {"row": np.arange(13)}
    whole = balanced(arrays, LABELS, 6, 0, (0, 1))
    for parts in (2, 3):
        shares = [balanced(arrays, LABELS, 6, 0, (part, parts)) for part in range(parts)]
        for step in range(4):
            rows = np.concatenate([share(step)["row"] for share in shares])
            np.testing.assert_array_equal(rows, whole(step)["row"])
    with pytest.raises(ValueError, match="n a divisor of 6"):
        balanced(arrays, LABELS, 6, 0, (0, 4))


def test_weights_of_balanced_classes_are_those_of_scikit_learn():
    labels = np.array([0] * 9 + [1] * 3 + [2])
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    np.testing.assert_allclose(class_weights(["balanced"], labels, ["a", "b", "c"]), expected, rtol=1e-6)
    assert class_weights(["b=4", "a=0.5"], labels, ["a", "b", "c"]).tolist() == [0.5, 4, 1]
    assert class_weights(["x=y=4"], labels, ["x=y", "b", "c"]).tolist() == [4, 1, 1]


@pytest.mark.parametrize(
    ("items", "said"),
    [
        (["spam=2"], "--class_weights=spam=2: there is no class 'spam' among 'a', 'b'"),
        (["a=2", "a=3"], "--class_weights=a=3: the class 'a' has two weights"),
        (["a=0"], r"class_weights 'a=0' must be balanced, or NAME=WEIGHT with a weight in \(0, 1e6\]"),
        (["a=nan"], "class_weights 'a=nan' must be balanced, or NAME=WEIGHT"),
        (["balance"], "class_weights 'balance' must be balanced, or NAME=WEIGHT"),
    ],
)
def test_what_is_no_weight_of_a_class_is_refused(items, said):
    with pytest.raises(ValueError, match=said):
        class_weights(items, np.array([0, 1]), ["a", "b"])


def test_buckets_leave_the_least_padding_of_all_choices():
    rng = np.random.default_rng(0)
    for _ in range(100):
        most = int(rng.integers(5, 60))
        lengths = rng.integers(1, most + 1, rng.integers(1, 40))
        count = int(rng.integers(1, 5))
        found = buckets.bounds(lengths, count, most)
        assert found[-1] == most and len(found) <= count and found == sorted({*found})
        others = list(range(8, most, 8))
        choices = itertools.combinations(others, min(count - 1, len(others)))
        best = min(buckets.padding(lengths, [*some, most]) for some in choices)
        assert buckets.padding(lengths, found) == pytest.approx(best)
