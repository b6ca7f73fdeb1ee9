"""The page that is rendered from the rows of the line-search study."""

import collections
import functools
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from examples.shared import markdown, pictures
from examples.shared.rows import Row, Rows
from optimiz import compare

BASELINE = "adam"
FIELDS = {
    "method": str,
    "learning_rate": float | None,
    "seed": int,
    "validation": Mapping[str, float],
    "loss": Sequence[float],
    "evaluations": Sequence[int],
    "step_size": Sequence[Sequence[float]],
}
FORWARD_EQUIVALENTS = 3  # of an update without trials: a forward pass, and a backward pass that counts 2


def by_arm(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The runs by method and rate."""
    arms = collections.defaultdict(list)
    methods = list(dict.fromkeys(row["method"] for row in rows))
    for row in sorted(rows, key=lambda row: (methods.index(row["method"]), row["learning_rate"] or 0)):
        rate = row["learning_rate"]
        arms[row["method"] if rate is None else f"{row['method']} {rate:g}"].append(row)
    return arms


def write(rows: Rows, directory: Path, asked: str) -> str:
    """Write ``report.md`` and ``curves.png``, and return the part of the page that is the result.

    Args:
        rows: of one study.
        directory: where to write.
        asked: the command, as typed.
    """
    draw = functools.partial(_draw, *_compared(rows))
    pictures.write_page(render(rows, asked), directory / "report.md", "curves.png", draw)
    return summary(rows)


def render(rows: Rows, asked: str) -> str:
    """The page, as Markdown."""
    page = [
        "# Line searches beside Adam on a grid of learning rates",
        summary(rows),
        "![Training loss against forward passes, the validation figure, and step sizes](curves.png)",
        markdown.what_was_run(asked, rows.head["settings"] | rows.head["environment"]),
        "Every number is in `rows.jsonl`, with loss, trials and step sizes of each update.",
    ]
    return "\n\n".join(page) + "\n"


def summary(rows: Rows) -> str:
    """The part of the page that is the result."""
    return f"{in_words(*_compared(rows))}\n\n{table(*_compared(rows))}"


def _compared(rows: Rows) -> tuple[dict[str, list[Row]], str]:
    """The runs by arm, and the figure by which they are compared."""
    return by_arm(markdown.with_names(rows.rows, "method")), rows.head["settings"]["figure"]


def scores_of(runs: Sequence[Row], figure: str) -> list[float]:
    """A validation figure of each run, times -1 where less of it is better; -∞ where the loss is no number."""
    sign = -1 if compare.lower_is_better(figure) else 1
    figures = [row["validation"] for row in runs]
    return [sign * x[figure] if math.isfinite(x.get("loss", 0.0)) else -math.inf for x in figures]


def _shown(mean: float, error: float) -> str:
    return f"{mean:.3f} ± {error:.3f}" if math.isfinite(mean) else "diverged"


def log_loss(row: Row) -> float:
    """The mean over updates of the logarithm of the batch loss."""
    return float(np.mean(np.log(row["loss"])))


def in_words(arms: Mapping[str, list[Row]], figure: str) -> str:
    """How each search compares with the best rate of each grid."""
    sign = -1 if compare.lower_is_better(figure) else 1
    scores = {arm: compare.estimate(scores_of(runs, figure))[:2] for arm, runs in arms.items()}
    shown = {arm: _shown(sign * mean, error) for arm, (mean, error) in scores.items()}
    losses = {arm: statistics.fmean(map(log_loss, runs)) for arm, runs in arms.items()}
    grids = collections.defaultdict(list)
    for arm, runs in arms.items():
        if runs[0]["learning_rate"] is not None:
            grids[runs[0]["method"]].append(arm)
    bests = [max(grid, key=lambda arm: scores[arm][0]) for grid in grids.values()]
    named = []
    for best, grid in zip(bests, grids.values(), strict=True):
        rate, rates = arms[best][0]["learning_rate"], [arms[arm][0]["learning_rate"] for arm in grid]
        edge = ", **at the edge of its grid**: one beyond may be better" * compare.at_edge(rate, rates)
        named.append(f"{best} with {shown[best]}{edge}")
    sentences = [
        f"The best rates of the grid, by validation {figure} {compare.arrow(figure)}: {'; '.join(named)}."
    ]
    for arm in (arm for arm, runs in arms.items() if runs[0]["learning_rate"] is None):
        sentences.append(f"**{arm}**, given no rate, reaches {shown[arm]}:")
        leads = []
        for best in bests:
            lead, error = scores[arm][0] - scores[best][0], math.hypot(scores[arm][1], scores[best][1])
            beyond = "more" if abs(lead) > error else "not more"
            leads.append(f"{sign * lead:+.3f} beside {best}, {beyond} than a standard error of the difference")
        lower = [best for best in bests if losses[arm] < losses[best]]
        than = f"lower than with {' and '.join(lower)}" if lower else f"higher than with {' and '.join(bests)}"
        sentences.append("; ".join(leads) + f". Its mean log training loss is {than}.")
    return " ".join(sentences)


def across(studies: Mapping[str, Rows]) -> str:
    """How each method fares in several studies, as a Markdown table; of a grid the best rate.

    In bold is what is above Adam by more than a standard error of the difference.

    Args:
        studies: name → its rows.
    """
    cells: dict[str, dict[str, str]] = collections.defaultdict(dict)
    header = ["method"]
    for study, rows in studies.items():
        arms, figure = _compared(rows)
        header.append(f"{study}, {figure} {compare.arrow(figure)}")
        sign = -1 if compare.lower_is_better(figure) else 1
        of_method: dict[str, tuple[float, float, float | None]] = {}
        for runs in sorted(arms.values(), key=lambda runs: runs[0]["learning_rate"] is None):
            score = compare.estimate(scores_of(runs, figure))[:2]
            method, rate = runs[0]["method"], runs[0]["learning_rate"]
            if method not in of_method or score[0] > of_method[method][0]:
                of_method[method] = (*score, rate)
        base, base_error, _ = of_method[BASELINE]
        for method, (mean, error, rate) in of_method.items():
            mark = "**" if mean - base > math.hypot(error, base_error) else ""
            at = "" if rate is None else f" at {rate:g}"
            cells[method][study] = f"{mark}{_shown(sign * mean, error)}{mark}{at}"
    lines = [[method, *(row.get(study, "") for study in studies)] for method, row in cells.items()]
    return compare.table(header, lines)


def table(arms: Mapping[str, list[Row]], figure: str) -> str:
    """One line per arm, as a Markdown table: means over seeds with their standard errors."""
    sign = -1 if compare.lower_is_better(figure) else 1
    header = [
        "method",
        f"validation {figure} {compare.arrow(figure)}",
        "mean log training loss",
        "extra forward passes per update",
    ]
    header += ["in the first search", "most in a search"]
    lines = []
    for arm, runs in arms.items():
        trials = [np.diff(row["evaluations"], prepend=0) for row in runs]
        mean, error, _ = compare.estimate(scores_of(runs, figure))
        cells = [arm, _shown(sign * mean, error)]
        cells.append(_shown(*compare.estimate([log_loss(row) for row in runs])[:2]))
        cells += [f"{np.mean(trials):.2f}", f"{max(t[0] for t in trials)}", f"{np.max(trials)}"]
        lines.append(cells)
    return compare.table(header, lines)


def _draw(arms: Mapping[str, list[Row]], figure: str, path: Path) -> None:
    sign = -1 if compare.lower_is_better(figure) else 1
    picture = Figure(figsize=(14, 4.4), layout="constrained")
    losses, scores, sizes = picture.subplots(1, 3)
    for i, (arm, runs) in enumerate(arms.items()):
        searched = runs[0]["learning_rate"] is None
        cost = np.mean([_cost(row) for row in runs], axis=0)
        loss = np.exp(np.mean([np.log(row["loss"]) for row in runs], axis=0))
        style = {"color": f"C{i}", "label": arm, "linestyle": "-" if searched else "--"}
        losses.plot(cost, compare.running_mean(loss.tolist()), linewidth=1.8 if searched else 1.0, **style)
        values = [sign * x if math.isfinite(x) else math.nan for x in scores_of(runs, figure)]
        scores.plot(values, [i] * len(values), "o", color=f"C{i}", alpha=0.35, markersize=5)
        mean, error, _ = compare.estimate(values)
        scores.errorbar(mean, i, xerr=error, color=f"C{i}", marker="|", markersize=14, capsize=3)
        if searched:
            _draw_sizes(sizes, runs[0]["step_size"], style)
    losses.set(yscale="log", xlabel="forward passes, a backward counts 2", title="training loss")
    losses.legend(frameon=False, fontsize=8)
    title = f"validation {figure} {compare.arrow(figure)}: seeds and mean"
    scores.set(yticks=range(len(arms)), yticklabels=list(arms), title=title)
    scores.invert_yaxis()
    sizes.set(yscale="log", xlabel="updates", title="step sizes of seed 0 (pla_sls: a line per unit)")
    pictures.save(picture, path, dpi=130)


def _draw_sizes(axes: Any, step_sizes: Sequence[Iterable[float]], style: Mapping[str, Any]) -> None:
    units = np.array(step_sizes).T
    for unit in units:
        axes.plot(unit, color=style["color"], linewidth=1.6 if len(units) == 1 else 0.8)


def _cost(row: Row) -> np.ndarray:
    updates = np.arange(1, len(row["loss"]) + 1)
    return FORWARD_EQUIVALENTS * updates + np.array(row["evaluations"])
