"""Which way a metric is better: known for the common ones by their names, asked for every other."""

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
# Words beside a name that say of what, or over what, a metric is, and leave its direction as it is.
_ASIDE = r"macro|micro|weighted|balanced|mean|avg|average|validation|val|valid|dev|eval|test|train|top_?\d+"


def lower_is_better(
    metric: str, lower: Collection[str] = (), higher: Collection[str] = (), *, ask: str = ""
) -> bool:
    """Whether less of a metric is better.

    Args:
        metric: its name. Case does not matter, and ``macro``, ``micro``, ``weighted``, ``balanced``, ``mean``,
            ``validation``, ``test``, ``top5`` and their like at either end of a known name change nothing.
        lower: the names of metrics that are the better the lower they are, whatever they are called.
        higher: of those that are the better the higher.
        ask: how the caller is to name them, for the message.

    Raises:
        TypeError: the name is no string, or names are one string and no list.
        ValueError: it is not known, or in both collections.

    Example:
        >>> lower_is_better("MAE"), lower_is_better("top5_accuracy"), lower_is_better("f1-macro")
        (True, False, False)
        >>> lower_is_better("harm", lower=["harm"])
        True
        >>> lower_is_better("mae_improvement")
        Traceback (most recent call last):
        ValueError: metric 'mae_improvement': say which way it is better, in lower or in higher
    """
    if not isinstance(metric, str) or not metric:
        raise TypeError(f"metric must be a name such as 'accuracy', got {metric!r}")
    for names in (lower, higher):
        if isinstance(names, str):  # "acc" is in "accuracy_gap"
            raise TypeError(f"names of metrics must be a list of them, such as [{names!r}], got {names!r}")
    if metric in lower and metric in higher:
        raise ValueError(f"metric {metric!r} cannot be better both lower and higher")
    if metric in lower or metric in higher:
        return metric in lower
    if (known := known_as(metric)) is None:
        raise ValueError(f"metric {metric!r}: say which way it is better, {ask or 'in lower or in higher'}")
    return known in _LOWER.split()


def arrow(metric: str, lower: Collection[str] = (), higher: Collection[str] = ()) -> str:
    """The way in which a metric is better: "↓", "↑", or "" where nobody says.

    Example:
        >>> arrow("loss"), arrow("accuracy"), arrow("tokens")
        ('↓', '↑', '')
    """
    try:
        return "↓" if lower_is_better(metric, lower, higher) else "↑"
    except ValueError:
        return ""


def known_as(metric: str) -> str | None:
    """The well-known name that a metric has beneath what stands aside; None for any other.

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
