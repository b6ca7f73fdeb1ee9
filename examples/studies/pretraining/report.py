"""The page that is rendered from the rows of the judgement of ways to pre-train.

A way is compared by what its models lose and get right on text that no choice has seen, seed by seed with the
baseline: same initial parameters (but for those of a shallower start) and same rows. A difference is called
significant where Student's 95 % interval of the pairs leaves out zero.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from examples.shared import markdown, pictures
from examples.shared.rows import Row, Rows
from examples.studies.pretraining.recipes import BASELINE, HALF_WAY
from optimiz import compare

UNTRAINED = "untrained"
_OF_ALL = {"arm": str, "learning_rate": float | None, "seed": int, "test": Mapping[str, float | None] | None}
_OF_RUNS = {
    "steps": int,
    "diverged_at": int | None,
    "reference_seconds": float,
    "validation": Sequence[Sequence[float]],
}
FIGURES = {"loss": -1, "accuracy": 1}  # and whether more is better
_CONFIDENCE = 0.95


def final_loss(row: Row) -> float:
    """The validation loss in the end; infinite where the run diverged, or has none that is a number."""
    losses = [loss for _, loss in row["validation"]] if row["diverged_at"] is None else []
    return losses[-1] if losses and math.isfinite(losses[-1]) else math.inf


def row_of(run: compare.Run) -> dict[str, Any]:
    """What the report is made of."""
    updates, values = run.validation("loss")
    shares = [spent / run.budget for spent in run.spent(updates)]
    kept = "learning_rate seed steps diverged_at seconds compile_seconds reference_seconds"
    return {
        "arm": run.optimizer,
        **{name: getattr(run, name) for name in kept.split()},
        "test": dict(run.test),
        "validation": [[round(share, 4), loss] for share, loss in zip(shares, values, strict=True)],
    }


def fields(row: Row) -> dict[str, Any]:
    """The fields of a row, with their types."""
    return _OF_ALL if row.get("arm") == UNTRAINED else _OF_ALL | _OF_RUNS


class Judged:
    """The runs of a judgement.

    Args:
        rows: of one judgement, in the order in which they ran.

    Attributes:
        rows: all of them.
        grids: way → rate → final validation loss of seed 0, ascending in the rate.
        runs: way → its runs at the best rate, by seed; of the baseline first, and of what is no way to train
            last.
        ways: names of those that are compared with the baseline.
    """

    def __init__(self, rows: Sequence[Row]):
        self.rows = rows
        self.grids: dict[str, dict[float, float]] = {}
        self.runs: dict[str, list[Row]] = {}
        for name in dict.fromkeys(row["arm"] for row in rows):
            own = [row for row in rows if row["arm"] == name]
            rate = own[0]["learning_rate"]
            if name != UNTRAINED:
                grid = {row["learning_rate"]: final_loss(row) for row in own if row["seed"] == 0}
                self.grids[name] = dict(sorted(grid.items()))
                rate = min(grid, key=lambda rate: grid[rate])
            best = (row for row in own if row["learning_rate"] == rate)
            self.runs[name] = sorted(best, key=lambda row: row["seed"])
        self.ways = [name for name in self.runs if name not in (BASELINE, HALF_WAY, UNTRAINED)]

    def values(self, name: str, figure: str) -> list[float]:
        """A test figure by seed; infinitely bad where the run diverged."""
        found = [row["test"][figure] for row in self.runs[name]]
        return [-FIGURES[figure] * math.inf if value is None else value for value in found]

    def beside(self, name: str, other: str, figure: str) -> compare.Difference:
        """The paired difference of a figure."""
        return compare.paired_difference(
            self.values(name, figure), self.values(other, figure), confidence=_CONFIDENCE
        )

    def better(self, other: str, figure: str, *, significantly: bool) -> list[str]:
        """The ways whose figure is better in the mean, or significantly better, than that of another arm."""
        found = {name: self.beside(name, other, figure) for name in self.ways}
        return [
            name
            for name, difference in found.items()
            if FIGURES[figure] * difference.mean > 0 and (difference.significant or not significantly)
        ]


def in_words(judged: Judged) -> str:
    """What holds, what does not, and what the wrong baseline pretends."""
    seeds, ways = len(judged.runs[BASELINE]), judged.ways
    lines = [
        f"Over {seeds} seeds, the fully decayed **{BASELINE}** ends at a test loss of "
        f"{_mean(judged, BASELINE, 'loss')}{_edges(judged)}; fine-tuned, its encoder has an accuracy of "
        f"{_mean(judged, BASELINE, 'accuracy')}, {_difference(judged, BASELINE, UNTRAINED, 'accuracy')}. "
        f"{_winners(judged, BASELINE, 'loss')} {_winners(judged, BASELINE, 'accuracy')} "
        f"Of {2 * len(ways)} such comparisons at 95 %, {2 * len(ways) * (1 - _CONFIDENCE):.1f} are expected to "
        "be significant by chance alone."
    ]
    for name in ways:
        parts = [f"- **{name}**, {judged.runs[name][0]['learning_rate']:g}:"]
        for figure, label in (("loss", "test loss"), ("accuracy", "accuracy")):
            parts.append(
                f"{label} {_mean(judged, name, figure)}, {_difference(judged, name, BASELINE, figure)};"
            )
        lines.append(" ".join(parts)[:-1] + ".")
    lines.append(
        f"- **What the wrong arm pretends.** {HALF_WAY} is {BASELINE} on a schedule twice as long, read off "
        f"when the budget is spent: test loss {_mean(judged, HALF_WAY, 'loss')}, "
        f"{_difference(judged, HALF_WAY, BASELINE, 'loss')}. {_winners(judged, HALF_WAY, 'loss')} "
        f"{_pretended(judged)}"
    )
    return f"{lines[0]}\n\n" + "\n".join(lines[1:])


def _edges(judged: Judged) -> str:
    """Whose best rate is at an edge; said first, as there grids may be compared, and not ways."""
    rates = {name: judged.runs[name][0]["learning_rate"] for name in judged.grids}
    edges = [
        name
        for name, grid in judged.grids.items()
        if compare.at_edge(rates[name], grid) and math.isfinite(grid[rates[name]])
    ]
    if not edges:
        return ""
    are = "is at the edge of its grid" if len(edges) == 1 else "are at the edges of their grids"
    return f" (**the best rate{'s' * (len(edges) > 1)} of {_joined(edges)} {are}**: one beyond may be better)"


def _pretended(judged: Judged) -> str:
    """Which gains the wrong baseline makes that the right one does not have."""
    real = judged.better(BASELINE, "loss", significantly=False)
    false = [name for name in judged.better(HALF_WAY, "loss", significantly=False) if name not in real]
    if false:
        those = "it" if len(false) == 1 else "them"
        return f"Of these, {_joined(false)} would be a false gain: the decayed baseline is not above {those}."
    said = "None of these is a false gain: the decayed baseline is above them too."
    worse = judged.beside(HALF_WAY, BASELINE, "loss")
    if not (worse.significant and worse.mean > 0):
        said += " Here the wrong arm is not significantly worse than the decayed one, and so pretends little."
    return said


def _winners(judged: Judged, other: str, figure: str) -> str:
    """How many ways are better than an arm, and which of them significantly."""
    better, sure = (judged.better(other, figure, significantly=flag) for flag in (False, True))
    less = {"loss": "a lower loss", "accuracy": "a higher accuracy"}[figure]
    which = f"significantly {_joined(sure)}" if sure else "**none significantly**"
    have = "has" if len(better) == 1 else "have"
    return f"{len(better)} of {len(judged.ways)} ways {have} {less} than {other}, {which}."


def _difference(judged: Judged, name: str, other: str, figure: str) -> str:
    found = judged.beside(name, other, figure)
    if not math.isfinite(found.mean):
        return "**diverged**"
    verdict = "no significant difference"
    if found.significant:
        verdict = f"significantly {'better' if FIGURES[figure] * found.mean > 0 else 'worse'}"
    return f"{found.mean:+.3f} beside {other} ({found.low:+.3f} to {found.high:+.3f}), {verdict}"


def _mean(judged: Judged, name: str, figure: str) -> str:
    mean, error, _ = compare.estimate(judged.values(name, figure))
    return f"{mean:.3f} ± {error:.3f}" if math.isfinite(error) else f"{mean:.3f}"


def _joined(names: Sequence[str]) -> str:
    return " and ".join(names) if len(names) < 3 else f"{', '.join(names[:-1])} and {names[-1]}"


def table(judged: Judged) -> str:
    """One line an arm, as Markdown."""
    header = ["arm", "validation loss ↓ of seed 0 by rate", "updates", "reference ms / update"]
    header += ["test loss ↓", f"beside {BASELINE}", "accuracy ↑", f"beside {BASELINE}"]
    lines = []
    for name, runs in judged.runs.items():
        cells = [name, "", "", ""]
        if name != UNTRAINED:
            best = runs[0]["learning_rate"]
            tried = (f"{rate:g}: {_shown(loss)}" for rate, loss in judged.grids[name].items())
            cells[1] = ", ".join(f"**{cell}**" if cell.startswith(f"{best:g}: ") else cell for cell in tried)
            cells[2] = f"{np.mean([row['steps'] for row in runs]):.0f}"
            cells[3] = f"{1000 * np.mean([row['reference_seconds'] / row['steps'] for row in runs]):.2f}"
        for figure in FIGURES:
            found = judged.beside(name, BASELINE, figure)
            half = found.high - found.mean
            beside = _shown(found.mean, "+") + (f" ± {half:.3f}" if math.isfinite(half) else "")
            beside = "" if name == BASELINE else beside
            cells += [_mean(judged, name, figure), beside]
        lines.append(cells)
    return compare.table(header, lines, words=2)


def _shown(value: float, sign: str = "") -> str:
    return f"{value:{sign}.3f}" if math.isfinite(value) else "diverged"


def write(rows: Rows, directory: Path, asked: str) -> str:
    """Write ``report.md`` and ``curves.png``, and return the part of the page that is the result.

    Args:
        rows: of one judgement.
        directory: where to write.
        asked: the command, as typed.
    """
    draw = functools.partial(_draw, _judged(rows))
    pictures.write_page(render(rows, asked), directory / "report.md", "curves.png", draw)
    return summary(rows)


def _judged(rows: Rows) -> Judged:
    return Judged(markdown.with_names(rows.rows, "arm"))


def summary(rows: Rows) -> str:
    """The part of the page that is the result."""
    judged = _judged(rows)
    return f"{in_words(judged)}\n\n{table(judged)}"


def render(rows: Rows, asked: str) -> str:
    """The page, as Markdown."""
    judged = _judged(rows)
    minutes = sum(row.get("reference_seconds", 0) for row in judged.rows) / 60
    about = {"all runs": f"{minutes:.0f} minutes of reference time"}
    about |= _flat(rows.head["settings"] | rows.head["environment"])
    page = [
        "# Ways to pre-train, judged under one budget of reference time",
        summary(rows),
        "± after a figure is a standard error over seeds; beside the baseline it is half the 95 % interval of "
        "the paired differences. The rate in bold was chosen by the validation loss of seed 0 and then run "
        "from all seeds; test figures decided nothing. A budget is spent by prices, not by the clock of a "
        "machine: an update costs what its active layers do, and the forward passes of a selection and the "
        "estimates of a Hessian are charged. The irreducible losses of RHO-loss are not, as in the source.",
        "![Validation loss over the budget; differences from the decayed and the undecayed AdamW](curves.png)",
        markdown.what_was_run(asked, about),
        "Every number is in `rows.jsonl`, of the rates that were not chosen too.",
    ]
    return "\n\n".join(page) + "\n"


def _flat(entries: Mapping[str, object]) -> dict[str, object]:
    flat: dict[str, object] = {}
    for name, value in entries.items():
        if isinstance(value, Mapping):
            flat[name] = ", ".join(f"{inner} {x}" for inner, x in value.items())
        else:
            flat[name] = value
    return flat


def _draw(judged: Judged, path: Path) -> None:
    """Validation over the budget; and each way's differences from the decayed and the undecayed baseline."""
    picture = Figure(figsize=(13, 4.2), layout="constrained")
    curves, *differences = picture.subplots(1, 1 + len(FIGURES))
    for i, name in enumerate(judged.grids):
        rows = [row["validation"] for row in judged.runs[name] if row["diverged_at"] is None]
        if rows:
            shares, losses = np.mean(rows, axis=0).T
            curves.plot(
                shares, losses, "--" if name == HALF_WAY else "-", color=f"C{i}", label=name, marker="."
            )
    curves.set(xlabel="share of the budget", title="Validation loss ↓, mean over seeds")
    if curves.lines:  # else all have diverged
        curves.legend(frameon=False, fontsize=7)
    for axes, figure in zip(differences, FIGURES, strict=True):
        for shift, other, style in ((-0.12, BASELINE, "o"), (0.12, HALF_WAY, "x")):
            found = [judged.beside(name, other, figure) for name in judged.ways]
            at = [y + shift for y, one in enumerate(found) if math.isfinite(one.mean)]
            found = [one for one in found if math.isfinite(one.mean)]
            half = [one.high - one.mean if math.isfinite(one.high) else 0.0 for one in found]
            color, label = ("C0", "decayed") if other == BASELINE else ("0.6", "half-way (wrong)")
            mean = [one.mean for one in found]
            axes.errorbar(mean, at, xerr=half, fmt=style, color=color, capsize=2, label=f"beside {label}")
        axes.axvline(0, color="0.4", linewidth=0.8)
        axes.set(
            yticks=range(len(judged.ways)),
            yticklabels=judged.ways,
            title=f"Test {figure} {compare.arrow(figure)}, difference",
        )
        axes.invert_yaxis()
    told = differences[0].get_legend_handles_labels()
    picture.legend(*told, frameon=False, fontsize=7, ncols=2, loc="outside lower right")
    pictures.save(picture, path, dpi=110)
