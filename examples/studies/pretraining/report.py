"""The report of the study of recipes for pre-training, rendered from its record.

Recipes are compared by the loss and the accuracy of their models on text that no choice has seen, paired with
the baseline by seed: the same initial parameters (unless a recipe starts with fewer layers) and the same
training rows. A difference is called significant if Student's 95 % interval of the paired differences excludes
zero.
"""

import dataclasses
import math
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from examples.shared import markdown, pictures
from examples.shared.study_record import column, with_safe_names
from examples.studies.pretraining.recipes import BASELINE, HALF_WAY
from optimiz import compare

PICTURE = "curves.png"

UNTRAINED = "untrained"
METRICS = {"loss": -1, "accuracy": 1}  # 1 if more is better
_CONFIDENCE = 0.95


def kept(run: compare.Run, *, tested: bool) -> compare.Run:
    """A run as the record keeps it: the validation loss by share of the budget instead of its history.

    Args:
        run: run as ``compare.run_matrix`` returns it.
        tested: whether to keep its test metrics; they are dropped for a rate that was not chosen.
    """
    updates, values = run.validation("loss")
    shares = [round(spent / run.budget, 4) for spent in run.spent(updates)]
    losses = [loss if math.isfinite(loss) else None for loss in values]
    curve = [list(point) for point in zip(shares, losses, strict=True)]
    test = run.test if tested else {}
    return dataclasses.replace(run, history=[], test=test, extra={**run.extra, "validation": curve})


def final_loss(run: compare.Run) -> float:
    """The final validation loss; infinite if the run diverged."""
    losses = [loss for _, loss in run.extra["validation"]] if run.diverged_at is None else []
    return losses[-1] if losses and losses[-1] is not None else math.inf


class Results:
    """The runs of a study by recipe.

    Args:
        record: record of the study.

    Attributes:
        grids: recipe → rate → final validation loss of seed 0, ascending in the rate.
        runs: recipe → its runs at the best rate, by seed.
        untrained: test metrics of models that were not pre-trained, by seed.
        recipes: names of the recipes that are compared with the baseline.
    """

    def __init__(self, record: compare.Record):
        self.grids: dict[str, dict[float, float]] = {}
        self.runs: dict[str, list[compare.Run]] = {}
        self.untrained = record.extra[UNTRAINED]
        runs = with_safe_names(record.runs)
        for name in dict.fromkeys(run.optimizer for run in runs):
            own = [run for run in runs if run.optimizer == name]
            grid = {run.learning_rate: final_loss(run) for run in own if run.seed == 0}
            self.grids[name] = dict(sorted(grid.items()))
            rate = min(grid, key=lambda rate: grid[rate])
            best = (run for run in own if run.learning_rate == rate)
            self.runs[name] = sorted(best, key=lambda run: run.seed)
        self.recipes = [name for name in self.runs if name not in (BASELINE, HALF_WAY)]

    def rate(self, name: str) -> float:
        """The best rate of a recipe."""
        return self.runs[name][0].learning_rate

    def values(self, name: str, metric: str) -> list[float]:
        """A test metric by seed; infinitely bad if the run diverged."""
        if name == UNTRAINED:
            return [metrics[metric] for metrics in self.untrained]
        found = [run.test[metric] for run in self.runs[name]]
        return [-METRICS[metric] * math.inf if value is None else value for value in found]

    def difference(self, name: str, other: str, metric: str) -> compare.Difference:
        """The paired difference of a metric."""
        return compare.paired_difference(
            self.values(name, metric), self.values(other, metric), confidence=_CONFIDENCE
        )

    def better(self, other: str, metric: str, *, significantly: bool) -> list[str]:
        """The recipes that are better, or significantly better, than another in the mean of a metric."""
        found = {name: self.difference(name, other, metric) for name in self.recipes}
        return [
            name
            for name, difference in found.items()
            if METRICS[metric] * difference.mean > 0 and (difference.significant or not significantly)
        ]


def summary(record: compare.Record) -> str:
    """The part of the page with the result."""
    results = Results(record)
    return f"{in_words(results)}\n\n{table(results)}"


def render(record: compare.Record) -> str:
    """The page, as Markdown."""
    minutes = sum(run.reference_seconds for run in record.runs) / 60
    return markdown.study_page(
        record,
        summary(record),
        "± after a number is its standard error over seeds; for a difference from the baseline it is half "
        "the 95 % interval of the paired differences. The rate in bold has the lowest validation loss from "
        "seed 0 and was then run from all seeds; test metrics decided nothing. A budget is spent at fixed "
        "prices, not by the clock of a machine: an update costs as much as its active layers, and the forward "
        "passes of a selection and the estimates of a Hessian are charged. The irreducible losses of RHO-loss "
        "are not charged, as in the source.",
        f"![Validation loss over the budget; differences from the decayed and the undecayed AdamW]({PICTURE})",
        numbers=", including those of rates that were not chosen",
        about={"all runs": f"{minutes:.0f} minutes of reference time"},
    )


def in_words(results: Results) -> str:
    """The result in words: which recipes beat the baseline, and which seem to beat an unfair one."""
    seeds, recipes = len(results.runs[BASELINE]), results.recipes
    lines = [
        f"Over {seeds} seeds, the fully decayed **{BASELINE}** ends at a test loss of "
        f"{_mean(results, BASELINE, 'loss')}{_edges(results)}; fine-tuned, its encoder has an accuracy of "
        f"{_mean(results, BASELINE, 'accuracy')}, {_difference(results, BASELINE, UNTRAINED, 'accuracy')}. "
        f"{_winners(results, BASELINE, 'loss')} {_winners(results, BASELINE, 'accuracy')} Of "
        f"{2 * len(recipes)} such comparisons at 95 %, {2 * len(recipes) * (1 - _CONFIDENCE):.1f} are "
        "expected to be significant by chance alone."
    ]
    for name in recipes:
        parts = [
            f"{label} {_mean(results, name, metric)}, {_difference(results, name, BASELINE, metric)}"
            for metric, label in (("loss", "test loss"), ("accuracy", "accuracy"))
        ]
        lines.append(f"- **{name}**, {results.rate(name):g}: {'; '.join(parts)}.")
    lines.append(
        f"- **What an unfair baseline would suggest.** {HALF_WAY} is {BASELINE} on a schedule for twice the "
        f"budget, evaluated when the budget is spent: test loss {_mean(results, HALF_WAY, 'loss')}, "
        f"{_difference(results, HALF_WAY, BASELINE, 'loss')}. {_winners(results, HALF_WAY, 'loss')} "
        f"{_spurious(results)}"
    )
    return f"{lines[0]}\n\n" + "\n".join(lines[1:])


def _edges(results: Results) -> str:
    """Whose best rate is at an edge of its grid; such a result may say more about the grid than the recipe."""
    edges = [
        name
        for name, grid in results.grids.items()
        if compare.at_edge(results.rate(name), grid) and math.isfinite(grid[results.rate(name)])
    ]
    if not edges:
        return ""
    are = "is at the edge of its grid" if len(edges) == 1 else "are at the edges of their grids"
    rates = f"rate{'s' * (len(edges) > 1)} of {compare.joined(edges)}"
    return f" (**the best {rates} {are}**: rates beyond may be better)"


def _spurious(results: Results) -> str:
    """Which gains over the unfair baseline are no gains over the fair one."""
    real = results.better(BASELINE, "loss", significantly=False)
    spurious = [name for name in results.better(HALF_WAY, "loss", significantly=False) if name not in real]
    if spurious:
        its = "its loss is" if len(spurious) == 1 else "their losses are"
        kind = "a spurious gain" if len(spurious) == 1 else "spurious gains"
        return f"Of these, {compare.joined(spurious)} would be {kind}: {its} not below the decayed baseline's."
    message = "No gain is spurious: these also have a lower loss than the decayed baseline."
    unfair = results.difference(HALF_WAY, BASELINE, "loss")
    if not (unfair.significant and unfair.mean > 0):
        message += (
            " Here, the unfair baseline is not significantly worse than the fair one and hardly misleads."
        )
    return message


def _winners(results: Results, other: str, metric: str) -> str:
    """How many recipes are better than another, and which of them significantly so."""
    better, sure = (results.better(other, metric, significantly=flag) for flag in (False, True))
    less = {"loss": "a lower loss", "accuracy": "a higher accuracy"}[metric]
    which = f"significantly {compare.joined(sure)}" if sure else "**none significantly**"
    have = "has" if len(better) == 1 else "have"
    return f"{len(better)} of {len(results.recipes)} recipes {have} {less} than {other}, {which}."


def _difference(results: Results, name: str, other: str, metric: str) -> str:
    found = results.difference(name, other, metric)
    if not math.isfinite(found.mean):
        return "**diverged**"
    verdict = "no significant difference"
    if found.significant:
        verdict = f"significantly {'better' if METRICS[metric] * found.mean > 0 else 'worse'}"
    return f"{found.mean:+.3f} relative to {other} ({found.low:+.3f} to {found.high:+.3f}), {verdict}"


def _mean(results: Results, name: str, metric: str) -> str:
    mean, error, _ = compare.estimate(results.values(name, metric))
    return f"{mean:.3f} ± {error:.3f}" if math.isfinite(error) else f"{mean:.3f}"


def table(results: Results) -> str:
    """A table with one row per recipe, as Markdown."""
    header = ["recipe", "validation loss ↓ by rate, seed 0", "updates", "reference ms / update"]
    header += ["test loss ↓", f"relative to {BASELINE}", "accuracy ↑", f"relative to {BASELINE}"]
    lines = []
    for name in [*results.runs, UNTRAINED]:
        cells = [name, "", "", ""]
        if name != UNTRAINED:
            runs, best = results.runs[name], results.rate(name)
            tried = (f"{rate:g}: {_shown(loss)}" for rate, loss in results.grids[name].items())
            cells[1] = ", ".join(f"**{cell}**" if cell.startswith(f"{best:g}: ") else cell for cell in tried)
            cells[2] = f"{np.mean([run.steps for run in runs]):.0f}"
            cells[3] = f"{1000 * np.mean([run.reference_seconds / run.steps for run in runs]):.2f}"
        for metric in METRICS:
            found = results.difference(name, BASELINE, metric)
            half = found.high - found.mean
            relative = _shown(found.mean, "+") + (f" ± {half:.3f}" if math.isfinite(half) else "")
            cells += [_mean(results, name, metric), "" if name == BASELINE else relative]
        lines.append(cells)
    return compare.table(header, lines, words=2)


def _shown(value: float, sign: str = "") -> str:
    return f"{value:{sign}.3f}" if math.isfinite(value) else "diverged"


def draw(record: compare.Record, path: Path) -> None:
    """Plot validation over the budget, and differences from the decayed and the undecayed baseline."""
    results = Results(record)
    picture = Figure(figsize=(13, 4.2), layout="constrained")
    curves, *differences = picture.subplots(1, 1 + len(METRICS))
    for i, (name, runs) in enumerate(results.runs.items()):
        found = [column(run, "validation") for run in runs if run.diverged_at is None]
        if found:
            shares, losses = np.mean(found, axis=0).T
            style = "--" if name == HALF_WAY else "-"
            curves.plot(shares, losses, style, color=f"C{i}", label=name, marker=".")
    curves.set(xlabel="share of the budget", title="Validation loss ↓, mean over seeds")
    if curves.lines:  # otherwise, all diverged
        curves.legend(frameon=False, fontsize=7)
    for axes, metric in zip(differences, METRICS, strict=True):
        _draw_differences(axes, results, metric)
    handles = differences[0].get_legend_handles_labels()
    picture.legend(*handles, frameon=False, fontsize=7, ncols=2, loc="outside lower right")
    pictures.save(picture, path, dpi=110)


def _draw_differences(axes: Axes, results: Results, metric: str) -> None:
    for shift, other, style in ((-0.12, BASELINE, "o"), (0.12, HALF_WAY, "x")):
        found = [results.difference(name, other, metric) for name in results.recipes]
        at = [y + shift for y, one in enumerate(found) if math.isfinite(one.mean)]
        found = [one for one in found if math.isfinite(one.mean)]
        half = [one.high - one.mean if math.isfinite(one.high) else 0.0 for one in found]
        color, label = ("C0", "decayed") if other == BASELINE else ("0.6", "half-way (unfair)")
        mean = [one.mean for one in found]
        axes.errorbar(mean, at, xerr=half, fmt=style, color=color, capsize=2, label=f"relative to {label}")
    axes.axvline(0, color="0.4", linewidth=0.8)
    axes.set(
        yticks=range(len(results.recipes)),
        yticklabels=results.recipes,
        title=f"Test {metric} {compare.arrow(metric)}, difference",
    )
    axes.invert_yaxis()
