"""The report of the low-bit study, rendered from its record.

Runs with the same optimizer, rate and seed are compared by how many percent the loss exceeds the loss in
float32. A form is within its target if the mean over seeds is; the interval shows whether other seeds could
give another answer.
"""

import collections
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from examples.shared import markdown, pictures
from examples.shared.study_record import column, mean_over_runs
from examples.studies.low_bit.arms import FORMS, Arm
from optimiz import compare

PICTURE = "curves.png"

Runs = Mapping[Arm, Mapping[int, compare.Run]]


def by_arm(record: compare.Record) -> Runs:
    """The runs by arm and seed; names are escaped for Markdown."""
    runs = collections.defaultdict(dict)
    for run in record.runs:
        name, form = (compare.escaped(run.extra[field]) for field in ("optimizer", "form"))
        runs[Arm(name, run.learning_rate, form)][run.seed] = run
    return dict(runs)


def held_out(run: compare.Run) -> float:
    """The final loss on held-out data; infinite if the run diverged."""
    loss = run.test["loss"]
    return math.inf if loss is None else loss


def last_tenth(run: compare.Run) -> float:
    """The mean training loss over the last tenth of the updates."""
    losses = column(run, "loss")
    return float(np.mean(losses[-max(len(losses) // 10, 1) :]))


def percents(runs: Runs, arm: Arm, metric: Callable[[compare.Run], float] = held_out) -> list[float]:
    """By how many percent a metric exceeds its value in float32, for each seed."""
    mine, base = runs[arm], runs[arm.base]
    seeds = sorted(mine.keys() & base.keys())
    return [100 * (metric(mine[seed]) / metric(base[seed]) - 1) for seed in seeds]


def relative(runs: Runs, arm: Arm, metric: Callable[[compare.Run], float] = held_out) -> compare.Difference:
    """The mean of :func:`percents`, with its 95 % interval."""
    found = percents(runs, arm, metric)
    return compare.paired_difference(found, [0.0] * len(found))


def in_words(runs: Runs) -> str:
    """The result in words: how each arm compares with the same arm in float32, and with its target."""
    lines = []
    for arm in runs:
        if arm == arm.base:
            continue
        found, trained = relative(runs, arm), relative(runs, arm, last_tenth)
        verdict = _verdict(found, FORMS[arm.form].target)
        lines.append(
            f"- **{_name(arm)}**: held-out loss {found.mean:+.2f} % relative to float32 "
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
    """A table with one row per arm, as Markdown: means over seeds, and paired differences from float32."""
    header = [
        "arm",
        "runs",
        "held-out loss ↓",
        "relative to float32, %",
        "last training loss ↓",
        "relative to float32, %",
    ]
    header += ["entries that moved, %", "bytes per parameter"]
    lines = []
    for arm, by_seed in runs.items():
        cells = [_name(arm), f"{len(by_seed)}"]
        for metric in (held_out, last_tenth):
            mean, error, _ = compare.estimate([metric(run) for run in by_seed.values()])
            found = relative(runs, arm, metric)
            cells.append(f"{mean:.4f} ± {error:.4f}")
            cells.append("" if arm == arm.base else f"{found.mean:+.2f} ± {found.high - found.mean:.2f}")
        cells.append(f"{100 * np.mean([run.extra['moved'] for run in by_seed.values()]):.1f}")
        cells.append(f"{next(iter(by_seed.values())).extra['bytes_per_parameter']:.2f}")
        lines.append(cells)
    return compare.table(header, lines)


def across(studies: Mapping[str, compare.Record]) -> str:
    """How each form does in several studies, and how often it is within its target; one line per form.

    Args:
        studies: name → record. The lowest of several rates of an optimizer in a study is called low.
    """
    cells: dict[str, dict[str, str]] = collections.defaultdict(dict)
    targets: dict[str, float | None] = {}
    within, held, seeds = 0, 0, []
    for study, record in studies.items():
        runs = by_arm(record)
        seeds += [len(by_seed) for by_seed in runs.values()]
        for arm in (arm for arm in runs if arm != arm.base):
            rates = {each.learning_rate for each in runs if each.optimizer == arm.optimizer}
            low = len(rates) > 1 and arm.learning_rate == min(rates)
            name = f"{arm.optimizer}, {arm.form}" + (", low rate" if low else "")
            found, targets[name] = relative(runs, arm), FORMS[arm.form].target
            cells[name][study] = f"{found.mean:+.2f} ± {found.high - found.mean:.2f}"
            if (target := targets[name]) is not None:
                held += 1
                within += found.mean <= target
    lines = []
    for name, by_study in cells.items():
        target = "" if targets[name] is None else f"{targets[name]}"
        lines.append([name, *(by_study.get(study, "") for study in studies), target])
    table = compare.table(["held-out loss ↓ relative to float32, %", *studies, "target"], lines)
    message = (
        f"Of {held} forms with a target, {within} are within it on average over {min(seeds)} paired seeds; "
        "± is half a 95 % interval."
    )
    return f"{table}\n\n{message}"


def summary(record: compare.Record) -> str:
    """The part of the page with the result."""
    runs = by_arm(record)
    return f"{in_words(runs)}\n\n{table(runs)}"


def render(record: compare.Record) -> str:
    """The page, as Markdown."""
    return markdown.study_page(
        record,
        summary(record),
        "For losses, ± is the standard error over seeds. For differences from float32, it is half the 95 % "
        "interval of the paired differences; paired runs have the same rate, initial parameters, batches and "
        "dropout. The last training loss is the mean over the last tenth of the updates. Entries that moved "
        "are parameter entries whose final values differ from their initial ones. Bytes per parameter include "
        "parameters and state.",
        f"![Training loss, and each run relative to its float32 pair]({PICTURE})",
        numbers=", including the loss of each update",
    )


def draw(record: compare.Record, path: Path) -> None:
    """Plot the losses of each optimizer and rate, and below them every run relative to its pair."""
    runs = by_arm(record)
    bases, others = [a for a in runs if a == a.base], [a for a in runs if a != a.base]
    colors = {form: f"C{i}" for i, form in enumerate(FORMS)}
    picture = Figure(figsize=(12, 4 + 0.3 * len(others)), layout="constrained")
    grid = picture.add_gridspec(2, len(bases))
    for i, base in enumerate(bases):
        axes = picture.add_subplot(grid[0, i])
        for arm in (arm for arm in runs if arm.base == base):
            losses = mean_over_runs(column(run, "loss") for run in runs[arm].values())
            style = {"color": colors[arm.form], "label": arm.form, "linewidth": 1.2}
            axes.plot(compare.running_mean(losses.tolist()), "-" if arm == base else "--", **style)
        axes.set(xlabel="updates", title=f"{base.optimizer} {base.learning_rate:g}")
        axes.set_ylabel("training loss, mean over seeds" if i == 0 else "")
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
    pairs.set_xlabel("held-out loss relative to float32, %: each run ●, their mean |, the target ◂")
    pairs.invert_yaxis()
    pictures.save(picture, path, dpi=130)
