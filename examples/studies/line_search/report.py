"""The report of the line-search study, rendered from its record."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from examples.shared import markdown, pictures
from examples.shared.study_record import column, mean_over_runs, with_safe_names
from examples.studies.tuned import direction, in_groups, levels
from optimiz import compare

PICTURE = "curves.png"
CHOOSING = 2
"""Seeds below this choose the rates; the others are compared."""

COLUMNS = ("loss", "evaluations", "step_size")  # per update; Adam has only the first
_STEP_FORWARDS = 3  # per update without trials: one, and a backward pass that counts 2


class Results:
    """The runs of a record: those that chose a rate, and those that are compared."""

    def __init__(self, record: compare.Record):
        self._record, self._runs = record, with_safe_names(record.runs)
        self.metric: str = record.settings["metric"]
        self.rows = list(dict.fromkeys(run.extra["rows"] for run in self._runs))
        names = dict.fromkeys(run.optimizer for run in self._runs)
        self.tuned = [name for name in names if self._of(self.rows[0], name, choosing=True)]
        self.searches = [name for name in names if name not in self.tuned]

    def _of(self, rows: int, name: str, *, choosing: bool) -> list[compare.Run]:
        wanted = (rows, name, choosing)
        return [r for r in self._runs if (r.extra["rows"], r.optimizer, r.seed < CHOOSING) == wanted]

    def runs(self, rows: int, name: str) -> list[compare.Run]:
        """The runs of a method that are compared, in the order of their seeds."""
        return self._of(rows, name, choosing=False)

    def grid(self, rows: int, name: str) -> dict[float, float]:
        """The level of validation by rate; empty for a method that takes none."""
        return levels(self._of(rows, name, choosing=True))

    def at_edge(self, rows: int, name: str) -> bool:
        """Whether the rate that was chosen is the lowest or the highest that was tried."""
        grid = self.grid(rows, name)
        return compare.at_edge(compare.best_rate(grid), list(grid))

    def scores(self, rows: int, name: str) -> list[float]:
        """The test metric of each run that is compared; -∞ if it diverged."""
        return self._record.scores(self.runs(rows, name), self.metric, "test")

    def confidence(self) -> float:
        """The confidence of one interval, so that all of a number of rows hold with 95 %."""
        return 1 - 0.05 / max(len(self.tuned) * len(self.searches), 1)

    def lead(self, rows: int, name: str, over: str) -> compare.Difference:
        """The lead of one method over another in the test metric, paired by seed."""
        return compare.paired_difference(
            self.scores(rows, name), self.scores(rows, over), confidence=self.confidence()
        )

    def keeps_up(self, rows: int, name: str, over: str) -> bool:
        """Whether a method is at most a standard error of the paired difference behind another."""
        pairs = zip(self.scores(rows, name), self.scores(rows, over), strict=True)
        mean, error, _ = compare.estimate([first - second for first, second in pairs])
        return mean >= -error

    def trials(self, rows: int, name: str) -> list[np.ndarray]:
        """The forward passes of the search in each update, by run."""
        return [np.diff(_evaluations(run), prepend=0) for run in self.runs(rows, name)]


def render(record: compare.Record) -> str:
    """The page, as Markdown."""
    results = Results(record)
    seeds = len(results.runs(results.rows[0], results.tuned[0]))
    intervals = len(results.tuned) * len(results.searches)
    return markdown.study_page(
        record,
        summary(record),
        f"The rate of each method that takes one was chosen from {CHOOSING} seeds by validation "
        f"{results.metric}; the other columns are of {seeds} further seeds, on test examples that decided "
        "nothing. ± is the standard error over seeds. The intervals of leads, paired by seed, are Student's; "
        f"the {intervals} of one number of rows hold together with 95 % (Bonferroni). To keep up is to be at "
        "most a standard error of the paired difference behind. The mean log training loss is over updates.",
        f"![Test {results.metric} by rows, training loss against forward passes, and step sizes]({PICTURE})",
        numbers=", including the loss, trials and step sizes of each update",
    )


def summary(record: compare.Record) -> str:
    """The part of the page with the result."""
    results = Results(record)
    return f"{in_words(results)}\n\n{table(results)}"


def in_words(results: Results) -> str:
    """The result in words: how each search compares with each method at its best rate."""
    lines = []
    for name in results.searches:
        said = []
        for over in results.tuned:
            found = [(direction(results.lead(rows, name, over)), f"{rows:,}") for rows in results.rows]
            verbs = {1: "ahead with", -1: "behind with", 0: "**not told apart** with"}
            level = [f"{rows:,}" for rows in results.rows if results.keeps_up(rows, name, over)]
            up = f"it keeps up with {', '.join(level) or 'none'}"
            said.append(f"Next to {over}, by rows: {'; '.join(in_groups(found, verbs))}; {up}.")
        lines.append(f"- **{name}**, which needs no rate. {' '.join(said)}")
    edges = [
        f"{name} with {rows:,} rows"
        for rows in results.rows
        for name in results.tuned
        if results.at_edge(rows, name)
    ]
    lines += [f"- **At an edge of its grid**: the best rate of {', '.join(edges)}."] if edges else []
    return "\n".join(lines)


def table(results: Results) -> str:
    """One row per number of rows and method, as Markdown."""
    metric = f"test {results.metric} {compare.arrow(results.metric)}"
    header = ["rows", "method", "rate", "rates tried", metric, "mean log training loss ↓"]
    header += [f"lead over {name}" for name in results.tuned]
    header += ["extra forward passes per update", "in the first search", "most in a search"]
    lines = []
    for rows in results.rows:
        for name in (*results.tuned, *results.searches):
            grid = results.grid(rows, name)
            losses = [float(np.mean(np.log(column(run, "loss")))) for run in results.runs(rows, name)]
            cells = [f"{rows:,}", name, _rate(grid), f"{len(grid)}" if grid else ""]
            cells += [_shown(results.scores(rows, name)), _shown(losses)]
            for over in results.tuned:
                cells.append("" if grid else markdown.difference(results.lead(rows, name, over)))
            trials = results.trials(rows, name)
            cells.append(f"{np.mean(np.concatenate(trials)):.2f}")
            cells += [f"{max(t[0] for t in trials):.0f}", f"{max(map(np.max, trials)):.0f}"]
            lines.append(cells)
    return compare.table(header, lines)


def across(studies: Mapping[str, compare.Record]) -> str:
    """The test metric of each method on several data sets, by rows, as a Markdown table.

    In bold, which is explained below it: it keeps up with the best of the tuned methods.

    Args:
        studies: name → record.
    """
    header = ["data", "rows"]
    lines: list[list[str]] = []
    note = ""
    for study, record in studies.items():
        results = Results(record)
        names = (*results.tuned, *results.searches)
        if not lines:
            header += names
        for rows in results.rows:
            best = max(results.tuned, key=lambda name, n=rows: compare.estimate(results.scores(n, name)).mean)
            cells = [f"{study}, {results.metric} {compare.arrow(results.metric)}", f"{rows:,}"]
            for name in names:
                mark = ""
                if name in results.searches and results.keeps_up(rows, name, best):
                    mark = "**"
                    note = (
                        "\n\nIn bold: at most a standard error of the paired difference behind the best Adam."
                    )
                rate = f" at {_rate(grid)}" if (grid := results.grid(rows, name)) else ""
                cells.append(f"{mark}{_shown(results.scores(rows, name))}{mark}{rate}")
            lines.append(cells)
    return compare.table(header, lines) + note


def _rate(grid: Mapping[float, float]) -> str:
    if not grid:
        return "found"
    rate = compare.best_rate(grid)
    return f"{rate:.2g}" + ", **an edge**" * compare.at_edge(rate, list(grid))


def _shown(values: Sequence[float]) -> str:
    mean, error, _ = compare.estimate(values)
    return f"{mean:.3f} ± {error:.3f}" if math.isfinite(mean) else "diverged"


def _evaluations(run: compare.Run) -> np.ndarray:
    """The number of trials so far, after each update."""
    return column(run, "evaluations") if "evaluations" in run.extra else np.zeros(len(run.extra["loss"]))


def draw(record: compare.Record, path: Path) -> None:
    """Plot the test metric against the rows, and for most rows losses and step sizes."""
    results = Results(record)
    picture = Figure(figsize=(14, 4.4), layout="constrained")
    scores, losses, sizes = picture.subplots(1, 3)
    most = max(results.rows)
    for i, name in enumerate((*results.tuned, *results.searches)):
        searched = name in results.searches
        style: dict[str, Any] = {"color": f"C{i}", "label": name, "linestyle": "-" if searched else "--"}
        found = [compare.estimate(results.scores(rows, name)) for rows in results.rows]
        mean = [one.mean if math.isfinite(one.mean) else math.nan for one in found]
        error = [one.standard_error if math.isfinite(one.mean) else 0.0 for one in found]
        scores.errorbar(results.rows, mean, yerr=error, capsize=3, marker="o", markersize=4, **style)
        runs = results.runs(most, name)
        cost = mean_over_runs(map(_cost, runs))
        loss = np.exp(mean_over_runs(np.log(column(run, "loss")) for run in runs))
        losses.plot(cost, compare.running_mean(loss.tolist()), linewidth=1.6 if searched else 1.0, **style)
        if searched:
            sizes.plot(column(runs[0], "step_size"), linewidth=1.0, color=f"C{i}")
    title = f"test {results.metric} {compare.arrow(results.metric)}, ± standard error"
    scores.set(xscale="log", xlabel="training examples", title=title)
    scores.set_xticks(results.rows, [f"{rows:,}" for rows in results.rows], minor=False)
    scores.minorticks_off()
    scores.legend(frameon=False, fontsize=8)
    passes = "forward passes (a backward pass counts 2)"
    losses.set(yscale="log", xlabel=passes, title=f"training loss, {most:,} examples")
    sizes.set(yscale="log", xlabel="updates", title=f"step sizes of a run, {most:,} examples")
    pictures.save(picture, path, dpi=130)


def _cost(run: compare.Run) -> np.ndarray:
    return _STEP_FORWARDS * np.arange(1, len(run.extra["loss"]) + 1) + _evaluations(run)
