"""Metrics of predictions that are several labels or numbers; those of classes are in `baseline`."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import rankdata
from sklearn.metrics import f1_score

from examples.shared.predictions import LIKELY

LABEL_METRICS = ("micro_f1", "macro_f1", "exact_match")
NUMBER_METRICS = ("pearson", "spearman", "rmse")


def of_labels(labels: np.ndarray, said: np.ndarray) -> dict[str, float]:
    """F1 over all labels together and averaged over labels, and the share of texts with all labels right.

    Args:
        labels: [N, C], which labels a text has, N ≥ 1.
        said: [N, C], which are predicted.

    Returns:
        "micro_f1", "macro_f1" over the labels that occur in either argument, and "exact_match", in [0, 1].

    Example:
        >>> found = of_labels(np.array([[1, 0], [1, 1]]), np.array([[1, 0], [1, 0]]))
        >>> found["exact_match"], round(found["micro_f1"], 3)  # two of three labels, none wrong
        (0.5, 0.8)
    """
    labels, said = labels > 0, said > 0
    occur = (labels | said).any(0)
    each = f1_score(labels[:, occur], said[:, occur], average=None, zero_division=0) if occur.any() else [0.0]
    found, right = int(labels.sum() + said.sum()), int((labels & said).sum())
    return {
        "micro_f1": 2 * right / found if found else 0.0,
        "macro_f1": float(np.mean(each)),
        "exact_match": float((labels == said).all(1).mean()),
    }


def of_each_label(names: Sequence[str], labels: np.ndarray, said: np.ndarray) -> dict[str, Any]:
    """How often each label occurs, is predicted, and is predicted rightly, for the record of a run.

    Args:
        names: names of the labels, C.
        labels: [N, C], positive where a text has the label.
        said: [N, C], positive where it is predicted: logits, of probabilities above one half.

    Returns:
        The names, the threshold of the probability, and numbers of examples, in the order of the names.

    Example:
        >>> found = of_each_label(["a", "b"], np.array([[1, 0], [1, 1]]), np.array([[2, -1], [-1, 3]]))
        >>> found["labels"]["examples"], found["labels"]["predicted"], found["labels"]["right"]
        ([2, 1], [1, 1], [1, 1])
    """
    labels, said = labels > 0, said > 0
    counts = {"examples": labels, "predicted": said, "right": labels & said}
    found = {name: which.sum(0).tolist() for name, which in counts.items()}
    return {"labels": {"names": list(names), "threshold": LIKELY, **found}}


def of_numbers(numbers: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Pearson's and Spearman's correlation, and the root of the mean squared error.

    Args:
        numbers: [N], N ≥ 1.
        predicted: [N].

    Returns:
        "pearson" and "spearman" in [−1, 1], 0 where all numbers or all predictions are the same; "rmse" ≥ 0.

    Example:
        >>> found = of_numbers(np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 9.0]))
        >>> found["spearman"], round(found["pearson"], 3), round(found["rmse"], 3)
        (1.0, 0.918, 3.464)
    """
    numbers, predicted = np.asarray(numbers, np.float64), np.asarray(predicted, np.float64)
    return {
        "pearson": _correlation(numbers, predicted),
        "spearman": _correlation(rankdata(numbers), rankdata(predicted)),
        "rmse": float(np.sqrt(np.mean((numbers - predicted) ** 2))),
    }


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(np.clip(a @ b / scale, -1, 1)) if scale > 0 else 0.0
