import numpy as np
import pytest

from examples.data.baseline import metrics, tfidf_baseline
from examples.data.text import TextExamples, split


def examples(texts: list[str], labels: list[int], pairs: list[str] | None = None) -> TextExamples:
    return TextExamples(
        texts=tuple(texts),
        pairs=None if pairs is None else tuple(pairs),
        labels=np.array(labels, np.int32),
        label_names=("0", "1"),
        source="test",
    )


def test_metrics_by_hand():
    # 3 classes; class 2 is never predicted. F1 of 0, 1, 2: 2/3, 4/5, 0.
    labels, predictions = [0, 0, 1, 1, 2], [0, 1, 1, 1, 0]
    found = metrics(labels, predictions)
    assert found["accuracy"] == pytest.approx(3 / 5)
    assert found["macro_f1"] == pytest.approx((1 / 2 + 4 / 5 + 0) / 3)
    # Gorodkin's R_K = (c s − Σ p_k t_k) / sqrt((s² − Σ p_k²) (s² − Σ t_k²)), c = 3 right of s = 5.
    true, predicted = np.array([2, 2, 1]), np.array([2, 3, 0])
    numerator = 3 * 5 - true @ predicted
    assert found["mcc"] == pytest.approx(numerator / np.sqrt((25 - predicted @ predicted) * (25 - true @ true)))
    assert all(type(value) is float for value in found.values())


def test_metrics_of_a_constant_answer():
    assert metrics([0, 1], [0, 0]) == {"accuracy": 0.5, "macro_f1": pytest.approx(1 / 3), "mcc": 0.0}


@pytest.mark.parametrize(("labels", "predictions"), [([], []), ([0, 1], [0])])
def test_metrics_refuses(labels, predictions):
    with pytest.raises(ValueError):
        metrics(labels, predictions)


def test_tfidf_learns_words_and_word_pairs():
    # "not good" against "good": no single word decides.
    texts = [f"{opening} {film}" for film in "abcdefgh" for opening in ("good and not bad", "bad and not good")]
    train = examples(texts, [1, 0] * 8)
    found = tfidf_baseline(train, train, train)
    assert found["test"]["accuracy"] == found["test"]["mcc"] == 1.0


def test_tfidf_reads_the_second_text():
    train = examples(["same"] * 8, [0, 1] * 4, pairs=["rain", "shine"] * 4)
    assert tfidf_baseline(train, train, train)["test"]["accuracy"] == 1.0


def test_tfidf_does_not_look_at_the_test_labels():
    rng = np.random.default_rng(0)
    words = np.array(["rain", "wind", "sun", "sea", "fog"])
    texts = [" ".join(words[rng.integers(0, 5, 4)]) + f" w{i}" for i in range(200)]
    parts = split(
        examples(texts, [int("rain" in text) for text in texts]),
        {"train": 0.5, "validation": 0.2, "test": 0.3},
    )
    test = parts["test"]
    flipped = examples(list(test.texts), list(1 - test.labels))
    found = tfidf_baseline(parts["train"], parts["validation"], test)
    opposite = tfidf_baseline(parts["train"], parts["validation"], flipped)
    assert found["validation"] == opposite["validation"]
    assert found["test"]["accuracy"] == pytest.approx(1 - opposite["test"]["accuracy"])


def test_tfidf_refuses_a_single_class():
    train = examples(["good", "fine"], [1, 1])
    with pytest.raises(ValueError, match="class"):
        tfidf_baseline(train, train, train)
