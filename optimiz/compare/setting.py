"""Whether a setting tells training from none: by more than seeds differ, is its baseline above what is trivial.

A comparison in which an untrained model, a frozen one, half of the data or the most frequent class does as well
as the baseline cannot tell optimizers apart either, or what it tells says nothing about other settings. The
baseline is the first optimizer of the record, at its best rate. The trivial references are the record's
``controls``, which have a value for each seed, and its ``baselines``, which have one.
"""

import math

from optimiz.compare.markdown import decimal, escaped, joined
from optimiz.compare.methods import CONFIDENCE, Method, by_method
from optimiz.compare.record import Record
from optimiz.compare.statistics import Difference, paired_difference


def margins(record: Record, baseline: Method, metric: str) -> dict[str, Difference]:
    """How far the baseline is above each trivial reference, in score, so that more is better.

    The intervals hold together (Bonferroni). A reference that has not the metric is left out.

    Args:
        record: record of the runs.
        baseline: method to compare with them.
        metric: name of the metric.
    """
    sign = record.sign(metric)
    scores = {
        name: [_score(sign, of_seed[metric]) for of_seed in seeds]
        for name, seeds in record.controls.items()
        if all(metric in of_seed for of_seed in seeds)
    }
    scores |= {
        name: [sign * level] * len(baseline.scores) for name, level in record.levels(metric, "test").items()
    }
    confidence = 1 - (1 - CONFIDENCE) / max(len(scores), 1)
    return {
        name: paired_difference(baseline.scores, its, confidence=confidence) for name, its in scores.items()
    }


def setting_in_words(record: Record, *, metric: str) -> str:
    """Whether the setting tells its baseline from trivial references, as a paragraph.

    The runs of the baseline are enough for it, so that a setting can be tried before it is used.

    Args:
        record: record with at least one run.
        metric: name of the metric.

    Raises:
        ValueError: the record has no run or no such metric, or a method lacks a seed.
    """
    baseline = by_method(record, metric)[0]
    found = margins(record, baseline, metric)
    name = escaped(baseline.name)
    if not found:
        return (
            "**Whether this setting tells optimizers apart is not known:** it has no trivial reference, such "
            f"as an untrained model or half of the data, to compare {name} with."
        )
    if not math.isfinite(baseline.score.mean):
        return f"**This setting tells nothing about its baseline:** {name} diverged."
    shown = {other: f"{escaped(other)} ({_margin(margin)})" for other, margin in found.items()}
    if len(baseline.runs) == 1:
        leads = [f"{decimal(margin.mean)} over {escaped(other)}" for other, margin in found.items()]
        return (
            "**Whether this setting tells optimizers apart is not known:** one seed does not show how far "
            f"seeds differ. The lead of its baseline, {name}: {joined(leads)}."
        )
    # Behind a reference that has no finite value is nobody.
    passed = {other: margin.mean == math.inf or margin.low > 0 for other, margin in found.items()}
    above = [text for other, text in shown.items() if passed[other]]
    level = [text for other, text in shown.items() if not passed[other]]
    if not level:
        return (
            f"**This setting tells training from none:** its baseline, {name}, leads over {joined(above)} by "
            "more than seeds differ."
        )
    but = f", but it does over {joined(above)}" if above else ""
    return (
        f"**This setting is in doubt:** its baseline, {name}, does not lead over {joined(level)} by more than "
        f"seeds differ{but}. Where training gains that little, differences between optimizers may not carry "
        "over to where it matters."
    )


def _score(sign: int, value: float | None) -> float:
    return -math.inf if value is None else sign * value


def _margin(margin: Difference) -> str:
    if not math.isfinite(margin.mean):
        return decimal(margin.mean)
    return f"{decimal(margin.mean)}; {decimal(margin.low)} to {decimal(margin.high)}"
