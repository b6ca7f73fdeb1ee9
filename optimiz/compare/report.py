"""The report of a comparison: one page of Markdown beside its pictures and its record, and the same as HTML.

It is rendered from the record alone. What it says in words follows from the numbers by stated rules: a lead
that seeds, or the size of the test set, could have made is not called one.
"""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from optimiz import diagnostics
from optimiz.compare.curves import learning_curves, rate_curves
from optimiz.compare.methods import NEAR, Method, common_target, methods
from optimiz.compare.page import self_contained
from optimiz.compare.record import Record, Run
from optimiz.compare.statistics import Difference, paired_difference

CONFIDENCE = 0.95


def write_report(record: Record, directory: str | os.PathLike[str], *, figure: str) -> Path:
    """Write ``record.json``, the pictures, ``report.md`` and ``report.html``, which holds its pictures.

    Args:
        record: at least one run.
        directory: where to write; made if it is missing.
        figure: the figure by which methods are ranked, such as ``"accuracy"``.

    Returns:
        The path of ``report.md``.

    Raises:
        ValueError: the record holds no run or no such figure, or a method lacks a seed.
    """
    text = render(record, figure=figure)
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    record.write(directory / "record.json")
    learning_curves(record, directory / "curves.png", figure=figure)
    if _has_grids(methods(record, figure)):
        rate_curves(record, directory / "rates.png", figure=figure)
    report = directory / "report.md"
    report.write_text(text, encoding="utf-8")
    html = self_contained(text, record.title, directory)
    (directory / "report.html").write_text(html, encoding="utf-8")
    return report


def summary(record: Record, *, figure: str) -> str:
    """What a person wants to see first, as Markdown: the result in words, and the table.

    Args:
        record: at least one run.
        figure: the figure by which methods are ranked.
    """
    return in_words(record, figure=figure) + "\n\n" + results_table(record, figure=figure)


def render(record: Record, *, figure: str) -> str:
    """The report as Markdown.

    Args:
        record: at least one run.
        figure: the figure by which methods are ranked.
    """
    compared = methods(record, figure)
    sections = [
        f"# {record.title}",
        summary(record, figure=figure),
        f"![Learning curves: training loss, validation loss and validation {figure}](curves.png)",
        *_differences(record, compared, figure),
        *_rates(record, compared, figure),
        *_cost(record, compared, figure),
        *_beginning(record),
        *_health(record),
        "## What was run",
        _list({"command": f"`{record.command}`"} | dict(record.task) | dict(record.settings)),
        "## On what",
        _list({"date": record.date} | _flat(record.environment) | _other_versions(record)),
        *_all_runs(record, figure),
        "Every number on this page is in `record.json`, or is computed from what is there; `metrics.jsonl` in "
        "a run's folder has each update.",
    ]
    return "\n\n".join(sections) + "\n"


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


def results_table(record: Record, *, figure: str) -> str:
    """The test figures, time and memory of every method at its best rate, as a Markdown table.

    Args:
        record: at least one run.
        figure: the first of the test figures; the others follow in the runs' order.
    """
    compared = methods(record, figure)
    names = [figure, *(name for name in compared[0].runs[0].test if name != figure)]
    header = ["method", "learning rate", *(f"test {name}" for name in names)]
    header += ["updates", "seconds", "ms / update", "state bytes / parameter"]
    rows = [_result_row(method, names) for method in compared]
    for name, figures in record.baselines.items():
        cells = [_decimal(figures["test"][n]) if n in figures["test"] else "" for n in names]
        rows.append([name, "", *cells, "", "", "", ""])
    return _table(header, rows)


def _one_seed(record: Record, finite: Sequence[Method], figure: str) -> list[str]:
    """One seed tells as much as the test set does, which can be reckoned for a share of correct answers."""
    best, others = _best(finite)
    sign, top, n = record.sign(figure), best.score.mean, record.test_examples
    if not 0 <= top <= 1:
        shown = _joined([f"{m.name} ({sign * m.score.mean:.3f})" for m in others])
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
        sentences.append(f"One seed on this test set does not tell it from {_joined(close)}.")
    for name, level in record.levels(figure, "test").items():
        above = [m.name for m in finite if m.score.mean - level > lead]
        sentences.append(f"{name} reaches {level:.3f}; {_verdict(above, record, 'by more than that')}.")
    return sentences


def _several_seeds(record: Record, finite: Sequence[Method], figure: str) -> list[str]:
    best, others = _best(finite)
    sign, (mean, error, seeds) = record.sign(figure), best.score
    sentences = [
        f"**{best.name}** has the best mean test {figure} over {seeds} seeds: "
        f"{sign * mean:.3f} ± {error:.3f} (standard error)."
    ]
    if _has_grids(finite):
        sentences.append("Each method has the learning rate at which it validated best.")
    leads = {method.name: _lead(best, method, len(others)) for method in others}
    told = [f"{name} (by {lead.mean:.3f})" for name, lead in leads.items() if lead.significant]
    alike = [name for name, lead in leads.items() if not lead.significant]
    if alike:
        sentences.append(f"Between it and {_joined(alike)} there is **no significant difference**.")
    if told:
        sentences.append(f"It is significantly better than {_joined(told)}.")
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


def _best(compared: Sequence[Method]) -> tuple[Method, list[Method]]:
    """The method with the best mean score, and the others as they stand."""
    best = max(compared, key=lambda method: method.score.mean)
    return best, [method for method in compared if method is not best]


def _lead(best: Method, other: Method, comparisons: int) -> Difference:
    """How far the best is ahead, at a confidence that holds for so many comparisons together (Bonferroni)."""
    return paired_difference(best.scores, other.scores, confidence=1 - (1 - CONFIDENCE) / comparisons)


def _verdict(above: Sequence[str], record: Record, margin: str) -> str:
    if len(above) == len({run.optimizer for run in record.runs}):
        return f"every optimizer here is above it {margin}"
    if above:
        verb = "is" if len(above) == 1 else "are"
        return f"of the optimizers here, {_joined(above)} {verb} above it {margin}"
    return f"**no optimizer here is above it** {margin}"


def _differences(record: Record, compared: Sequence[Method], figure: str) -> list[str]:
    best, others = _best(compared)
    if not others or len(best.runs) == 1 or not math.isfinite(best.score.mean):
        return []
    # As many comparisons as in words: none is made with a method that diverged.
    comparisons = max(1, sum(math.isfinite(method.score.mean) for method in others))
    rows = []
    for method in others:
        lead = _lead(best, method, comparisons)
        interval = f"{lead.low:+.3f} to {lead.high:+.3f}" if math.isfinite(lead.low) else "none"
        pairs = ", ".join(f"{a - b:+.3f}" for a, b in zip(best.scores, method.scores, strict=True))
        verdict = "significant" if lead.significant else "no significant difference"
        rows.append([method.name, _decimal(lead.mean), interval, pairs, verdict])
    header = ["method", "mean lead over it", "interval", "by seed", "verdict"]
    return [
        "## Is the lead real?",
        f"How far {best.name} is ahead in test {figure}, seed by seed: both began with the same parameters "
        "and saw the same batches. The intervals contain all the leads that very many seeds would show, "
        f"together, with a confidence of {CONFIDENCE:.0%} (paired t, Bonferroni); where one contains zero, the "
        "seeds do not tell the two apart. Another test set would add an uncertainty of its own.",
        _table(header, rows),
    ]


def _rates(record: Record, compared: Sequence[Method], figure: str) -> list[str]:
    if not _has_grids(compared):
        return []
    sign = record.sign(figure)
    rows = []
    for method in compared:
        measured = method.sensitivity()
        if measured is None:
            continue
        grid = ", ".join(f"{rate:g}" for rate in method.levels if rate is not None)
        width = "all diverged"
        if not math.isnan(measured.low):
            width = f"{measured.low:g} to {measured.high:g} (×{measured.factor:.3g})"
        rows.append(
            [
                method.name,
                grid,
                _decimal(sign * measured.mean),
                _decimal(measured.spread),
                width,
                f"{method.diverged} of {method.tried}",
            ]
        )
    header = [
        "method",
        "rates",
        f"mean validation {figure}",
        "spread",
        f"within {NEAR} of the best",
        "diverged",
    ]
    return [
        "## How much does the learning rate matter?",
        f"Final validation {figure}, by which the rate of each method was chosen: its mean over the rates of "
        "the grid, its standard deviation over them, and the rates about the best one that come within "
        f"{NEAR} of it. The smaller the spread and the wider the range, the less tuning a method needs.",
        f"![Validation {figure} against learning rate](rates.png)",
        _table(header, rows),
    ]


def _cost(record: Record, compared: Sequence[Method], figure: str) -> list[str]:
    target, sign = common_target(record, compared, figure), record.sign(figure)
    unit = "reference seconds" if record.runs[0].budget is not None else "updates"
    header = ["method", "forward passes / update", "compilation, s", "temporary MB"]
    header += [f"{unit} to {figure} {sign * target:.3f}"]
    rows = []
    for method in compared:
        spent = method.time_to(record, figure, target) if math.isfinite(target) else math.inf
        temporary = method.runs[0].temporary_bytes
        rows.append(
            [
                method.name,
                f"{method.forwards_per_step():.2f}",
                f"{max(run.compile_seconds for run in method.runs):.1f}",
                "not known" if temporary is None else f"{temporary / 1e6:.3g}",
                f"{spent:.3g}" if math.isfinite(spent) else "never",
            ]
        )
    return [
        "## What did it cost?",
        "A forward pass is the unit of work: a backward pass counts 2, so that a plain update is 3, and what "
        "an optimizer evaluates beyond that is counted in. Temporary memory is what the compiler plans for a "
        "training step beside parameters, state and batch. The last column is about the validation level that "
        "every run reaches in the end: when each method was first found to be there (median over seeds). Its "
        "schedule was for the whole run; stopping there would want another.",
        _table(header, rows),
    ]


def _beginning(record: Record) -> list[str]:
    ginis = [gini for run in record.runs if (gini := run.heterogeneity.get("gini_norm")) is not None]
    if not ginis:
        return []
    spans = " to ".join(sorted({f"{gini:.2f}" for gini in (min(ginis), max(ginis))}))
    begun = {(run.seed, run.fingerprint) for run in record.runs}
    alike = len(begun) == len({run.seed for run in record.runs})
    return [
        "## How did they begin?",
        "For each seed, the SHA-256 of initial parameters, random key and first batches is "
        f"{'the same' if alike else '**not** the same'} in every run. The norms of the first gradient over the "
        f"parameter tensors have a Gini coefficient of {spans} (0: all equal, near 1: one tensor has all); "
        "where it is high, one learning rate for all tensors suits few of them.",
    ]


def _health(record: Record) -> list[str]:
    lines: dict[str, list[str]] = {}
    for run in record.runs:
        for finding in diagnostics.health(run.rows):
            where = f"{_arm(run)}, seed {run.seed}: {finding.evidence}"
            lines.setdefault(f"**{finding.name.replace('_', ' ')}** — {finding.remedy}", []).append(where)
    if not lines:
        return []
    texts = [f"{remedy}\n\n" + "\n".join(f"- {where}" for where in places) for remedy, places in lines.items()]
    return ["## What went wrong", "Found in the metrics of single runs, with what to try.", *texts]


def _all_runs(record: Record, figure: str) -> list[str]:
    if len(record.runs) == len({run.optimizer for run in record.runs}):
        return []
    header = ["run", "seed", f"validation {figure}", f"test {figure}", "updates", "diverged at", "began with"]
    rows = []
    for run in record.runs:
        validation, test = (
            record.sign(figure) * record.scores([run], figure, part)[0] for part in ("validation", "test")
        )
        diverged = "" if run.diverged_at is None else f"{run.diverged_at}"
        rows.append(
            [
                _arm(run),
                f"{run.seed}",
                _decimal(validation),
                _decimal(test),
                f"{run.steps}",
                diverged,
                f"`{run.fingerprint[:12]}`" if run.fingerprint else "",
            ]
        )
    return ["## All runs", _table(header, rows)]


def _result_row(method: Method, names: Sequence[str]) -> list[str]:
    updates, seconds = (np.mean([getattr(run, name) for run in method.runs]) for name in ("steps", "seconds"))
    return [
        method.name,
        "found" if method.rate is None else f"{method.rate:g}",
        *(_over_seeds([run.test.get(name) for run in method.runs]) for name in names),
        f"{updates:.0f}",
        f"{seconds:.0f}",
        f"{1000 * method.seconds_per_step():.0f}",
        f"{method.runs[0].state_bytes_per_parameter:.2f}",
    ]


def _over_seeds(values: Sequence[float | None]) -> str:
    """A figure of the runs of all seeds: mean ± standard error."""
    finite = [value for value in values if value is not None]
    if len(finite) < len(values):
        return (
            "not finite" if len(values) == 1 else f"not finite in {len(values) - len(finite)} of {len(values)}"
        )
    error = "" if len(finite) == 1 else f" ± {np.std(finite, ddof=1) / math.sqrt(len(finite)):.3f}"
    return f"{np.mean(finite):.3f}{error}"


def _decimal(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "not finite"


def _arm(run: Run) -> str:
    return run.optimizer if run.learning_rate is None else f"{run.optimizer} {run.learning_rate:g}"


def _has_grids(compared: Sequence[Method]) -> bool:
    return any(method.sensitivity() is not None for method in compared)


def _joined(names: Sequence[str]) -> str:
    return " and ".join(names) if len(names) < 3 else f"{', '.join(names[:-1])} and {names[-1]}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _other_versions(record: Record) -> dict[str, str]:
    """Packages that were not of one version in all runs, as when a comparison was resumed after an upgrade."""
    names = sorted({name for run in record.runs for name in run.versions})
    found = {name: sorted({run.versions.get(name, "none") for run in record.runs}) for name in names}
    return {f"{name} of the runs": ", ".join(several) for name, several in found.items() if len(several) > 1}


def _flat(entries: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in entries.items():
        flat |= value if isinstance(value, Mapping) else {name: value}
    return flat


def _list(entries: Mapping[str, Any]) -> str:
    return "\n".join(f"- {name.replace('_', ' ')}: {value}" for name, value in entries.items())
