"""The result of a comparison in words, derived from its numbers by fixed rules.

A lead that could be due to the seeds or the size of the test set is not called one. The first sentence also
says whose best learning rate is at the edge of its grid, as the comparison may then be one of grids rather than
of methods.
"""

import math
from collections.abc import Sequence

from optimiz.compare.directions import known_as
from optimiz.compare.markdown import decimal, escaped, joined, with_error
from optimiz.compare.methods import Method, have_grids, lead_over, leader, methods
from optimiz.compare.record import Record
from optimiz.compare.statistics import paired_difference


def in_words(record: Record, *, metric: str) -> str:
    """The result in a paragraph: the best method, and what seeds and test set can tell apart.

    Args:
        record: record with at least one run.
        metric: name of the metric by which methods are ranked.
    """
    compared = methods(record, metric)
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


# Metrics whose standard error follows from the number of test examples.
_SHARES = ("accuracy", "acc", "exact_match")


def _best(record: Record, metric: str) -> str:
    return f"best ({'highest' if record.sign(metric) > 0 else 'lowest'})"


def _edges(finite: Sequence[Method]) -> str:
    """The end of the first sentence."""
    names = [escaped(method.name) for method in finite if method.at_edge]
    if not names:
        return "."
    are = (
        "rate of {} is at the edge of its grid"
        if len(names) == 1
        else "rates of {} are at the edges of their grids"
    )
    return f", but **the best learning {are.format(joined(names))}**: rates beyond may be better."


def _one_seed(record: Record, finite: Sequence[Method], metric: str) -> list[str]:
    """Compare a lead with the standard error of the test set, which is known for a share of correct answers."""
    best, others = leader(finite)
    sign, top, n, what = record.sign(metric), best.score.mean, record.test_examples, escaped(metric)
    if known_as(metric) not in _SHARES or not 0 <= top <= 1:
        others_shown = joined([f"{escaped(m.name)} ({decimal(sign * m.score.mean)})" for m in others])
        sentences = [
            f"**{escaped(best.name)}** has the {_best(record, metric)} test {what}, {decimal(sign * top)} on "
            f"{n} examples"
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
    sentences = [
        f"**{escaped(best.name)}** has the highest test {what}: {top:.3f} on {n} examples "
        f"(two standard errors of a difference: {lead:.3f}){_edges(finite)}"
    ]
    close = [f"{escaped(m.name)} ({m.score.mean:.3f})" for m in others if top - m.score.mean <= lead]
    if close:
        sentences.append(f"One seed on this test set does not distinguish it from {joined(close)}.")
    for name, level in record.levels(metric, "test").items():
        above = [m.name for m in finite if m.score.mean - level > lead]
        clause = _verdict(above, record, metric, " by more than that")
        sentences.append(f"{escaped(name)} reaches {decimal(level)}; {clause}.")
    return sentences


def _several_seeds(record: Record, finite: Sequence[Method], metric: str) -> list[str]:
    best, others = leader(finite)
    sign, (mean, error, seeds) = record.sign(metric), best.score
    sentences = [
        f"**{escaped(best.name)}** has the {_best(record, metric)} mean test {escaped(metric)} over {seeds} "
        f"seeds: {with_error(sign * mean, error)} (standard error){_edges(finite)}"
    ]
    if have_grids(finite):
        sentences.append("Each method uses the learning rate with its best validation score.")
    leads = {escaped(method.name): lead_over(best, method, len(others)) for method in others}
    behind = [f"{name} (by {decimal(lead.mean)})" for name, lead in leads.items() if lead.significant]
    alike = [name for name, lead in leads.items() if not lead.significant]
    if alike:
        sentences.append(f"There is **no significant difference** between it and {joined(alike)}.")
    if behind:
        sentences.append(f"It is significantly better than {joined(behind)}.")
    for name, level in record.levels(metric, "test").items():
        above = [
            method.name
            for method in finite
            if (lead := paired_difference(method.scores, [sign * level] * seeds)).significant and lead.low > 0
        ]
        clause = _verdict(above, record, metric, " by more than the variation over seeds")
        sentences.append(f"{escaped(name)} reaches {decimal(level)}; {clause}.")
    if (budget := best.runs[0].budget) is not None:
        sentences.append(f"Every run had the same budget, {budget:g} seconds of reference time.")
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
