"""The result of a comparison in words, for one who decides, derived from its numbers by fixed rules.

The first sentence names the optimizer and the rate to use, and why. It also says whose best learning rate is at
the edge of its grid, as the comparison may then be one of grids rather than of methods. What follows are the
sizes of the leads with their intervals, the cost, the risk, and what would change the answer. A lead that could
be due to the seeds or the size of the test set is not called one.
"""

import itertools
import math
from collections.abc import Callable, Sequence

from optimiz.compare.directions import known_as
from optimiz.compare.markdown import decimal, escaped, joined, three_digits
from optimiz.compare.methods import (
    CONFIDENCE,
    Method,
    by_method,
    have_grids,
    leader,
    leads,
    pair_confidence,
    paired_deviation,
)
from optimiz.compare.power import MOST, seeds_needed
from optimiz.compare.record import Record
from optimiz.compare.statistics import Difference, paired_difference


def in_words(record: Record, *, metric: str) -> str:
    """The result in a paragraph: what to use and why, and what seeds and test set can tell apart.

    Args:
        record: record with at least one run.
        metric: name of the metric by which methods are ranked.
    """
    compared = by_method(record, metric)
    finite = [method for method in compared if math.isfinite(method.score.mean)]
    if not finite:
        return f"No run reached a finite {escaped(metric)}."
    one_seed = len(finite[0].runs) == 1
    sentences = _one_seed(record, finite, metric) if one_seed else _several_seeds(record, finite, metric)
    for method in compared:
        if method.diverged:
            sentences.append(f"{escaped(method.name)} diverged in {method.diverged} of {method.tried} runs.")
        results = zip(method.runs, method.scores, strict=True)
        unknown = sum(run.diverged_at is None and not math.isfinite(score) for run, score in results)
        if unknown:
            sentences.append(
                f"{escaped(method.name)} has no finite test {escaped(metric)} in {unknown} of "
                f"{len(method.runs)} runs, and is not ranked."
            )
    return " ".join(sentences)


def consequences(record: Record, *, metric: str) -> str:
    """The cost of the best method, its risk, and what would change the answer, a paragraph each.

    Args:
        record: record with at least one run.
        metric: name of the metric by which methods are ranked.

    Returns:
        The paragraphs; empty if every run diverged.
    """
    compared = by_method(record, metric)
    finite = [method for method in compared if math.isfinite(method.score.mean)]
    if not finite:
        return ""
    best, _ = leader(finite)
    paragraphs = [
        _labelled("Cost", _cost(best, compared)),
        _labelled("Risk", _risk(record, best, metric)),
        _labelled("What would change it", _changes(finite)),
    ]
    return "\n\n".join(filter(None, paragraphs))


_RATE = "learning rate"

# Metrics whose standard error follows from the number of test examples.
_SHARES = ("accuracy", "acc", "exact_match")


def _labelled(label: str, clauses: Sequence[str]) -> str:
    return f"**{label}:** {'; '.join(clauses)}." if clauses else ""


def _opening(record: Record, finite: Sequence[Method], metric: str, of: str) -> str:
    """The beginning of the first sentence, up to the value of the metric.

    Args:
        record: record of the runs.
        finite: methods with a finite score.
        metric: name of the metric.
        of: the metric in words, such as "mean test accuracy over 3 seeds".
    """
    best, _ = leader(finite)
    name, sign = escaped(best.name), record.sign(metric)
    at = [] if best.rate is None else [f"learning rate {best.rate:g}"]
    at += [f"{escaped(axis)} {value:g}" for axis, value in best.values.items()]
    rate = (f" at {joined(at)}" if at else "") + ", which finds its learning rate" * (best.rate is None)
    if len({run.optimizer for run in record.runs}) == 1:
        if not have_grids(finite) and not _has_axes(finite):
            return f"**{name}**{rate}{',' * (best.rate is None)} has a {of} of"
        its = "the points of its grid" if _has_axes(finite) else "its rates"
        best_rate = f"it has the best validation {escaped(metric)} of {its}"
        return f"Use **{name}**{rate}, because {best_rate}, and a {of} of"
    behind = any(level * sign > best.score.mean for level in record.levels(metric, "test").values())
    among = "Of these optimizers, use" if behind else "Use"
    direction = "highest" if sign > 0 else "lowest"
    return f"{among} **{name}**{rate}, because it has the best ({direction}) {of}:"


def _has_axes(finite: Sequence[Method]) -> bool:
    """Whether a grid has several values on another axis than the learning rate."""
    return any(len(levels) > 1 for method in finite for levels in method.lines.values())


def _edges(finite: Sequence[Method]) -> str:
    """The end of the first sentence."""
    by_axis: dict[str, list[str]] = {}
    for method in finite:
        for axis in method.edges:
            by_axis.setdefault(axis, []).append(escaped(method.name))
    if not by_axis:
        return "."
    at = [
        f"the best {escaped(axis)} of {names[0]} is at the edge of its grid"
        if len(names) == 1
        else f"the best {escaped(axis)}s of {joined(names)} are at the edges of their grids"
        for axis, names in by_axis.items()
    ]
    beyond = "rates" if list(by_axis) == [_RATE] else "values"
    return f", but **{joined(at)}**: {beyond} beyond may be better."


def _interval(difference: Difference) -> str:
    """The bounds of an interval, in the unit of the score."""
    return f"{decimal(difference.low)} to {decimal(difference.high)}"


def _one_seed(record: Record, finite: Sequence[Method], metric: str) -> list[str]:
    """Compare a lead with the standard error of the test set, which is known for a share of correct answers."""
    best, others = leader(finite)
    sign, top, n, what = record.sign(metric), best.score.mean, record.test_examples, escaped(metric)
    has, on = _opening(record, finite, metric, f"test {what}"), f"on {n} example{'s' * (n > 1)}"
    if known_as(metric) not in _SHARES or not 0 <= top <= 1:
        others_shown = joined([f"{escaped(m.name)} ({decimal(sign * m.score.mean)})" for m in others])
        sentences = [
            f"{has} {decimal(sign * top)} {on}"
            + (f", ahead of {others_shown}" if others_shown else "")
            + f"; a single seed does not show whether others would give the same ranking{_edges(finite)}"
        ]
        for name, level in record.levels(metric, "test").items():
            better = [m.name for m in finite if m.score.mean > sign * level]
            if len(better) < len(finite):  # a lead over it could be chance, as said above
                sentences.append(
                    f"{escaped(name)} reaches {decimal(level)}; {_verdict(better, record, metric)}."
                )
        return sentences
    share = (top * n + 1) / (n + 2)  # Laplace's, so that a score of 1 on a few examples is not certainty
    lead = 2 * math.sqrt(2 * share * (1 - share) / n)
    sentences = [f"{has} {top:.3f} {on} (two standard errors of a difference: {lead:.3f})" + _edges(finite)]
    close = [f"{escaped(m.name)} ({m.score.mean:.3f})" for m in others if top - m.score.mean <= lead]
    if close:
        sentences.append(f"One seed on this test set does not distinguish it from {joined(close)}.")
    for name, level in record.levels(metric, "test").items():
        above = [m.name for m in finite if m.score.mean - level > lead]
        clause = _verdict(above, record, metric, " by more than that")
        sentences.append(f"{escaped(name)} reaches {decimal(level)}; {clause}.")
    return sentences


def _several_seeds(record: Record, finite: Sequence[Method], metric: str) -> list[str]:
    best, _ = leader(finite)
    sign, seeds = record.sign(metric), best.score.n
    mean = paired_difference([sign * score for score in best.scores], [0.0] * seeds, confidence=CONFIDENCE)
    sentences = [
        f"{_opening(record, finite, metric, f'mean test {escaped(metric)} over {seeds} seeds')} "
        f"{decimal(mean.mean)} ({CONFIDENCE:.0%} interval {_interval(mean)}){_edges(finite)}"
    ]
    if len(finite) > 1 and (have_grids(finite) or _has_axes(finite)):
        its = "point of its grid" if _has_axes(finite) else "learning rate"
        sentences.append(f"Each method uses the {its} with its best validation score.")
    shown = [
        (f"{escaped(m.name)} ({decimal(d.mean)}; {_interval(d)})", d.significant) for m, d in leads(finite)
    ]
    if behind := [text for text, significant in shown if significant]:
        sentences.append(f"It is ahead of {joined(behind)}.")
    if alike := [text for text, significant in shown if not significant]:
        sentences.append(f"It is **not told apart** from {joined(alike)}.")
    for name, level in record.levels(metric, "test").items():
        above = [
            method.name
            for method in finite
            if (lead := paired_difference(method.scores, [sign * level] * seeds)).significant and lead.low > 0
        ]
        clause = _verdict(above, record, metric, " by more than the variation over seeds")
        sentences.append(f"{escaped(name)} reaches {decimal(level)}; {clause}.")
    return sentences


def _verdict(above: Sequence[str], record: Record, metric: str, margin: str = "") -> str:
    """The clause that says which optimizers are better than a baseline."""
    better = f"{'above' if record.sign(metric) > 0 else 'below'} it"
    if len(above) == len({run.optimizer for run in record.runs}):
        return f"every optimizer here is {better}{margin}"
    if above:
        verb = "is" if len(above) == 1 else "are"
        return f"of the optimizers here, {joined([*map(escaped, above)])} {verb} {better}{margin}"
    return f"**no optimizer here is {better}**{margin}"


def _cost(best: Method, compared: Sequence[Method]) -> list[str]:
    """The time and the memory of the best method, next to the least that another takes."""
    budget = best.runs[0].budget
    same = [] if budget is None else [f"every run had the same budget, {budget:g} seconds of reference time"]
    return [
        *same,
        *_next_to_least(
            best, compared, lambda m: m.seconds_per_step(), lambda x: f"{three_digits(1000 * x)} ms per update"
        ),
        *_next_to_least(
            best,
            compared,
            lambda m: m.runs[0].state_bytes_per_parameter,
            lambda x: f"{x:.2f} bytes of state per parameter",
        ),
    ]


def _next_to_least(
    best: Method,
    compared: Sequence[Method],
    cost: Callable[[Method], float | None],
    shown: Callable[[float], str],
) -> list[str]:
    own = cost(best)
    if own is None:
        return []
    known = [(spent, method.name) for method in compared if (spent := cost(method)) is not None]
    least, name = min(known)
    if least >= own:
        return [shown(own) + ", no method here takes less" * (len(known) > 1)]
    return [f"{shown(own)}; the least is {shown(least).partition(' ')[0]} ({escaped(name)})"]


def _risk(record: Record, best: Method, metric: str) -> list[str]:
    """What may go wrong with the best method: its worst seed, divergence, and the rates next to its own."""
    sign, clauses = record.sign(metric), []
    if len(best.scores) > 1:
        clauses.append(f"its worst seed has {decimal(sign * min(best.scores))}")
    else:
        clauses.append("one seed does not show how far seeds differ")
    if not best.diverged:
        clauses.append("none of its runs diverged" if best.tried > 1 else "its run did not diverge")
    worse = [best.levels[best.rate] - best.levels[rate] for rate in _neighbours(best)]
    if lost := [decimal(loss) for loss in worse if math.isfinite(loss)]:
        clauses.append(
            f"the rates next to its own in the grid are worse by {joined(lost)} in validation {escaped(metric)}"
        )
    if len(lost) < len(worse):
        clauses.append("**a rate next to its own diverges**")
    return clauses


def _neighbours(method: Method) -> list[float | None]:
    """The rates next to the best one, in ascending order."""
    pairs = itertools.pairwise(method.levels)
    return [rate for pair in pairs if method.rate in pair for rate in pair if rate != method.rate]


def _changes(finite: Sequence[Method]) -> list[str]:
    """What would give another answer."""
    best, _ = leader(finite)
    clauses = []
    if edges := {axis for method in finite for axis in method.edges}:
        clauses.append(f"{'rates' if edges == {_RATE} else 'values'} beyond the edge of a grid")
    if len(best.runs) == 1 and len(finite) > 1:
        clauses.append("further seeds, of which there is one")
    unsure = [(lead.mean, method) for method, lead in leads(finite) if not lead.significant]
    if len(best.runs) > 1 and unsure:
        lead, rival = min(unsure, key=lambda pair: pair[0])
        clauses.append(_further_seeds(best, rival, lead, pair_confidence(finite)))
    return clauses


def _further_seeds(best: Method, rival: Method, lead: float, confidence: float) -> str:
    """How many seeds would tell two methods apart, if their lead is what it is now."""
    deviation = paired_deviation(best, rival)
    over = f"its lead over {escaped(rival.name)}, {decimal(lead)},"
    if not deviation:
        return f"further seeds: {over} is the same for all so far"
    if (needed := seeds_needed(lead, deviation, confidence=confidence)) is None:
        return f"hardly the seeds: {over} is so small that {MOST:,} would not tell it, so that cost decides"
    more = needed - len(best.runs)
    if more <= 0:
        return f"further seeds: as many again would probably tell {over} if it is real"
    return f"further seeds: {more} more would probably tell {over} if it is real"
