"""The report of the study on fine-tuning, rendered from its record."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from examples.shared import markdown, pictures
from examples.shared.study_record import column
from examples.studies.fine_tuning.arms import HEAD
from examples.studies.tuned import HEAD_RATE, decades, direction, in_groups, levels
from optimiz import compare

PICTURE = "rates.png"
CHOOSING = 2
"""Seeds below this choose the rates; the others are compared."""

_STARTS = {
    "pretrained": "the pretrained encoder",
    "post_ln": "new parameters, Post-LN",
    "pre_ln": "new parameters, Pre-LN",
}


_WHERE = {"adam": "in test accuracy, Adam", f"adam{HEAD}": "With a faster head, it"}


class Results:
    """The runs of a record: those that chose a rate, and those that are compared."""

    def __init__(self, record: compare.Record):
        self._runs = record.runs
        self.starts = list(dict.fromkeys(run.extra["start"] for run in record.runs))

    def names(self, start: str) -> list[str]:
        """The optimizers that were run from a start."""
        return list(dict.fromkeys(run.optimizer for run in self._runs if run.extra["start"] == start))

    def compared(self, start: str) -> dict[str, list[str]]:
        """Adam, and Adam with a faster head if it was run, and the optimizers that each is compared with."""
        others = {"adam": [], f"adam{HEAD}": []}
        for name in self.names(start):
            if name not in others:
                others[baseline(name)].append(name)
        return {adam: names for adam, names in others.items() if names}

    def of(self, start: str, name: str, *, choosing: bool) -> list[compare.Run]:
        """The runs of an optimizer, in the order of their seeds."""
        return [
            run
            for run in self._runs
            if (run.extra["start"], run.optimizer, run.seed < CHOOSING) == (start, name, choosing)
        ]

    def lead(self, start: str, name: str, *, of: str | None = None) -> compare.Difference:
        """The lead of Adam, or another, over an optimizer in test accuracy, paired by seed.

        Args:
            start: where training began.
            name: the optimizer.
            of: the other one; None for the one that it is compared with.

        Returns:
            The lead, with an interval such that all of a start hold with 95 %.
        """
        first, second = (accuracies(self.of(start, n, choosing=False)) for n in (of or baseline(name), name))
        intervals = sum(map(len, self.compared(start).values()))
        return compare.paired_difference(first, second, confidence=1 - 0.05 / max(intervals, 1))

    def gini(self, start: str) -> float:
        """The mean Gini coefficient of the norms of the first gradient."""
        found = {run.seed: run.heterogeneity["gini_norm"] for run in self._runs if run.extra["start"] == start}
        return float(np.mean(list(found.values())))


def baseline(name: str) -> str:
    """The optimizer that another is compared with: Adam, with a faster head where the other has one."""
    return f"adam{HEAD}" if name.endswith(HEAD) else "adam"


def accuracies(runs: Sequence[compare.Run]) -> list[float]:
    """Test accuracy by run; 0 if it diverged."""
    return [0.0 if run.test["accuracy"] is None else run.test["accuracy"] for run in runs]


def in_words(results: Results) -> str:
    """The result in words, start by start."""
    lines = []
    for start in results.starts:
        sentences = []
        for adam, names in results.compared(start).items():
            said = []
            for name in names:
                lead = results.lead(start, name)
                by = f"({lead.mean:+.3f}; {lead.low:+.3f} to {lead.high:+.3f})"
                said.append((direction(lead), f"{name} {by}"))
            parts = in_groups(said, {1: "is ahead of", -1: "is behind", 0: "is **not told apart** from"})
            sentences.append(f"{_WHERE[adam]} {'; it '.join(parts)}.")
        lines.append(
            f"- **{_STARTS[start]}** (Gini coefficient of the first gradient's norms: "
            f"{results.gini(start):.2f}): {' '.join(sentences)}"
        )
    return "\n".join(lines)


def table(results: Results) -> str:
    """One row per start and optimizer, as Markdown."""
    header = ["start", "optimizer", "best rate", "rates tried", "decades within 0.02", "test accuracy ↑"]
    header += ["last training loss ↓", "lead of Adam"]
    rows = []
    for start in results.starts:
        for name in results.names(start):
            grid = levels(results.of(start, name, choosing=True))
            runs = results.of(start, name, choosing=False)
            best = compare.best_rate(grid)
            edge = ", **an edge**" if compare.at_edge(best, list(grid)) else ""
            accuracy, loss = (compare.estimate(found) for found in (accuracies(runs), last_losses(runs)))
            rows.append(
                [
                    start,
                    compare.escaped(name),
                    f"{best:g}{edge}",
                    f"{len(grid)}",
                    f"{decades(grid, within=0.02):.1f}",
                    f"{accuracy.mean:.3f} ± {accuracy.standard_error:.3f}",
                    f"{loss.mean:.3f} ± {loss.standard_error:.3f}",
                    "" if name == baseline(name) else markdown.difference(results.lead(start, name)),
                ]
            )
    return compare.table(header, rows)


def last_losses(runs: Sequence[compare.Run]) -> list[float]:
    """The mean training loss over the last tenth of the updates, by run."""
    losses = [column(run, "loss") for run in runs]
    return [float(np.mean(loss[-max(len(loss) // 10, 1) :])) for loss in losses]


def summary(record: compare.Record) -> str:
    """The part of the page with the result."""
    results = Results(record)
    return f"{in_words(results)}\n\n{table(results)}"


def render(record: compare.Record) -> str:
    """The page, as Markdown."""
    seeds = len({run.seed for run in record.runs if run.seed >= CHOOSING})
    return markdown.study_page(
        record,
        summary(record),
        f"The rate of each optimizer was chosen from {CHOOSING} seeds by validation accuracy; the other "
        f"columns are of {seeds} further seeds, on test examples that decided nothing. ± is the standard error "
        "over seeds; the intervals of the leads of one start hold together with 95 % (paired t, Bonferroni). "
        f"All parameters have the same learning rate, but the new head where a name ends in {HEAD}: its own is "
        f"{HEAD_RATE:g} times that, and the lead is of adam{HEAD}. Decades within 0.02: the range of rates "
        "around the best one whose validation accuracy is at most 0.02 lower, a measure of how little tuning "
        "is needed.",
        f"![Validation accuracy against the learning rate, by start]({PICTURE})",
        numbers=", including those of rates that were not chosen",
    )


def draw(record: compare.Record, path: Path) -> None:
    """Plot the validation accuracy against the rate relative to the best one, by start."""
    results = Results(record)
    picture = Figure(figsize=(4.5 * len(results.starts), 4), layout="constrained")
    for i, start in enumerate(results.starts):
        axes = picture.add_subplot(1, len(results.starts), i + 1)
        for name in results.names(start):
            grid = levels(results.of(start, name, choosing=True))
            best, finite = compare.best_rate(grid), {rate: y for rate, y in grid.items() if math.isfinite(y)}
            axes.plot([rate / best for rate in finite], list(finite.values()), "o-", label=name, markersize=3)
        axes.set(xscale="log", xlabel="learning rate / best learning rate", title=_STARTS[start])
        axes.set_ylabel("validation accuracy" if i == 0 else "")
        axes.legend(frameon=False, fontsize=7)
    pictures.save(picture, path, dpi=130)
