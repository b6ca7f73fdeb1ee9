"""Metrics of labels and numbers are those of scikit-learn and SciPy, and defined where theirs are not."""

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import accuracy_score, f1_score

from examples.data.measures import of_labels, of_numbers


def test_metrics_of_labels():
    rng = np.random.default_rng(0)
    labels, said = rng.random((50, 4)) < 0.4, rng.random((50, 4)) < 0.4
    found = of_labels(labels, np.where(said, 2.0, -1.0))
    assert found["micro_f1"] == pytest.approx(f1_score(labels, said, average="micro"))
    assert found["macro_f1"] == pytest.approx(f1_score(labels, said, average="macro"))
    assert found["exact_match"] == pytest.approx(accuracy_score(labels, said))
    padded = [np.pad(x, ((0, 0), (0, 2))) for x in (labels, said)]  # labels that never occur
    assert of_labels(*padded)["macro_f1"] == pytest.approx(found["macro_f1"])
    nothing = np.zeros((3, 2))
    assert of_labels(nothing, nothing) == {"micro_f1": 0.0, "macro_f1": 0.0, "exact_match": 1.0}


def test_metrics_of_numbers():
    rng = np.random.default_rng(0)
    numbers = rng.integers(0, 6, 60).astype(float)  # with ties
    predicted = numbers + rng.normal(size=60)
    found = of_numbers(numbers, predicted)
    assert found["pearson"] == pytest.approx(stats.pearsonr(numbers, predicted).statistic)
    assert found["spearman"] == pytest.approx(stats.spearmanr(numbers, predicted).statistic)
    assert found["rmse"] == pytest.approx(np.sqrt(np.mean((numbers - predicted) ** 2)))
    assert of_numbers(numbers, np.ones(60)) | {"rmse": 0} == {"pearson": 0.0, "spearman": 0.0, "rmse": 0}
