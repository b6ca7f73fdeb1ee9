"""The result of a comparison in words, which follow from its numbers by stated rules.

A lead that seeds, or the size of the test set, could have made is not called one.
"""

import math
from collections.abc import Sequence

from optimiz.compare.markdown import joined
from optimiz.compare.methods import Method, have_grids, lead_over, leader, methods
from optimiz.compare.record import Record
from optimiz.compare.statistics import paired_difference


def in_words(record: Record, *, figure: str) -> str:
    """The result in a paragraph: the best method, and what seeds and test set can tell apart.

    Args:
        record: at least one run.
        figure: the figure by which methods are ranked.
    """
    compared = methods(record, figure)
    finite = [method for method in compared if math.isfinite(method.score.mean)]
    if not finite:
        return f"No run reached a finite {figure}."
    one_seed = len(finite[0].runs) == 1
    sentences = _one_seed(record, finite, figure) if one_seed else _several_seeds(record, finite, figure)
    for method in compared:
        if method.diverged:
            sentences.append(f"{method.name} diverged in {method.diverged} of {method.tried} runs.")
    return " ".join(sentences)


def _one_seed(record: Record, finite: Sequence[Method], figure: str) -> list[str]:
    """One seed tells as much as the test set does, which can be reckoned for a share of correct answers."""
    best, others = leader(finite)
    sign, top, n = record.sign(figure), best.score.mean, record.test_examples
    if not 0 <= top <= 1:
        shown = joined([f"{m.name} ({sign * m.score.mean:.3f})" for m in others])
        return [
            f"**{best.name}** has the best test {figure}, {sign * top:.3f} on {n} examples"
            + (f", before {shown}" if shown else "")
            + "; one seed does not tell whether another would rank them so."
        ]
    share = (top * n + 1) / (n + 2)  # Laplace's, so that a score of 1 on a few examples is not certainty
    lead = 2 * math.sqrt(2 * share * (1 - share) / n)
    sentences = [
        f"**{best.name}** has the highest test {figure}: {top:.3f} on {n} examples "
        f"(two standard errors of a difference: {lead:.3f})."
    ]
    close = [f"{m.name} ({m.score.mean:.3f})" for m in others if top - m.score.mean <= lead]
    if close:
        sentences.append(f"One seed on this test set does not tell it from {joined(close)}.")
    for name, level in record.levels(figure, "test").items():
        above = [m.name for m in finite if m.score.mean - level > lead]
        sentences.append(f"{name} reaches {level:.3f}; {_verdict(above, record, 'by more than that')}.")
    return sentences


def _several_seeds(record: Record, finite: Sequence[Method], figure: str) -> list[str]:
    best, others = leader(finite)
    sign, (mean, error, seeds) = record.sign(figure), best.score
    sentences = [
        f"**{best.name}** has the best mean test {figure} over {seeds} seeds: "
        f"{sign * mean:.3f} ± {error:.3f} (standard error)."
    ]
    if have_grids(finite):
        sentences.append("Each method has the learning rate at which it validated best.")
    leads = {method.name: lead_over(best, method, len(others)) for method in others}
    told = [f"{name} (by {lead.mean:.3f})" for name, lead in leads.items() if lead.significant]
    alike = [name for name, lead in leads.items() if not lead.significant]
    if alike:
        sentences.append(f"Between it and {joined(alike)} there is **no significant difference**.")
    if told:
        sentences.append(f"It is significantly better than {joined(told)}.")
    for name, level in record.levels(figure, "test").items():
        above = [
            method.name
            for method in finite
            if (lead := paired_difference(method.scores, [sign * level] * seeds)).significant and lead.low > 0
        ]
        sentences.append(
            f"{name} reaches {level:.3f}; {_verdict(above, record, 'by more than its seeds vary')}."
        )
    if (budget := best.runs[0].budget) is not None:
        sentences.append(f"Every run had the same budget, {budget:g} seconds of reference time.")
    return sentences


def _verdict(above: Sequence[str], record: Record, margin: str) -> str:
    if len(above) == len({run.optimizer for run in record.runs}):
        return f"every optimizer here is above it {margin}"
    if above:
        verb = "is" if len(above) == 1 else "are"
        return f"of the optimizers here, {joined(above)} {verb} above it {margin}"
    return f"**no optimizer here is above it** {margin}"
