"""The learning curves of a record, as one picture."""

import math
import os
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from optimiz.compare.record import Record

# Okabe and Ito's palette, told apart by people with any colour vision.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def learning_curves(record: Record, path: str | os.PathLike[str], *, figure: str) -> None:
    """Draw training loss, validation loss and one validation figure against updates.

    Args:
        record: at least one run.
        path: where to write; the suffix says the format (``.png``, ``.svg``).
        figure: the validation figure of the third panel, such as ``"accuracy"``.
    """
    picture = Figure(figsize=(13, 4.2), layout="constrained")
    training, validation, score = picture.subplots(1, 3)
    for i, run in enumerate(record.runs):
        style = {"color": _COLOURS[i % len(_COLOURS)], "label": run.optimizer}
        updates, loss = run.training_loss()
        training.plot(updates, loss, color=style["color"], alpha=0.18, linewidth=0.8)
        training.plot(updates, running_mean(loss), **style)
        validation.plot(*run.validation("loss"), marker="o", markersize=3, **style)
        score.plot(*run.validation(figure), marker="o", markersize=3, **style)
    for name, figures in record.baselines.items():
        level = figures["validation"][figure]
        score.axhline(level, color="0.45", linestyle="--", linewidth=1)
        score.annotate(
            f"{name}: {level:.3f}",
            (0.98, level),
            xycoords=("axes fraction", "data"),
            xytext=(0, 3),
            textcoords="offset points",
            ha="right",
            fontsize=8,
            color="0.35",
        )
    _label(training, "Training loss (line: mean of the last updates)")
    _label(validation, "Validation loss")
    _label(score, f"Validation {figure}")
    training.legend(frameon=False)
    picture.suptitle(record.title)
    picture.savefig(path, dpi=150)


def running_mean(values: Sequence[float], share: float = 0.05) -> list[float]:
    """Mean of each value and those before it, over a window of a share of them all.

    Args:
        values: a series; what is not finite is left out of the means.
        share: of the series' length, in (0, 1].

    Returns:
        As many values; NaN where a window holds nothing finite.

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


def _label(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_xlabel("updates")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
