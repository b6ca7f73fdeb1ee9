"""The report of the line-search study, rendered from its record."""

import collections
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from examples.shared import markdown, pictures
from examples.shared.study_record import column, mean_over_runs, with_safe_names
from optimiz import compare

PICTURE = "curves.png"

BASELINE = "adam"
COLUMNS = ("loss", "evaluations", "step_size")  # per update; Adam has only the first
_STEP_FORWARDS = 3  # per update without trials: one, and a backward pass that counts 2

Arms = Mapping[str, Sequence[compare.Run]]


def by_arm(record: compare.Record) -> Arms:
    """The runs by method and rate."""
    arms = collections.defaultdict(list)
    methods = list(dict.fromkeys(run.optimizer for run in record.runs))
    runs = sorted(record.runs, key=lambda run: (methods.index(run.optimizer), run.learning_rate or 0))
    for run in with_safe_names(runs):
        rate = run.learning_rate
        arms[run.optimizer if rate is None else f"{run.optimizer} {rate:g}"].append(run)
    return arms


def render(record: compare.Record) -> str:
    """The page, as Markdown."""
    page = [
        f"# {compare.escaped(record.title)}",
        summary(record),
        f"![Training loss against forward passes, the validation metric, and step sizes]({PICTURE})",
        markdown.what_was_run(record),
        "Every number is in `record.json`, including the loss, trials and step sizes of each update.",
    ]
    return "\n\n".join(page) + "\n"


def summary(record: compare.Record) -> str:
    """The part of the page with the result."""
    return f"{in_words(record)}\n\n{table(record)}"


def metric_of(record: compare.Record) -> str:
    """The validation metric that ranks the methods."""
    settings = record.settings
    return settings["metric"] if "metric" in settings else settings["figure"]  # its name in earlier records


def scores_of(record: compare.Record, runs: Sequence[compare.Run]) -> list[float]:
    """The final validation metric of each run, times -1 if less is better; -∞ if the run diverged."""
    return record.scores(runs, metric_of(record), "test")


def best_rate_of(record: compare.Record, method: str) -> tuple[list[float], float | None, bool]:
    """The runs of a method at its best rate, by the mean of their scores.

    Returns:
        Their scores, as :func:`scores_of` has them; the rate, None if the method finds it; and whether that is
        at the edge of its grid.
    """
    grid = [runs for runs in by_arm(record).values() if runs[0].optimizer == method]
    best = max(grid, key=lambda runs: compare.estimate(scores_of(record, runs)).mean)
    rates = [rate for runs in grid if (rate := runs[0].learning_rate) is not None]
    rate = best[0].learning_rate
    return scores_of(record, best), rate, rate is not None and compare.at_edge(rate, rates)


def evaluations_of(run: compare.Run) -> np.ndarray:
    """The number of trials so far, after each update."""
    return column(run, "evaluations") if "evaluations" in run.extra else np.zeros(len(run.extra["loss"]))


def log_loss(run: compare.Run) -> float:
    """The logarithm of the batch loss, averaged over updates."""
    return float(np.mean(np.log(column(run, "loss"))))


def in_words(record: compare.Record) -> str:
    """The result in words: how each search compares with the best rate of each grid."""
    arms, metric, sign = by_arm(record), metric_of(record), record.sign(metric_of(record))
    scores = {arm: compare.estimate(scores_of(record, runs))[:2] for arm, runs in arms.items()}
    shown = {arm: _shown(sign * mean, error) for arm, (mean, error) in scores.items()}
    losses = {arm: statistics.fmean(map(log_loss, runs)) for arm, runs in arms.items()}
    grids = collections.defaultdict(list)
    for arm, runs in arms.items():
        if runs[0].learning_rate is not None:
            grids[runs[0].optimizer].append(arm)
    bests = [max(grid, key=lambda arm: scores[arm][0]) for grid in grids.values()]
    named = []
    for best, grid in zip(bests, grids.values(), strict=True):
        rate, rates = arms[best][0].learning_rate, [arms[arm][0].learning_rate for arm in grid]
        edge = ", **at the edge of its grid**: a rate beyond it may be better" * compare.at_edge(rate, rates)
        named.append(f"{best} with {shown[best]}{edge}")
    sentences = [
        f"The best rates of the grid, by validation {metric} {compare.arrow(metric)}: {'; '.join(named)}."
    ]
    for arm in (arm for arm, runs in arms.items() if runs[0].learning_rate is None):
        sentences.append(f"**{arm}**, which needs no rate, reaches {shown[arm]}:")
        leads = []
        for best in bests:
            lead, error = scores[arm][0] - scores[best][0], math.hypot(scores[arm][1], scores[best][1])
            beyond = "more" if abs(lead) > error else "not more"
            leads.append(
                f"{sign * lead:+.3f} relative to {best}, {beyond} than a standard error of the difference"
            )
        lower = [best for best in bests if losses[arm] < losses[best]]
        than = f"lower than with {' and '.join(lower)}" if lower else f"higher than with {' and '.join(bests)}"
        sentences.append("; ".join(leads) + f". Its mean log training loss is {than}.")
    return " ".join(sentences)


def across(studies: Mapping[str, compare.Record]) -> str:
    """How each method does in several studies, as a Markdown table; a grid is shown at its best rate.

    Numbers in bold are better than Adam's by more than a standard error of the difference.

    Args:
        studies: name → record.
    """
    cells: dict[str, dict[str, str]] = collections.defaultdict(dict)
    header = ["method"]
    for study, record in studies.items():
        metric, sign = metric_of(record), record.sign(metric_of(record))
        header.append(f"{study}, {metric} {compare.arrow(metric)}")
        of_method: dict[str, tuple[float, float, float | None]] = {}
        for runs in sorted(by_arm(record).values(), key=lambda runs: runs[0].learning_rate is None):
            score = compare.estimate(scores_of(record, runs))[:2]
            method, rate = runs[0].optimizer, runs[0].learning_rate
            if method not in of_method or score[0] > of_method[method][0]:
                of_method[method] = (*score, rate)
        base, base_error, _ = of_method[BASELINE]
        for method, (mean, error, rate) in of_method.items():
            mark = "**" if mean - base > math.hypot(error, base_error) else ""
            at = "" if rate is None else f" at {rate:g}"
            cells[method][study] = f"{mark}{_shown(sign * mean, error)}{mark}{at}"
    lines = [[method, *(row.get(study, "") for study in studies)] for method, row in cells.items()]
    return compare.table(header, lines)


def table(record: compare.Record) -> str:
    """A table with one row per arm, as Markdown."""
    metric, sign = metric_of(record), record.sign(metric_of(record))
    header = ["method", f"validation {metric} {compare.arrow(metric)}", "mean log training loss"]
    header += ["extra forward passes per update", "in the first search", "most in a search"]
    lines = []
    for arm, runs in by_arm(record).items():
        trials = [np.diff(evaluations_of(run), prepend=0) for run in runs]
        mean, error, _ = compare.estimate(scores_of(record, runs))
        cells = [arm, _shown(sign * mean, error)]
        cells.append(_shown(*compare.estimate([log_loss(run) for run in runs])[:2]))
        each = np.concatenate(trials)
        cells += [f"{np.mean(each):.2f}", f"{max(t[0] for t in trials):.0f}", f"{np.max(each):.0f}"]
        lines.append(cells)
    return compare.table(header, lines)


def _shown(mean: float, error: float) -> str:
    return f"{mean:.3f} ± {error:.3f}" if math.isfinite(mean) else "diverged"


def draw(record: compare.Record, path: Path) -> None:
    """Plot losses against forward passes, the validation metric, and step sizes."""
    arms, metric, sign = by_arm(record), metric_of(record), record.sign(metric_of(record))
    picture = Figure(figsize=(14, 4.4), layout="constrained")
    losses, scores, sizes = picture.subplots(1, 3)
    for i, (arm, runs) in enumerate(arms.items()):
        searched = runs[0].learning_rate is None
        cost = mean_over_runs(map(_cost, runs))
        loss = np.exp(mean_over_runs(np.log(column(run, "loss")) for run in runs))
        style = {"color": f"C{i}", "label": arm, "linestyle": "-" if searched else "--"}
        losses.plot(cost, compare.running_mean(loss.tolist()), linewidth=1.8 if searched else 1.0, **style)
        values = [sign * x if math.isfinite(x) else math.nan for x in scores_of(record, runs)]
        scores.plot(values, [i] * len(values), "o", color=f"C{i}", alpha=0.35, markersize=5)
        mean, error, _ = compare.estimate(values)
        scores.errorbar(mean, i, xerr=error, color=f"C{i}", marker="|", markersize=14, capsize=3)
        if searched:
            _draw_sizes(sizes, column(runs[0], "step_size"), style)
    losses.set(yscale="log", xlabel="forward passes (a backward pass counts 2)", title="training loss")
    losses.legend(frameon=False, fontsize=8)
    title = f"validation {metric} {compare.arrow(metric)}: seeds and mean"
    scores.set(yticks=range(len(arms)), yticklabels=list(arms), title=title)
    scores.invert_yaxis()
    sizes.set(yscale="log", xlabel="updates", title="step sizes of seed 0 (pla_sls: one line per unit)")
    pictures.save(picture, path, dpi=130)


def _draw_sizes(axes: Any, step_sizes: np.ndarray, style: Mapping[str, Any]) -> None:
    units = step_sizes.T
    for unit in units:
        axes.plot(unit, color=style["color"], linewidth=1.6 if len(units) == 1 else 0.8)


def _cost(run: compare.Run) -> np.ndarray:
    return _STEP_FORWARDS * np.arange(1, len(run.extra["loss"]) + 1) + evaluations_of(run)
