"""Whether a metric is better when lower or higher: known for common names, given by the caller for others."""

import re
from collections.abc import Collection

_LOWER = """
    loss nll negative_log_likelihood log_loss cross_entropy crossentropy bce hinge_loss mlm_loss
    perplexity ppl bits_per_byte bits_per_character bits_per_char bits_per_dim bits_per_token bpb bpc bpd
    error error_rate mae mean_absolute_error mse mean_squared_error rmse root_mean_squared_error
    msle rmsle mape smape mase wer cer ter word_error_rate character_error_rate
    brier brier_score ece calibration_error expected_calibration_error fid kl kl_divergence
    fpr fnr false_positive_rate false_negative_rate edit_distance levenshtein
"""
_HIGHER = """
    accuracy acc f1 f1_score fbeta precision recall sensitivity specificity tpr tnr
    mcc matthews_correlation matthews_corrcoef matthews kappa cohen_kappa
    auc auroc roc_auc pr_auc auprc average_precision map r2 r2_score r_squared explained_variance
    pearson pearsonr spearman spearmanr spearman_correlation pearson_correlation kendall_tau correlation
    bleu sacrebleu chrf meteor rouge rouge1 rouge2 rougel rougelsum rouge_1 rouge_2 rouge_l bertscore comet
    exact_match iou miou dice jaccard psnr ssim ndcg mrr hit_rate log_likelihood
"""
# Words around a name that say what the metric is computed on or how it is averaged, not its direction.
_ASIDE = r"macro|micro|weighted|balanced|mean|avg|average|validation|val|valid|dev|eval|test|train|top_?\d+"


def lower_is_better(
    metric: str, lower: Collection[str] = (), higher: Collection[str] = (), *, ask: str = ""
) -> bool:
    """Whether a metric is better when it is lower.

    Args:
        metric: name of the metric. Case does not matter, and words such as ``macro``, ``micro``, ``weighted``,
            ``balanced``, ``mean``, ``validation``, ``test`` and ``top5`` around a known name are ignored.
        lower: names of metrics that are better when lower; they take precedence over the known names.
        higher: names of metrics that are better when higher, likewise.
        ask: how the caller can give the direction, for the error message.

    Raises:
        TypeError: the name is not a string, or ``lower`` or ``higher`` is a string instead of a list.
        ValueError: the direction is not known, or the name is in both collections.

    Example:
        >>> lower_is_better("MAE"), lower_is_better("top5_accuracy"), lower_is_better("f1-macro")
        (True, False, False)
        >>> lower_is_better("harm", lower=["harm"])
        True
        >>> lower_is_better("mae_improvement")
        Traceback (most recent call last):
        ValueError: metric 'mae_improvement' has no known direction: put it in lower or in higher
    """
    if not isinstance(metric, str) or not metric:
        raise TypeError(f"metric must be a name such as 'accuracy', got {metric!r}")
    for names in (lower, higher):
        if isinstance(names, str):  # "acc" is in "accuracy_gap"
            raise TypeError(f"names of metrics must be a list, such as [{names!r}], got {names!r}")
    if metric in lower and metric in higher:
        raise ValueError(f"metric {metric!r} cannot be better both when lower and when higher")
    if metric in lower or metric in higher:
        return metric in lower
    if (known := known_as(metric)) is None:
        raise ValueError(f"metric {metric!r} has no known direction: {ask or 'put it in lower or in higher'}")
    return known in _LOWER.split()


def arrow(metric: str, lower: Collection[str] = (), higher: Collection[str] = ()) -> str:
    """The direction in which a metric is better: "↓", "↑", or "" if it is not known.

    Example:
        >>> arrow("loss"), arrow("accuracy"), arrow("tokens")
        ('↓', '↑', '')
    """
    try:
        return "↓" if lower_is_better(metric, lower, higher) else "↑"
    except ValueError:
        return ""


def known_as(metric: str) -> str | None:
    """The well-known name in a metric's name, without the words around it; None if there is none.

    Example:
        >>> known_as("validation/top5-accuracy"), known_as("accuracy_gain")
        ('accuracy', None)
    """
    name, known = (
        re.sub(r"[\s./:@-]+", "_", metric.strip().lower()).replace("²", "2"),
        (_LOWER + _HIGHER).split(),
    )
    while name not in known:
        shorter = re.sub(rf"^(?:{_ASIDE})_|_(?:{_ASIDE})$", "", name, count=1)
        if shorter == name:
            return None
        name = shorter
    return name
