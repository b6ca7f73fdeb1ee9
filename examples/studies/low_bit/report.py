"""The page that is rendered from the rows of the low-bit study.

What is compared are runs of one optimizer, rate and seed: by how many percent a loss is above that in float32.
A form is within its target where the mean over seeds is; the interval says whether another set of seeds could
have told otherwise.
"""

import collections
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from examples.shared import markdown, pictures
from examples.shared.rows import Row, Rows
from examples.studies.low_bit.arms import FORMS, Arm
from optimiz import compare

FIELDS = {
    "optimizer": str,
    "learning_rate": float,
    "form": str,
    "seed": int,
    "loss": Sequence[float],
    "held_out": Mapping[str, float],
    "bytes_per_parameter": float,
    "moved": float,
}
Runs = Mapping[Arm, Mapping[int, Row]]


def by_arm(rows: Sequence[Row]) -> Runs:
    """The runs by arm and seed."""
    runs = collections.defaultdict(dict)
    for row in rows:
        runs[Arm(*(row[name] for name in Arm._fields))][row["seed"]] = row
    return dict(runs)


def held_out(row: Row) -> float:
    """The loss on what was held out, of the parameters at the end."""
    return row["held_out"]["loss"]


def last_tenth(row: Row) -> float:
    """The mean training loss over the last tenth of the updates."""
    losses = row["loss"]
    return float(np.mean(losses[-max(len(losses) // 10, 1) :]))


def percents(runs: Runs, arm: Arm, figure: Callable[[Row], float] = held_out) -> list[float]:
    """By how many percent a figure is above that in float32, seed by seed."""
    mine, base = runs[arm], runs[arm.base]
    seeds = sorted(mine.keys() & base.keys())
    return [100 * (figure(mine[seed]) / figure(base[seed]) - 1) for seed in seeds]


def beside(runs: Runs, arm: Arm, figure: Callable[[Row], float] = held_out) -> compare.Difference:
    """The mean of these, with its 95 % interval."""
    found = percents(runs, arm, figure)
    return compare.paired_difference(found, [0.0] * len(found))


def in_words(runs: Runs) -> str:
    """How each arm compares with itself in float32, and with its target."""
    lines = []
    for arm in runs:
        if arm == arm.base:
            continue
        found, trained = beside(runs, arm), beside(runs, arm, last_tenth)
        verdict = _verdict(found, FORMS[arm.form].target)
        lines.append(
            f"- **{_name(arm)}**: held-out loss {found.mean:+.2f} % beside float32 "
            f"(95 % interval {found.low:+.2f} to {found.high:+.2f}), {verdict}; "
            f"last training loss {trained.mean:+.2f} %."
        )
    return "\n".join(lines)


def _verdict(found: compare.Difference, target: float | None) -> str:
    if not math.isfinite(found.mean):
        return "**diverged**"
    if target is None:
        if not found.significant:
            return "no significant difference"
        return "significantly worse" if found.mean > 0 else "significantly better"
    verdict = f"{'**within**' if found.mean <= target else '**beyond**'} {target} %"
    sure = found.high <= target or found.low > target
    return verdict if sure else f"{verdict}, which the interval leaves open"


def _name(arm: Arm) -> str:
    return f"{arm.optimizer} {arm.learning_rate:g} {arm.form}"


def table(runs: Runs) -> str:
    """One line an arm, as Markdown: means over seeds, and paired differences from float32."""
    header = [
        "arm",
        "runs",
        "held-out loss ↓",
        "beside float32, %",
        "last training loss ↓",
        "beside float32, %",
    ]
    header += ["entries that moved, %", "bytes a parameter"]
    lines = []
    for arm, by_seed in runs.items():
        cells = [_name(arm), f"{len(by_seed)}"]
        for figure in (held_out, last_tenth):
            mean, error, _ = compare.estimate([figure(row) for row in by_seed.values()])
            found = beside(runs, arm, figure)
            cells.append(f"{mean:.4f} ± {error:.4f}")
            cells.append("" if arm == arm.base else f"{found.mean:+.2f} ± {found.high - found.mean:.2f}")
        cells.append(f"{100 * np.mean([row['moved'] for row in by_seed.values()]):.1f}")
        cells.append(f"{next(iter(by_seed.values()))['bytes_per_parameter']:.2f}")
        lines.append(cells)
    return compare.table(header, lines)


def across(studies: Mapping[str, Rows]) -> str:
    """How each form fares in several studies, and how often it keeps to its target; one line a form.

    Args:
        studies: name → its rows. Rates differ between studies; a rate is low where the optimizer has a higher.
    """
    cells: dict[str, dict[str, str]] = collections.defaultdict(dict)
    targets: dict[str, float | None] = {}
    within, held, seeds = 0, 0, []
    for study, rows in studies.items():
        runs = runs_of(rows)
        seeds += [len(by_seed) for by_seed in runs.values()]
        for arm in (arm for arm in runs if arm != arm.base):
            low = any(x.optimizer == arm.optimizer and x.learning_rate > arm.learning_rate for x in runs)
            name = f"{arm.optimizer}, {arm.form}" + (", low rate" if low else "")
            found, targets[name] = beside(runs, arm), FORMS[arm.form].target
            cells[name][study] = f"{found.mean:+.2f} ± {found.high - found.mean:.2f}"
            if (target := targets[name]) is not None:
                held += 1
                within += found.mean <= target
    lines = []
    for name, by_study in cells.items():
        target = "" if targets[name] is None else f"{targets[name]}"
        lines.append([name, *(by_study.get(study, "") for study in studies), target])
    table = compare.table(["held-out loss ↓ beside float32, %", *studies, "target"], lines)
    said = (
        f"Of {held} forms with a target, {within} are within it in the mean over {min(seeds)} paired seeds; "
        "± is half a 95 % interval."
    )
    return f"{table}\n\n{said}"


def write(rows: Rows, directory: Path, asked: str) -> str:
    """Write ``report.md`` and ``curves.png``, and return the part of the page that is the result.

    Args:
        rows: of one study.
        directory: where to write.
        asked: the command, as typed.
    """
    draw = functools.partial(_draw, runs_of(rows))
    pictures.write_page(render(rows, asked), directory / "report.md", "curves.png", draw)
    return summary(rows)


def runs_of(rows: Rows) -> Runs:
    """The runs of a study by arm and seed, with names that may stand in Markdown."""
    return by_arm(markdown.with_names(rows.rows, "optimizer", "form"))


def summary(rows: Rows) -> str:
    """The part of the page that is the result."""
    runs = runs_of(rows)
    return f"{in_words(runs)}\n\n{table(runs)}"


def render(rows: Rows, asked: str) -> str:
    """The page, as Markdown."""
    page = [
        "# Eight-bit state and bfloat16 parameters beside float32",
        summary(rows),
        "± in a column of losses is a standard error over seeds; beside float32 it is half the 95 % interval "
        "of the paired differences, each of two runs with the same rate, start, batches and dropout. The last "
        "training loss is the mean over the last tenth of the updates. Entries that moved are those of the "
        "parameters that differ from their start at the end; bytes are of parameters and state.",
        "![Training loss, and each run beside its float32 pair](curves.png)",
        markdown.what_was_run(asked, rows.head["settings"] | rows.head["environment"]),
        "Every number is in `rows.jsonl`, with the loss of each update.",
    ]
    return "\n\n".join(page) + "\n"


def _draw(runs: Runs, path: Path) -> None:
    """The losses of each optimizer and rate, and below them every run beside its pair."""
    bases, others = [a for a in runs if a == a.base], [a for a in runs if a != a.base]
    colors = {form: f"C{i}" for i, form in enumerate(FORMS)}
    picture = Figure(figsize=(12, 4 + 0.3 * len(others)), layout="constrained")
    grid = picture.add_gridspec(2, len(bases))
    for column, base in enumerate(bases):
        axes = picture.add_subplot(grid[0, column])
        for arm in (arm for arm in runs if arm.base == base):
            losses = np.mean([row["loss"] for row in runs[arm].values()], axis=0)
            style = {"color": colors[arm.form], "label": arm.form, "linewidth": 1.2}
            axes.plot(compare.running_mean(losses.tolist()), "-" if arm == base else "--", **style)
        axes.set(xlabel="updates", title=f"{base.optimizer} {base.learning_rate:g}")
        axes.set_ylabel("training loss, mean over seeds" if column == 0 else "")
        axes.legend(frameon=False, fontsize=7)
    pairs = picture.add_subplot(grid[1, :])
    for i, arm in enumerate(others):
        found = percents(runs, arm)
        pairs.plot(found, [i] * len(found), "o", color=colors[arm.form], alpha=0.4)
        pairs.plot(np.mean(found), i, "|", color=colors[arm.form], markersize=16)
        if (target := FORMS[arm.form].target) is not None:
            pairs.plot(target, i, "k<", markersize=4)
    pairs.axvline(0, color="0.6", linewidth=0.8)
    pairs.set_xscale("symlog", linthresh=1)
    pairs.set(yticks=range(len(others)), yticklabels=map(_name, others))
    pairs.set_xlabel("held-out loss beside float32, %: each run ●, their mean |, the target ◂")
    pairs.invert_yaxis()
    pictures.save(picture, path, dpi=130)
