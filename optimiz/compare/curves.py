"""Plots of a record: learning curves, and the final metric against the learning rate."""

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from optimiz.compare.directions import arrow
from optimiz.compare.methods import by_method
from optimiz.compare.pictures import drawn, save
from optimiz.compare.record import Record
from optimiz.compare.run import Run
from optimiz.compare.statistics import paired_difference

# Okabe and Ito's palette, which can be told apart with any colour vision.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_LARGEST = 1e300  # magnitude of a plotted value


def learning_curves(record: Record, path: str | os.PathLike[str], *, metric: str) -> None:
    """Plot the training loss, validation loss and a validation metric of each method at its best rate.

    The horizontal axis is reference time under a budget, and the number of updates otherwise. With several
    seeds, each seed is a thin line and their mean a thick one. The validation loss is left out if it is the
    metric itself, or if it is not evaluated.

    Args:
        record: record with at least one run.
        path: file to write; the suffix gives the format (``.png``, ``.svg``).
        metric: name of the validation metric in the last panel, such as ``"accuracy"``.
    """
    picture = Figure(figsize=(13, 4.2), layout="constrained")
    training, *validations, score = picture.subplots(1, 3 if shows_loss(record, metric) else 2)
    for i, method in enumerate(by_method(record, metric)):
        style = {"color": _COLOURS[i % len(_COLOURS)], "label": drawn(method.name)}
        losses = [(run, *run.training_loss()) for run in method.runs]
        smooth = [(run, updates, running_mean(loss)) for run, updates, loss in losses]
        _draw(training, losses if len(losses) == 1 else smooth, smooth, style)
        for axes, name in ((score, metric), *((axes, "loss") for axes in validations)):
            curves = [(run, *run.validation(name)) for run in method.runs]
            _draw(axes, curves, curves, style | {"marker": "o", "markersize": 3})
    for name, level in record.levels(metric, "validation").items():
        score.axhline(level, color="0.45", linestyle="--", linewidth=1)
        score.annotate(
            drawn(f"{name}: {level:.3f}"),
            (0.98, level),
            xycoords=("axes fraction", "data"),
            xytext=(0, 3),
            textcoords="offset points",
            ha="right",
            fontsize=8,
            color="0.35",
        )
    unit = "updates" if record.runs[0].budget is None else "reference time, seconds"
    _label(training, "Training loss ↓ (line: mean of the last updates)", unit)
    for axes in validations:
        _label(axes, "Validation loss ↓", unit)
    _label(score, drawn(f"Validation {_directed(record, metric)}"), unit)
    training.legend(frameon=False)
    picture.suptitle(drawn(record.title))
    save(picture, path, dpi=150)


def shows_loss(record: Record, metric: str) -> bool:
    """Whether to plot the validation loss next to the metric."""
    evaluations = [row["evaluation"] for run in record.runs for row in run.history if "evaluation" in row]
    return metric != "loss" and bool(evaluations) and all("loss" in found for found in evaluations)


def rate_curves(record: Record, path: str | os.PathLike[str], *, metric: str) -> None:
    """Plot the final validation metric against the learning rate: each run, and the mean over seeds.

    Only runs at a method's best values on other axes are shown. A method that finds its own rate is a
    horizontal line. Runs that diverged are crosses at the lower edge.

    Args:
        record: record with at least one run.
        path: file to write; the suffix gives the format.
        metric: name of the validation metric.
    """
    picture = Figure(figsize=(7, 4.2), layout="constrained")
    axes = picture.subplots()
    for i, method in enumerate(by_method(record, metric)):
        colour = _COLOURS[i % len(_COLOURS)]
        levels = {rate: _shown(record, metric, level) for rate, level in method.levels.items()}
        grid = [rate for rate in levels if rate is not None]
        if not grid:
            axes.axhline(
                levels[None], color=colour, linestyle="--", label=drawn(f"{method.name}, finds its own")
            )
            continue
        axes.plot(grid, [levels[rate] for rate in grid], color=colour, marker="_", label=drawn(method.name))
        for run in record.runs:
            if run.optimizer != method.name or run.axes != method.values:
                continue
            rate = np.array([run.learning_rate], float)
            value = _shown(record, metric, record.scores([run], metric, "validation")[0])
            if math.isnan(value):
                edge = axes.get_xaxis_transform()
                axes.plot(rate, [0.03], "x", color=colour, transform=edge, clip_on=False)
            else:
                axes.plot(rate, [value], "o", color=colour, alpha=0.5, markersize=4)
    axes.set_xscale("log")
    title = drawn(f"Final validation {_directed(record, metric)} (cross: diverged)")
    _label(axes, title, "peak learning rate")
    axes.legend(frameon=False)
    save(picture, path, dpi=150)


def score_by_cost(record: Record, path: str | os.PathLike[str], *, metric: str) -> None:
    """Plot the test metric of each method at its best rate against the cost of a run, with its interval.

    The cost is the time of the updates on the machine of the runs, or their work in forward passes if a time
    was not measured. The intervals are 95 % ones of the means over seeds (Student's t). Baselines are
    horizontal lines, and methods that diverged are crosses at the lower edge.

    Args:
        record: record with at least one run.
        path: file to write; the suffix gives the format.
        metric: name of the test metric.
    """
    picture = Figure(figsize=(7, 4.2), layout="constrained")
    axes, sign = picture.subplots(), record.sign(metric)
    compared = by_method(record, metric)
    timed = all(run.seconds is not None for method in compared for run in method.runs)
    for i, method in enumerate(compared):
        costs = [run.seconds if timed else run.forward_equivalents for run in method.runs]
        at, reach = _mean_and_reach([cost for cost in costs if cost is not None])
        style: dict[str, Any] = {"color": _COLOURS[i % len(_COLOURS)], "label": drawn(method.name)}
        if not math.isfinite(method.score.mean):
            axes.plot([at], [0.03], "x", transform=axes.get_xaxis_transform(), clip_on=False, **style)
            continue
        level, error = _mean_and_reach([sign * score for score in method.scores])
        axes.errorbar([at], [level], xerr=[reach], yerr=[error], fmt="o", capsize=3, **style)
    for name, level in record.levels(metric, "test").items():
        axes.axhline(level, color="0.45", linestyle="--", linewidth=1, label=drawn(name))
    unit = "seconds of a run's updates" if timed else "forward passes of a run"
    _label(axes, drawn(f"Test {_directed(record, metric)} (95 % intervals over seeds; cross: diverged)"), unit)
    axes.legend(frameon=False)
    save(picture, path, dpi=150)


def _mean_and_reach(values: Sequence[float]) -> tuple[float, float]:
    """The mean of values, and the reach of its interval to either side; NaN and 0 for what is not known."""
    if not values:
        return math.nan, 0.0
    found = paired_difference(values, [0.0] * len(values))
    mean, reach = _drawable([found.mean, found.high - found.mean]).tolist()
    return mean, 0.0 if math.isnan(reach) else reach


def running_mean(values: Sequence[float], share: float = 0.05) -> list[float]:
    """Mean of each value and the ones before it, over a window.

    Args:
        values: a series; values that are not finite are left out of the means.
        share: length of the window as a share of the series, in (0, 1].

    Returns:
        One mean per value; NaN if there is no finite value in its window.

    Example:
        >>> running_mean([1.0, 3.0, 5.0, 7.0], share=0.5)
        [1.0, 2.0, 4.0, 6.0]
    """
    window = max(1, round(share * len(values)))
    means = []
    for end in range(1, len(values) + 1):
        finite = [v for v in values[max(0, end - window) : end] if math.isfinite(v)]
        means.append(sum(finite) / len(finite) if finite else math.nan)
    return means


_Curve = tuple[Run, Sequence[int], Sequence[float]]


def _drawable(values: Sequence[float]) -> np.ndarray:
    """Values that Matplotlib can plot with a margin: NaN if not finite, and clipped if very large."""
    array = np.asarray(values, float)
    return np.where(np.isfinite(array), np.clip(array, -_LARGEST, _LARGEST), np.nan)


def _draw(axes: Axes, thin: Sequence[_Curve], curves: Sequence[_Curve], style: Mapping[str, Any]) -> None:
    """Plot each seed as a thin line, and the mean, over the updates that all seeds reached, as a thick one."""
    for run, updates, values in thin:
        axes.plot(run.spent(updates), _drawable(values), color=style["color"], alpha=0.18, linewidth=0.8)
    reached = min(len(values) for _, _, values in curves)
    at = np.mean([run.spent(updates)[:reached] for run, updates, _ in curves], axis=0)
    axes.plot(at, np.mean([_drawable(values[:reached]) for _, _, values in curves], axis=0), **style)


def _directed(record: Record, metric: str) -> str:
    return f"{metric} {arrow(metric, record.lower_is_better, record.higher_is_better)}"


def _shown(record: Record, metric: str, score: float) -> float:
    return record.sign(metric) * score if math.isfinite(score) else math.nan


def _label(axes: Axes, title: str, unit: str) -> None:
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_xlabel(unit)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
