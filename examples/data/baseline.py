"""The baselines that a fine-tuned model has to beat: linear classifiers of word counts or of pixels.

Logistic regression on TF-IDF of words and word pairs takes seconds, needs no pretrained weights, and is hard to
beat on many data sets. Its size is words times classes: if that is too large, naive Bayes, which reads the
examples once, takes its place. So that neither is a straw man, their strength of regularisation is chosen on
the validation examples, as a model's learning rate is. A baseline that learns from only some of the training
examples says so.
"""

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score
from sklearn.naive_bayes import ComplementNB

from examples.data.images import ImageExamples
from examples.data.text import TextExamples

METRICS = ("accuracy", "macro_f1", "mcc")
MAX_CONFUSED = 100  # classes of a confusion matrix
INVERSE_REGULARISATION = (3.0, 10.0, 30.0, 100.0, 300.0)
SMOOTHING = (0.1, 0.3, 1.0)
PIXEL_REGULARISATION = (0.01, 0.1, 1.0)
MAX_PIXELS = 4_000  # per image, so that the regression takes seconds

# Above these, logistic regression takes many minutes: coefficients, and coefficients that the examples touch.
MAX_COEFFICIENTS, MAX_TOUCHED = 1_000_000, 5_000_000
MAX_CELLS = 2**24  # of the largest array: 128 MiB
MAX_CHARACTERS = 20_000_000  # of training text, whose word pairs fit into half a gigabyte
MAX_PIXELS_SEEN = 50_000_000  # of the training images, times classes

Metrics = dict[str, dict[str, dict[str, float]]]


class NoBaselineError(ValueError):
    """A baseline cannot be computed; the message is the reason, for the report."""


@contextlib.contextmanager
def _many_classes() -> Iterator[None]:
    """Without scikit-learn's warning of as many classes as examples, of which a summary of the data warns."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The number of unique classes")
        yield


@_many_classes()
def confusion(
    names: Sequence[str], labels: Sequence[int] | np.ndarray, predictions: Sequence[int] | np.ndarray
) -> dict[str, Any]:
    """How many examples of each class were predicted to be of each, for the record of a run.

    Args:
        names: names of the classes, C.
        labels: [N] classes.
        predictions: [N] classes.

    Returns:
        The names, and the matrix, classes of the examples in rows; nothing for more than MAX_CONFUSED classes.

    Example:
        >>> confusion(["no", "yes"], [0, 1, 1], [0, 0, 1])
        {'confusion': {'classes': ['no', 'yes'], 'matrix': [[1, 0], [1, 1]]}}
    """
    if len(names) > MAX_CONFUSED:
        return {}
    matrix = confusion_matrix(labels, predictions, labels=range(len(names))).tolist()
    return {"confusion": {"classes": list(names), "matrix": matrix}}


@_many_classes()
def metrics(labels: Sequence[int] | np.ndarray, predictions: Sequence[int] | np.ndarray) -> dict[str, float]:
    """Accuracy, macro-averaged F1 and Matthews correlation (the metric of CoLA) of predictions.

    Args:
        labels: [N] classes, N ≥ 1.
        predictions: [N] classes.

    Returns:
        "accuracy" and "macro_f1" in [0, 1], the latter over the classes that occur in either argument;
        "mcc" in [−1, 1], 0 where all labels or all predictions are the same.

    Raises:
        ValueError: there are no labels, or the lengths differ.

    Example:
        >>> metrics([0, 0, 1, 1], [0, 0, 1, 0])["accuracy"]
        0.75
    """
    return {
        "accuracy": float(accuracy_score(labels, predictions)),
        "macro_f1": float(f1_score(labels, predictions, average="macro", zero_division=0)),
        "mcc": _matthews(np.asarray(labels), np.asarray(predictions)),
    }


def tfidf_baseline(train: TextExamples, validation: TextExamples, test: TextExamples) -> Metrics:
    """A linear classifier on the TF-IDF of words and word pairs, tuned on validation accuracy.

    Returns:
        Name of the classifier → its `metrics` on the "validation" and on the "test" examples.

    Raises:
        NoBaselineError: the training examples have only one class, or no words, or there is too little memory.
    """
    classes = _classes(train.labels)
    texts, rows = documents(train), within(train)
    vectorizer, features = word_features([texts[row] for row in rows], max(MAX_CELLS // classes, 1))
    labels = train.labels[rows]
    coefficients = features.shape[1] * (classes if classes > 2 else 1)
    if coefficients <= MAX_COEFFICIENTS and features.nnz * classes <= MAX_TOUCHED:
        name = "TF-IDF + logistic regression"
        # The strongest regularisation comes first, as the first among equals is taken.
        makes = [lambda c=c: LogisticRegression(C=c, max_iter=1000) for c in INVERSE_REGULARISATION]
    else:
        name = "TF-IDF + naive Bayes"
        makes = [lambda s=s: _Chunks(ComplementNB(alpha=s)) for s in SMOOTHING[::-1]]
    return {
        name + of_some(rows, texts): _tuned(
            makes, (features, labels), lambda part: vectorizer.transform(documents(part)), validation, test
        )
    }


def word_features(texts: Sequence[str], most: int) -> tuple[TfidfVectorizer, Any]:
    """The TF-IDF of words and word pairs, and that of the texts that it was fitted to.

    Args:
        texts: N texts.
        most: number of words and pairs to keep, those that occur most often, ≥ 1.

    Raises:
        NoBaselineError: there are no words, or there is too little memory.
    """
    # float32 halves the time and changes the third digit.
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, dtype=np.float32, max_features=most)
    try:
        return vectorizer, vectorizer.fit_transform(texts)
    except ValueError as error:  # of "empty vocabulary"
        raise NoBaselineError(f"no words of two letters or more in the training texts ({error})") from None
    except MemoryError:
        raise NoBaselineError("too little memory for the words of the training texts") from None


def majority_baseline(train: TextExamples, validation: TextExamples, test: TextExamples) -> Metrics:
    """The class that most training examples have, for every example.

    Returns:
        "most frequent class" → its `metrics` on the "validation" and on the "test" examples.
    """
    most = int(np.bincount(train.labels).argmax())
    parts = {"validation": validation, "test": test}
    return {
        "most frequent class": {
            name: metrics(part.labels, np.full(len(part.labels), most)) for name, part in parts.items()
        }
    }


def pixel_baseline(train: ImageExamples, validation: ImageExamples, test: ImageExamples) -> Metrics:
    """Logistic regression on pixels, tuned on validation accuracy.

    Returns:
        Name of the classifier → its `metrics` on the "validation" and on the "test" examples.

    Raises:
        NoBaselineError: the training examples have only one class, or the images are large.
    """
    classes, pixels = _classes(train.labels), train.images[0].size
    if pixels > MAX_PIXELS:
        raise NoBaselineError(f"the images have {pixels:,} numbers each, more than {MAX_PIXELS:,}")
    rows = _drawn(len(train.images), MAX_PIXELS_SEEN // (pixels * classes))

    def features(part: ImageExamples) -> np.ndarray:
        return part.images.reshape(len(part.images), -1).astype(np.float32) / 128 - 1

    makes = [lambda c=c: LogisticRegression(C=c, max_iter=200) for c in PIXEL_REGULARISATION]
    some = features(train)[rows], train.labels[rows]
    return {
        "logistic regression" + of_some(rows, train.images): _tuned(makes, some, features, validation, test)
    }


class _Chunks:
    """Naive Bayes, fitted a few examples at a time, because it writes out their classes as a matrix."""

    def __init__(self, model: ComplementNB):
        self._model = model

    def fit(self, features: Any, labels: np.ndarray) -> "_Chunks":
        classes = np.unique(labels)
        size = max(MAX_CELLS // len(classes), 1)
        for start in range(0, len(labels), size):
            chunk = slice(start, start + size)
            self._model.partial_fit(features[chunk], labels[chunk], classes=classes)
        return self

    def predict(self, features: Any) -> np.ndarray:
        return self._model.predict(features)


@_many_classes()
def _tuned(
    makes: Sequence[Callable[[], Any]],
    train: tuple[Any, np.ndarray],
    features: Callable[[Any], Any],
    validation: Any,
    test: Any,
) -> dict[str, dict[str, float]]:
    """Metrics of the model with the highest validation accuracy; the first one among equals."""

    def tested(model: Any, part: Any, given: Any) -> dict[str, float]:
        size = max(MAX_CELLS // len(np.unique(train[1])), 1)  # of scores, example × class
        found = [model.predict(given[i : i + size]) for i in range(0, len(part.labels), size)]
        return metrics(part.labels, np.concatenate(found))

    given, best = features(validation), None
    for make in makes:
        model = make().fit(*train)
        its = tested(model, validation, given)
        if best is None or its["accuracy"] > best[1]["accuracy"]:
            best = model, its
    assert best is not None
    return {"validation": best[1], "test": tested(best[0], test, features(test))}


def _classes(labels: np.ndarray) -> int:
    found = len(np.unique(labels))
    if found < 2:
        raise NoBaselineError("all training examples are of one class")
    return found


def within(examples: TextExamples) -> np.ndarray:
    """Rows with a bounded number of characters in all, drawn at random but always the same."""
    order = np.random.default_rng(0).permutation(len(examples.texts))
    lengths = np.array([len(text) for text in documents(examples)])[order]
    return np.sort(order[: max(np.searchsorted(np.cumsum(lengths), MAX_CHARACTERS, "right"), 1)])


def _drawn(total: int, count: int) -> np.ndarray:
    """A number of rows, drawn at random but always the same."""
    return np.sort(np.random.default_rng(0).permutation(total)[: max(count, 1)])


def of_some(rows: np.ndarray, of: Sequence[Any] | np.ndarray) -> str:
    """What a baseline says that learns from only some of the training examples; nothing if from all."""
    return "" if len(rows) == len(of) else f" ({len(rows):,} of {len(of):,} training examples)"


def _matthews(labels: np.ndarray, predictions: np.ndarray) -> float:
    """Gorodkin's R_K from counts, because scikit-learn writes out all pairs of classes."""
    counts = [np.bincount(classes, minlength=1).astype(float) for classes in (labels, predictions)]
    true, predicted = (np.pad(c, (0, max(map(len, counts)) - len(c))) for c in counts)
    total, right = true.sum(), float((labels == predictions).sum())
    variances = (total**2 - predicted @ predicted) * (total**2 - true @ true)
    return float((right * total - true @ predicted) / variances**0.5) if variances > 0 else 0.0


def documents(examples: TextExamples) -> list[str]:
    """The texts, or both texts of each pair as one."""
    if examples.pairs is None:
        return list(examples.texts)
    return [f"{text}\n{pair}" for text, pair in zip(examples.texts, examples.pairs, strict=True)]
