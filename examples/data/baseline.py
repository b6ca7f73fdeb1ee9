"""What a fine-tuned model has to beat: counting words, or weighing pixels.

Logistic regression on TF-IDF of words and word pairs takes seconds and no pretrained weights, and on many
data sets it is hard to beat. To be no straw man it gets its strength of regularisation from the validation
examples, as a model gets its learning rate.
"""

from collections.abc import Sequence

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from examples.data.images import ImageExamples
from examples.data.text import TextExamples

INVERSE_REGULARISATION = (3.0, 10.0, 30.0, 100.0, 300.0)
PIXEL_REGULARISATION = (0.01, 0.1, 1.0)
MAX_PIXELS = 4_000  # of an image, for the regression to take seconds


def metrics(labels: Sequence[int] | np.ndarray, predictions: Sequence[int] | np.ndarray) -> dict[str, float]:
    """Accuracy, macro-averaged F1 and Matthews correlation (of CoLA) of predictions.

    Args:
        labels: [N] classes, N ≥ 1.
        predictions: [N] classes.

    Returns:
        "accuracy" and "macro_f1" in [0, 1], the latter over the classes that occur in either argument;
        "mcc" in [−1, 1], 0 where all labels or all predictions are the same.

    Raises:
        ValueError: no labels, or unequal lengths.

    Example:
        >>> metrics([0, 0, 1, 1], [0, 0, 1, 0])["accuracy"]
        0.75
    """
    return {
        "accuracy": float(accuracy_score(labels, predictions)),
        "macro_f1": float(f1_score(labels, predictions, average="macro", zero_division=0)),
        "mcc": float(matthews_corrcoef(labels, predictions)),
    }


def tfidf_baseline(
    train: TextExamples, validation: TextExamples, test: TextExamples
) -> dict[str, dict[str, float]]:
    """Logistic regression on the TF-IDF of words and word pairs, tuned on validation accuracy.

    Returns:
        The `metrics` of the "validation" and of the "test" examples.

    Raises:
        ValueError: the training examples have one class only, or no words.
    """
    # float32 halves the time and changes the third digit.
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, dtype=np.float32)
    features = vectorizer.fit_transform(_documents(train))
    models = [
        LogisticRegression(C=c, max_iter=1000).fit(features, train.labels) for c in INVERSE_REGULARISATION
    ]

    def figures(model: LogisticRegression, part: TextExamples) -> dict[str, float]:
        return metrics(part.labels, model.predict(vectorizer.transform(_documents(part))))

    # max() keeps the first of equals: the strongest regularisation.
    best = max(models, key=lambda model: figures(model, validation)["accuracy"])
    return {"validation": figures(best, validation), "test": figures(best, test)}


def pixel_baseline(
    train: ImageExamples, validation: ImageExamples, test: ImageExamples
) -> dict[str, dict[str, dict[str, float]]]:
    """Logistic regression on pixels, tuned on validation accuracy.

    Returns:
        Its name → the `metrics` of the "validation" and of the "test" examples; nothing for large images.
    """
    if train.images[0].size > MAX_PIXELS:
        return {}

    def features(part: ImageExamples) -> np.ndarray:
        return part.images.reshape(len(part.images), -1).astype(np.float32) / 128 - 1

    def figures(model: LogisticRegression, part: ImageExamples) -> dict[str, float]:
        return metrics(part.labels, model.predict(features(part)))

    models = [
        LogisticRegression(C=c, max_iter=200).fit(features(train), train.labels) for c in PIXEL_REGULARISATION
    ]
    best = max(models, key=lambda model: figures(model, validation)["accuracy"])
    return {"logistic regression": {"validation": figures(best, validation), "test": figures(best, test)}}


def _documents(examples: TextExamples) -> list[str]:
    if examples.pairs is None:
        return list(examples.texts)
    return [f"{text}\n{pair}" for text, pair in zip(examples.texts, examples.pairs, strict=True)]
