"""The report of a comparison: one page of Markdown beside its pictures and its record, and the same as HTML.

It is rendered from the record alone.
"""

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from optimiz.compare import sections
from optimiz.compare.curves import learning_curves, rate_curves
from optimiz.compare.markdown import decimal, listed, table
from optimiz.compare.methods import Method, have_grids, methods
from optimiz.compare.page import self_contained
from optimiz.compare.record import Record
from optimiz.compare.verdict import in_words


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
    if have_grids(methods(record, figure)):
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
    paragraphs = [
        f"# {record.title}",
        summary(record, figure=figure),
        f"![Learning curves: training loss, validation loss and validation {figure}](curves.png)",
        *sections.differences(record, compared, figure),
        *sections.rates(record, compared, figure),
        *sections.cost(record, compared, figure),
        *sections.beginning(record),
        *sections.health(record),
        "## What was run",
        listed({"command": f"`{record.command}`"} | dict(record.task) | dict(record.settings)),
        "## On what",
        listed({"date": record.date} | _flat(record.environment) | _other_versions(record)),
        *sections.all_runs(record, figure),
        "Every number on this page is in `record.json`, or is computed from what is there; `metrics.jsonl` in "
        "a run's folder has each update.",
    ]
    return "\n\n".join(paragraphs) + "\n"


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
        cells = [decimal(figures["test"][n]) if n in figures["test"] else "" for n in names]
        rows.append([name, "", *cells, "", "", "", ""])
    return table(header, rows)


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
