"""The baselines that a fine-tuned model of texts has to beat, for every kind of label."""

from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression, Ridge

from examples.data import baseline, measures, targets
from examples.data.text import TextExamples

REGULARISATION = (100.0, 10.0, 1.0, 0.1)
_MOST_LABELS = 100  # each has a model of its own


def tfidf(train: TextExamples, validation: TextExamples, test: TextExamples) -> baseline.Metrics:
    """A linear model on the TF-IDF of words and word pairs, tuned on the validation examples.

    Returns:
        Name of the model → its metrics on the "validation" and on the "test" examples.

    Raises:
        NoBaselineError: as for `baseline.tfidf_baseline`, or there are many labels.
    """
    if train.problem == targets.CLASS:
        return baseline.tfidf_baseline(train, validation, test)
    count = train.labels.shape[1] if train.problem == targets.LABELS else 1
    if count > _MOST_LABELS:
        raise baseline.NoBaselineError(f"{count:,} labels, more than {_MOST_LABELS}")
    documents, rows = baseline.documents(train), baseline.within(train)
    most = baseline.MAX_COEFFICIENTS // count
    vectorizer, features = baseline.word_features([documents[row] for row in rows], most)
    parts = {"validation": validation, "test": test}
    given = {name: vectorizer.transform(baseline.documents(part)) for name, part in parts.items()}
    name, makes, measure, best_by = _LINEAR[train.problem]
    best: dict[str, dict[str, float]] = {}
    for make in makes:  # the strongest regularisation comes first, as the first among equals is taken
        predict = make(features, train.labels[rows])
        found = {part: measure(parts[part].labels, predict(given[part])) for part in parts}
        if not best or found["validation"][best_by] > best["validation"][best_by]:
            best = found
    return {f"TF-IDF + {name}" + baseline.of_some(rows, documents): best}


Predict = Callable[[Any], np.ndarray]


def _each_label(c: float) -> Callable[[Any, np.ndarray], Predict]:
    def fit(features: Any, labels: np.ndarray) -> Predict:
        def one(column: np.ndarray) -> Predict:
            if len(np.unique(column)) < 2:  # all texts have the label, or none
                return lambda given: np.full(given.shape[0], column[0])
            return LogisticRegression(C=c, max_iter=1000).fit(features, column).predict

        models = [one(column) for column in labels.T]
        return lambda given: np.stack([predict(given) for predict in models], axis=1)

    return fit


def _ridge(alpha: float) -> Callable[[Any, np.ndarray], Predict]:
    return lambda features, numbers: Ridge(alpha=alpha).fit(features, numbers).predict


_LINEAR: dict[str, tuple[str, list[Any], Callable[..., dict[str, float]], str]] = {
    targets.LABELS: (
        "logistic regression",
        [_each_label(c) for c in baseline.INVERSE_REGULARISATION],
        measures.of_labels,
        "micro_f1",
    ),
    targets.NUMBER: ("ridge regression", [_ridge(a) for a in REGULARISATION], measures.of_numbers, "pearson"),
}
