"""Sections on the grids: how much the learning rate and other settings matter, and what was dropped early."""

import math
from collections.abc import Sequence

from optimiz.compare.markdown import decimal, escaped, table
from optimiz.compare.methods import NEAR, Method, have_grids
from optimiz.compare.record import Record
from optimiz.compare.run import Run
from optimiz.compare.sections.named import arm_of
from optimiz.compare.statistics import estimate


def rates(record: Record, compared: Sequence[Method], metric: str) -> list[str]:
    """How much the learning rate matters."""
    if not have_grids(compared):
        return []
    sign = record.sign(metric)
    rows = []
    for method in compared:
        depends = method.sensitivity()
        if depends is None:
            continue
        grid = ", ".join(f"{rate:g}" for rate in method.levels if rate is not None)
        width = "all diverged"
        if not math.isnan(depends.low):
            width = f"{depends.low:g} to {depends.high:g} (×{depends.factor:.3g})"
        rows.append(
            [
                escaped(method.name),
                grid,
                decimal(sign * depends.mean),
                decimal(depends.spread),
                width,
                f"{method.diverged} of {method.tried}",
            ]
        )
    header = [
        "method",
        "rates",
        f"mean validation {record.directed(metric)}",
        "spread",
        f"within {NEAR} of the best",
        "diverged",
    ]
    return [
        "## How much does the learning rate matter?",
        f"Final validation {escaped(metric)}, by which the rate of each method was chosen: its mean and "
        "standard deviation over the grid, and the range of rates around the best one that come within "
        f"{NEAR} of it. The smaller the spread and the wider the range, the less tuning a method needs.",
        f"![Validation {escaped(metric)} against learning rate](rates.png)",
        table(header, rows),
    ]


def axes(record: Record, compared: Sequence[Method], metric: str) -> list[str]:
    """How much the other axes of the grids matter."""
    sign, rows = record.sign(metric), []
    for method in compared:
        for axis, levels in method.lines.items():
            shown = [f"{value:g}: {decimal(sign * level)}" for value, level in levels.items()]
            edge = "at an edge" if axis in method.edges else ""
            best = f"{method.values[axis]:g}"
            rows.append([escaped(method.name), escaped(axis), best, edge, ", ".join(shown)])
    if not rows:
        return []
    return [
        "## How much do the other settings matter?",
        f"Mean final validation {record.directed(metric)} along each axis of the grids, at the best learning "
        "rate and the best values on the other axes. Points that were not run there are not shown.",
        table(["method", "axis", "best", "", f"value: mean validation {record.directed(metric)}"], rows),
    ]


def dropped(record: Record, compared: Sequence[Method], metric: str) -> list[str]:
    """What successive halving has dropped."""
    if not record.rungs:
        return []
    sign = record.sign(metric)
    shares = sorted({run.budget_share for run in record.rungs if run.budget_share is not None})
    found: dict[str, dict[float | None, list[Run]]] = {}
    for run in (*record.rungs, *record.runs):
        found.setdefault(arm_of(run), {}).setdefault(run.budget_share, []).append(run)
    rows = []
    for arm, by_share in found.items():
        if not any(share in by_share for share in shares):
            continue
        means = {
            share: decimal(sign * estimate(record.scores(runs, metric, "validation")).mean)
            for share, runs in by_share.items()
        }
        rows.append([arm, *(means.get(share, "dropped") for share in (*shares, None))])
    spent = sum(run.budget_share or 1.0 for run in (*record.rungs, *record.runs))
    whole = len({(run.optimizer, run.point, run.seed) for run in (*record.rungs, *record.runs)})
    header = ["", *(f"at {share:g} of the budget" for share in shares), "at the whole budget"]
    return [
        "## What was dropped early?",
        f"Mean validation {record.directed(metric)} of every point of the grids. Each column is of runs of "
        "their own, from the start, that decayed fully at its share of the budget, so that columns are not to "
        "be compared with each other. The best of each method in a column went on to the next, and every other "
        "number of this report is of runs at the whole budget. Short runs favour what learns fast at first: a "
        "point that was dropped may have been better at the whole budget. All runs together cost as much as "
        f"{spent:.3g} at the whole budget; without dropping, it would have been {whole}.",
        table(header, rows),
    ]
