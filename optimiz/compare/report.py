"""The report of a comparison: a page of Markdown next to its pictures and its record, and the same as HTML.

It is rendered from the record alone. A part that fails, such as a picture, is left out, and the report says
why, so that no report is lost because of one part.
"""

import logging
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from optimiz import training
from optimiz.compare import sections
from optimiz.compare.curves import learning_curves, rate_curves, score_by_cost, shows_loss
from optimiz.compare.markdown import code, decimal, escaped, joined, listed, measured, table, with_error
from optimiz.compare.methods import Method, by_method, have_grids
from optimiz.compare.page import self_contained
from optimiz.compare.record import Record
from optimiz.compare.setting import setting_in_words
from optimiz.compare.statistics import estimate
from optimiz.compare.verdict import consequences, in_words

_CURVES, _RATES, _COSTS = "curves.png", "rates.png", "cost.png"

_log = logging.getLogger(__name__)


def check_report(record: Record, directory: str | os.PathLike[str], *, metric: str) -> None:
    """Refuse, before anything is trained, what ``write_report`` would refuse at the end.

    Args:
        record: the record, still without its runs.
        directory: directory of the report; created if it does not exist.
        metric: name of the metric by which methods will be ranked.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: the metric has no known direction.
        OSError: the directory cannot be written to.
    """
    if not isinstance(record, Record):
        raise TypeError(f"record must be a compare.Record, got {type(record).__name__}")
    record.sign(metric)
    directory = Path(directory).expanduser()
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=directory):
        pass


def write_report(record: Record, directory: str | os.PathLike[str], *, metric: str) -> Path:
    """Write ``record.json``, the pictures, ``report.md`` and ``report.html``, which contains its pictures.

    The record is written first. A picture or section that cannot be made is left out, and the report says why.

    Args:
        record: record with at least one run.
        directory: directory of the report; created if it does not exist.
        metric: name of the metric by which methods are ranked, such as ``"accuracy"``. If the name is not well
            known, the record must have it in ``lower_is_better`` or ``higher_is_better``.

    Returns:
        The path of ``report.md``.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: the record has no run or no such metric, the metric has no known direction, or a method
            lacks a seed.
        OSError: a file cannot be written; those before it are complete.
    """
    if not isinstance(record, Record):
        raise TypeError(f"record must be a compare.Record, got {type(record).__name__}")
    record.sign(metric)
    compared = by_method(record, metric)
    directory = Path(directory).expanduser()
    directory.mkdir(parents=True, exist_ok=True)
    record.write(directory / "record.json")
    pictures = {_CURVES: learning_curves} | ({_RATES: rate_curves} if have_grids(compared) else {})
    pictures |= {_COSTS: score_by_cost} if len(compared) > 1 else {}
    missing = {}
    for name, draw in pictures.items():
        (directory / name).unlink(missing_ok=True)  # it may belong to an earlier report
        if reason := _fault(draw, record, directory / name, metric=metric):
            missing[name] = reason
    report, page = directory / "report.md", directory / "report.html"
    text = render(record, metric=metric, missing=missing)
    made: list[str] = []
    own = {*pictures, *record.pictures}
    reason = _fault(lambda: made.append(self_contained(text, record.title, directory, own)))
    if reason:
        page.unlink(missing_ok=True)
        text += f"\n`report.html` is left out: {escaped(reason)}\n"
    training.write_whole(report, text)
    for html in made:
        training.write_whole(page, html)
    return report


def summary(record: Record, *, metric: str) -> str:
    """The result in words and as a table, as Markdown; first, whether the setting tells training from none.

    One run without a control is no comparison, and has no such opening.

    Args:
        record: record with at least one run.
        metric: name of the metric by which methods are ranked.
    """
    lacking = [f"{escaped(name)} is left out: {escaped(reason)}" for name, reason in record.left_out.items()]
    is_comparison = len(record.runs) > 1 or bool(record.controls)
    parts = [*[setting_in_words] * is_comparison, in_words, consequences, results_table]
    return "\n\n".join(filter(None, [*(part(record, metric=metric) for part in parts), *lacking]))


def render(record: Record, *, metric: str, missing: Mapping[str, str] | None = None) -> str:
    """The report as Markdown.

    Args:
        record: record with at least one run.
        metric: name of the metric by which methods are ranked.
        missing: picture that could not be drawn → why.
    """
    compared, missing = by_method(record, metric), missing or {}
    drawn = [
        "training loss",
        *["validation loss"] * shows_loss(record, metric),
        f"validation {escaped(metric)}",
    ]
    caption = f"Learning curves: {joined(drawn)}"
    paragraphs = [
        f"# {escaped(record.title)}",
        summary(record, metric=metric),
        f"![{caption}]({_CURVES})",
        *_section(sections.differences, record, compared, metric),
        *_section(sections.seeds, record, compared, metric),
        *_section(sections.rates, record, compared, metric),
        *_section(sections.axes, record, compared, metric),
        *_section(sections.dropped, record, compared, metric),
        *_section(sections.cost, record, compared, metric),
        *_section(sections.kept, record),
        *_section(sections.by_class, record, compared),
        *_section(sections.by_label, record, compared),
        *_section(sections.beginning, record),
        *_section(sections.noise, record, compared),
        *_section(sections.health, record),
        *_section(sections.samples, record),
        *_section(sections.pictures, record),
        "## What was run",
        f"- command: {code(record.command)}\n" + listed(dict(record.task) | dict(record.settings)),
        "## Environment",
        listed({"date": record.date} | _flat(record.environment) | _other_versions(record)),
        *_section(sections.all_runs, record, metric),
        "Every number on this page is in `record.json` or is computed from it; `metrics.jsonl` in the "
        "directory of a run has every update.",
    ]
    shown = [_without(paragraph, missing) for paragraph in paragraphs]
    return "\n\n".join(shown) + "\n"


def _without(paragraph: str, missing: Mapping[str, str]) -> str:
    """The paragraph or, if it is a missing picture, the reason."""
    for name, reason in missing.items():
        if paragraph.startswith("![") and paragraph.endswith(f"]({name})"):
            return f"`{name}` is left out: {escaped(reason)}"
    return paragraph


def _section(of: Callable[..., list[str]], *arguments: Any) -> list[str]:
    found: list[str] = []
    reason = _fault(lambda: found.extend(of(*arguments)))
    return [f"The section on {of.__name__} is left out: {escaped(reason)}"] if reason else found


def _fault(make: Callable[..., object], *arguments: Any, **options: Any) -> str | None:
    """Make a part of a report; if that fails, return the reason."""
    try:
        make(*arguments, **options)
    except Exception as error:
        trace = not isinstance(error, OSError)  # of a full disk, nobody needs to know where it was noticed
        _log.warning("a part of the report is left out: %r", error, exc_info=trace)
        return f"{type(error).__name__}: {error}"
    return None


def results_table(record: Record, *, metric: str) -> str:
    """The test metrics, time and memory of every method at its best rate, as a Markdown table.

    Args:
        record: record with at least one run.
        metric: name of the test metric that comes first; the others follow in the order of the first run.
    """
    compared = by_method(record, metric)
    names = [metric, *(name for name in compared[0].runs[0].test if name != metric)]
    titles = {name: f"test {record.directed(name)}" for name in names}
    rows = [_result_row(method, titles) for method in compared]
    for name, metrics in record.baselines.items():
        known = {titles[n]: decimal(metrics["test"][n]) for n in names if n in metrics["test"]}
        rows.append({"method": escaped(name)} | known)
    header = list(dict.fromkeys(title for row in rows for title in row))
    return table(header, [[row.get(title, "") for title in header] for row in rows])


def _result_row(method: Method, titles: Mapping[str, str]) -> dict[str, str]:
    """The cells of a method by column title; ``titles`` has the titles of the test metrics."""
    runs = method.runs
    seconds = [run.seconds for run in runs if run.seconds is not None]
    return {
        "method": escaped(method.name),
        "learning rate": "found" if method.rate is None else f"{method.rate:g}",
        **{escaped(axis): f"{value:g}" for axis, value in method.values.items()},
        **{title: _over_seeds([run.test.get(name) for run in runs]) for name, title in titles.items()},
        "updates": f"{np.mean([run.steps for run in runs]):.0f}",
        "seconds": measured(float(np.mean(seconds)) if len(seconds) == len(runs) else None, ".0f"),
        "ms / update": measured(method.seconds_per_step(), ".0f", 1000),
        "state bytes / parameter": measured(runs[0].state_bytes_per_parameter, ".2f"),
    }


def _over_seeds(values: Sequence[float | None]) -> str:
    """A metric over the seeds: mean ± standard error."""
    finite = [value for value in values if value is not None]
    if len(finite) < len(values):
        return (
            "not finite" if len(values) == 1 else f"not finite in {len(values) - len(finite)} of {len(values)}"
        )
    mean = float(np.mean(finite))
    return decimal(mean) if len(finite) == 1 else with_error(mean, estimate(finite).standard_error)


def _other_versions(record: Record) -> dict[str, str]:
    """Packages whose versions differ between runs, as when a comparison was resumed after an upgrade."""
    names = sorted({name for run in record.runs for name in run.versions})
    found = {name: sorted({run.versions.get(name, "none") for run in record.runs}) for name in names}
    return {f"{name} of the runs": ", ".join(several) for name, several in found.items() if len(several) > 1}


def _flat(entries: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in entries.items():
        flat |= value if isinstance(value, Mapping) else {name: value}
    return flat
