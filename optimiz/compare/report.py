"""The report of a comparison: one page of Markdown beside its picture and its record.

It is rendered from the record alone. What it says in words follows from the numbers by stated rules: a lead
smaller than the sampling error of the test set is not called one.
"""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from optimiz.compare.curves import learning_curves
from optimiz.compare.record import Record, Run


def write_report(record: Record, directory: str | os.PathLike[str], *, figure: str) -> Path:
    """Write ``record.json``, ``curves.png`` and ``report.md``.

    Args:
        record: at least one run, whose test figures include ``figure``.
        directory: where to write; made if it is missing.
        figure: the figure by which methods are ranked, a share of correct answers such as ``"accuracy"``.

    Returns:
        The path of ``report.md``.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    record.write(directory / "record.json")
    learning_curves(record, directory / "curves.png", figure=figure)
    report = directory / "report.md"
    report.write_text(render(record, figure=figure), encoding="utf-8")
    return report


def summary(record: Record, *, figure: str) -> str:
    """What a person wants to see first, as Markdown: the result in words, and the table.

    Args:
        record: at least one run, whose test figures include ``figure``.
        figure: the figure by which methods are ranked.
    """
    return in_words(record, figure=figure) + "\n\n" + results_table(record, figure=figure)


def render(record: Record, *, figure: str) -> str:
    """The report as Markdown.

    Args:
        record: at least one run, whose test figures include ``figure``.
        figure: the figure by which methods are ranked.
    """
    sections = [
        f"# {record.title}",
        summary(record, figure=figure),
        f"![Learning curves: training loss, validation loss and validation {figure}](curves.png)",
        "## What was run",
        _list({"command": f"`{record.command}`"} | dict(record.task) | dict(record.settings)),
        "## On what",
        _list({"date": record.date} | _flat(record.environment)),
        "Every number on this page is in `record.json`; `metrics.jsonl` in a run's folder has each update.",
    ]
    return "\n\n".join(sections) + "\n"


def in_words(record: Record, *, figure: str) -> str:
    """The result in a paragraph: the best run, the baselines, and what the test set can tell apart.

    Args:
        record: at least one run, whose test figures include ``figure``.
        figure: the figure by which methods are ranked.
    """
    scores = {run.optimizer: score for run in record.runs if (score := run.test.get(figure)) is not None}
    if not scores:
        return f"No run reached a finite {figure}."
    best, top = max(scores.items(), key=lambda item: item[1])
    n = record.test_examples
    share = (top * n + 1) / (n + 2)  # Laplace's, so that a score of 1 on a few examples is not certainty
    lead = 2 * math.sqrt(2 * share * (1 - share) / n)
    sentences = [
        f"**{best}** has the highest test {figure}: {top:.3f} on {n} examples "
        f"(two standard errors of a difference: {lead:.3f})."
    ]
    close = [f"{name} ({x:.3f})" for name, x in scores.items() if name != best and top - x <= lead]
    if close:
        sentences.append(f"One seed on this test set does not tell it from {' and '.join(close)}.")
    for name, figures in record.baselines.items():
        level = figures["test"][figure]
        above = [optimizer for optimizer, score in scores.items() if score - level > lead]
        if len(above) == len(record.runs):
            verdict = "every optimizer here is above it by more than that"
        elif above:
            verdict = f"of the optimizers here, {' and '.join(above)} are above it by more than that"
        else:
            verdict = "**no optimizer here is above it** by more than that"
        sentences.append(f"{name} reaches {level:.3f}; {verdict}.")
    return " ".join(sentences)


def results_table(record: Record, *, figure: str) -> str:
    """The test figures, costs and memory of every run, and the baselines' figures, as a Markdown table.

    Args:
        record: at least one run.
        figure: the first of the test figures; the others follow in the runs' order.
    """
    names = [figure, *(name for name in record.runs[0].test if name != figure)]
    header = ["method", "learning rate", *(f"test {name}" for name in names)]
    header += ["updates", "seconds", "ms / update", "state bytes / parameter"]
    rows = [_run_row(run, names) for run in record.runs]
    for name, figures in record.baselines.items():
        cells = [_figure(figures["test"][n]) if n in figures["test"] else "" for n in names]
        rows.append([name, "", *cells, "", "", "", ""])
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _run_row(run: Run, names: Sequence[str]) -> list[str]:
    return [
        run.optimizer,
        f"{run.learning_rate:g}",
        *(_figure(run.test.get(name)) for name in names),
        str(run.steps),
        f"{run.seconds:.0f}",
        f"{1000 * run.seconds / run.steps:.0f}",
        f"{run.state_bytes_per_parameter:.2f}",
    ]


def _figure(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.3f}"


def _flat(entries: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in entries.items():
        flat |= value if isinstance(value, Mapping) else {name: value}
    return flat


def _list(entries: Mapping[str, Any]) -> str:
    return "\n".join(f"- {name.replace('_', ' ')}: {value}" for name, value in entries.items())
