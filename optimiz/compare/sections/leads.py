"""Sections on how far the best method is ahead: whether its lead is real, and how many seeds would tell."""

import math
from collections.abc import Sequence

from optimiz.compare.markdown import decimal, escaped, table
from optimiz.compare.methods import (
    CONFIDENCE,
    Method,
    leader,
    leads,
    pair_confidence,
    paired_deviation,
)
from optimiz.compare.power import MOST, POWER, detectable, deviation_factor, seeds_needed, sequential_difference
from optimiz.compare.record import Record
from optimiz.compare.statistics import Difference


def differences(record: Record, compared: Sequence[Method], metric: str) -> list[str]:
    """Whether the lead of the best method is real."""
    best, others = leader(compared)
    if not others or len(best.runs) == 1 or not math.isfinite(best.score.mean):
        return []
    rows = []
    for (method, lead), (_, at_any) in zip(
        leads(compared), leads(compared, sequential_difference), strict=True
    ):
        pairs = ", ".join(f"{a - b:+.3f}" for a, b in zip(best.scores, method.scores, strict=True))
        verdict = "told apart" if lead.significant else "not told apart"
        rows.append([escaped(method.name), decimal(lead.mean), _bounds(lead), _bounds(at_any), pairs, verdict])
    header = [
        "method",
        "mean lead over it",
        "interval",
        "interval at any number of seeds",
        "by seed",
        "verdict",
    ]
    return [
        "## Is the lead real?",
        f"The lead of {escaped(best.name)} in test {record.directed(metric)}, seed by seed: for each seed, "
        "both methods start with the same parameters and see the same batches. With a confidence of "
        f"{CONFIDENCE:.0%}, the intervals together contain every mean lead over very many seeds (paired t, "
        "Bonferroni over all pairs of methods). If an interval contains zero, the seeds do not tell the two "
        "methods apart. Another test set would add an uncertainty of its own.",
        "These intervals are for a number of seeds that was chosen beforehand. Whoever adds seeds until an "
        "interval excludes zero needs the intervals at any number of seeds, which hold at all numbers at once: "
        f"stopping by them errs with a probability of at most {1 - CONFIDENCE:.0%}, if leads are normal.",
        table(header, rows),
    ]


def seeds(record: Record, compared: Sequence[Method], metric: str) -> list[str]:
    """How many seeds would tell which difference."""
    best, others = leader(compared)
    n, confidence = len(best.runs), pair_confidence(compared)
    known = [(method, paired_deviation(best, method)) for method in others]
    known = [(method, deviation) for method, deviation in known if deviation > 0]
    if n == 1 or not known:
        return []
    numbers = [n, *(more for more in _NUMBERS_OF_SEEDS if more > n)]
    rows = []
    for method, deviation in known:
        needed = seeds_needed(best.score.mean - method.score.mean, deviation, confidence=confidence)
        least = [decimal(detectable(deviation, number, confidence=confidence)) for number in numbers]
        shown = f"more than {MOST:,}" if needed is None else f"{needed}"
        rows.append([escaped(method.name), decimal(deviation), *least, shown])
    header = ["method", "standard deviation of the lead", *(f"told by {number} seeds" for number in numbers)]
    return [
        "## How many seeds?",
        f"The smallest mean lead of {escaped(best.name)} in test {record.directed(metric)} that numbers of "
        f"seeds would tell with a probability of {POWER:.0%}, at the confidence of the intervals above, and "
        "the number that would tell a lead as large as the present one. The standard deviation comes from the "
        f"same {n} seeds: the true one may be up to {deviation_factor(n):.2g} times as large (90% limit), and "
        "the leads that are told with it.",
        table([*header, "seeds for the present lead"], rows),
    ]


_NUMBERS_OF_SEEDS = (5, 10, 20)


def _bounds(difference: Difference) -> str:
    return f"{difference.low:+.3f} to {difference.high:+.3f}" if math.isfinite(difference.low) else "none"
