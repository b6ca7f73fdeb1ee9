import numpy as np
import pytest
from sklearn.metrics import matthews_corrcoef

from examples.data import baseline
from examples.data.baseline import NoBaselineError, majority_baseline, metrics, tfidf_baseline
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


@pytest.mark.parametrize("classes", [2, 5, 40])
def test_the_correlation_is_that_of_scikit_learn(classes):
    labels, predictions = np.random.default_rng(classes).integers(0, classes, (2, 60))
    predictions = np.where(np.arange(60) % 2, labels, predictions)
    assert metrics(labels, predictions)["mcc"] == pytest.approx(matthews_corrcoef(labels, predictions))


def test_the_most_frequent_class_is_that_of_the_training_examples():
    parts = [examples(["a"] * 4, labels) for labels in ([1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 0])]
    ((name, found),) = majority_baseline(*parts).items()
    assert name == "most frequent class"
    assert (found["validation"]["accuracy"], found["test"]["accuracy"]) == (0.25, 0.75)


@pytest.mark.filterwarnings("error")
def test_as_many_classes_as_texts_are_no_warning_of_scikit_learn():
    train = examples([f"word{i} film" for i in range(60)], [*range(60)])
    assert tfidf_baseline(train, train, train)["TF-IDF + logistic regression"]["test"]["accuracy"] > 0.5
    assert baseline.confusion([*map(str, range(60))], train.labels, train.labels)


def test_tfidf_learns_words_and_word_pairs():
    # "not good" against "good": no single word decides.
    texts = [f"{opening} {film}" for film in "abcdefgh" for opening in ("good and not bad", "bad and not good")]
    train = examples(texts, [1, 0] * 8)
    found = tfidf_baseline(train, train, train)["TF-IDF + logistic regression"]
    assert found["test"]["accuracy"] == found["test"]["mcc"] == 1.0


def test_tfidf_reads_the_second_text():
    train = examples(["same"] * 8, [0, 1] * 4, pairs=["rain", "shine"] * 4)
    (found,) = tfidf_baseline(train, train, train).values()
    assert found["test"]["accuracy"] == 1.0


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
    (found,) = tfidf_baseline(parts["train"], parts["validation"], test).values()
    (opposite,) = tfidf_baseline(parts["train"], parts["validation"], flipped).values()
    assert found["validation"] == opposite["validation"]
    assert found["test"]["accuracy"] == pytest.approx(1 - opposite["test"]["accuracy"])


NO_BASELINE = {
    "one class": (["good", "fine"], [1, 1], "one class"),
    "emoji": (["😀 😀", "😡"], [1, 0], "no words of two letters or more"),
    "letters": (["a b", "c"], [1, 0], "no words of two letters or more"),
    "nothing": (["", ""], [1, 0], "no words of two letters or more"),
}


@pytest.mark.parametrize(("texts", "labels", "reason"), NO_BASELINE.values(), ids=NO_BASELINE)
def test_a_baseline_that_cannot_be_computed_says_why(texts, labels, reason):
    train = examples(texts, labels)
    with pytest.raises(NoBaselineError, match=reason):
        tfidf_baseline(train, train, train)


def test_many_classes_and_words_are_for_naive_bayes_a_few_examples_at_a_time(monkeypatch):
    """At full size, 3,000 classes took over 4 GiB, and 150 many minutes."""
    monkeypatch.setattr(baseline, "MAX_TOUCHED", 1000)
    monkeypatch.setattr(baseline, "MAX_CELLS", 2000)  # 40 examples of 50 classes, 40 words
    labels = [i % 50 for i in range(500)]
    train = examples([f"word{label} more{i % 7}" for i, label in enumerate(labels)], labels)
    widths = []

    class Seen(baseline.ComplementNB):
        def partial_fit(self, features, labels, classes):
            widths.append((features.shape, len(classes)))
            return super().partial_fit(features, labels, classes)

    monkeypatch.setattr(baseline, "ComplementNB", Seen)
    found = tfidf_baseline(train, train, train)
    assert found.keys() == {"TF-IDF + naive Bayes"}
    assert max(widths) == ((40, 40), 50) and sum(rows for (rows, _), _ in widths) == 3 * 500
    assert found["TF-IDF + naive Bayes"]["test"]["accuracy"] > 0.5


def test_too_much_text_is_sampled_and_the_name_says_so(monkeypatch):
    monkeypatch.setattr(baseline, "MAX_CHARACTERS", 300)
    texts = [f"{'rain' if i % 2 else 'shine'} {i % 9}" for i in range(100)]
    train = examples(texts, [i % 2 for i in range(100)])
    ((name, found),) = tfidf_baseline(train, train, train).items()
    assert name.startswith("TF-IDF + logistic regression (4") and name.endswith(" of 100 training examples)")
    assert found["test"]["accuracy"] == 1.0
