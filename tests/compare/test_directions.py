"""Which way a figure is better: known, or asked for."""

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


@pytest.mark.parametrize("figure", LOWER.split())
def test_lower(figure):
    assert lower_is_better(figure.replace("token.", "mean ")) and arrow(figure.replace("token.", "")) == "↓"


@pytest.mark.parametrize("figure", HIGHER.split())
def test_higher(figure):
    assert not lower_is_better(figure) and arrow(figure) == "↑"


@pytest.mark.parametrize("figure", [*UNKNOWN.split(), "macro", "test_", "_"])
def test_what_is_not_sure_is_asked_for(figure):
    assert known_as(figure) is None and arrow(figure) == ""
    with pytest.raises(ValueError, match=f"figure '{figure}': say which way it is better"):
        lower_is_better(figure)
    assert lower_is_better(figure, lower=[figure]) and not lower_is_better(figure, higher=[figure])


def test_what_the_caller_says_decides():
    assert lower_is_better("accuracy", lower=["accuracy"]) and not lower_is_better("loss", higher=["loss"])
    with pytest.raises(ValueError, match="cannot be better both lower and higher"):
        lower_is_better("harm", lower=["harm"], higher=["harm"])
    for figure in (None, "", 3):
        with pytest.raises(TypeError, match="figure must be the name of one"):
            lower_is_better(figure)


def test_the_names_are_in_one_list_alone():
    from optimiz.compare import directions

    assert not set(directions._LOWER.split()) & set(directions._HIGHER.split())
    assert compare.lower_is_better is lower_is_better
