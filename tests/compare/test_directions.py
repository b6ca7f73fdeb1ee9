"""Which way a metric is better: known, or asked for."""

import pytest

from optimiz import compare
from optimiz.compare.directions import arrow, known_as, lower_is_better

LOWER = "loss perplexity bits_per_byte mae mse rmse nll cross_entropy wer cer error_rate val_loss test/MAE"
LOWER += " eval-rmse mean_absolute_error top1_error mean_loss Loss log_loss brier_score fid token.ppl"
HIGHER = "accuracy f1 precision recall mcc matthews_correlation auc roc_auc r2 bleu rouge pearson exact_match"
HIGHER += " spearman top5_accuracy top_5_accuracy accuracy_top5 f1_macro macro_f1 F1 val_acc R² rouge-l iou"
HIGHER += " balanced_accuracy"
UNKNOWN = (
    "harm mae_improvement loss_ratio accuracy_std neg_mean_squared_error tokens seconds f1_loss_f1 los errors"
)


@pytest.mark.parametrize("metric", LOWER.split())
def test_lower(metric):
    assert lower_is_better(metric.replace("token.", "mean ")) and arrow(metric.replace("token.", "")) == "↓"


@pytest.mark.parametrize("metric", HIGHER.split())
def test_higher(metric):
    assert not lower_is_better(metric) and arrow(metric) == "↑"


@pytest.mark.parametrize("metric", [*UNKNOWN.split(), "macro", "test_", "_"])
def test_what_is_not_sure_is_asked_for(metric):
    assert known_as(metric) is None and arrow(metric) == ""
    with pytest.raises(ValueError, match=f"metric '{metric}' has no known direction"):
        lower_is_better(metric)
    assert lower_is_better(metric, lower=[metric]) and not lower_is_better(metric, higher=[metric])


def test_what_the_caller_says_decides():
    assert lower_is_better("accuracy", lower=["accuracy"]) and not lower_is_better("loss", higher=["loss"])
    with pytest.raises(ValueError, match="cannot be better both when lower and when higher"):
        lower_is_better("harm", lower=["harm"], higher=["harm"])
    for metric in (None, "", 3):
        with pytest.raises(TypeError, match="metric must be a name such as 'accuracy'"):
            lower_is_better(metric)


def test_the_names_are_in_one_list_alone():
    from optimiz.compare import directions

    assert not set(directions._LOWER.split()) & set(directions._HIGHER.split())
    assert compare.lower_is_better is lower_is_better
