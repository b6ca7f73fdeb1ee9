"""Pictures of a method's path on two landscapes, from the record of ``examples.benchmarks.paths``."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from examples.benchmarks.paths import LANDSCAPES
from optimiz import compare

RECORD = "examples/benchmarks/results/paths/record.json"
_NEIGHBOURS = {"sgd": "tab:gray", "adamw": "tab:orange"}
_GRID = 200


def rows(root: Path) -> Mapping[tuple[str, str], Mapping[str, Any]]:
    """The recorded paths, by method and landscape."""
    record = json.loads((root / RECORD).read_text(encoding="utf-8"))
    return {(row["method"], row["landscape"]): row for row in record["rows"]}


def draw(method: str, found: Mapping[tuple[str, str], Mapping[str, Any]], path: Path) -> None:
    """Draw the path of a method, next to those of SGD and AdamW.

    Args:
        method: name of the method.
        found: the recorded paths.
        path: path of the picture.
    """
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    for axes, (name, landscape) in zip(figure.subplots(1, len(LANDSCAPES)), LANDSCAPES.items(), strict=True):
        (left, bottom), (right, top) = landscape.corners
        x, y = np.meshgrid(np.linspace(left, right, _GRID), np.linspace(bottom, top, _GRID))
        levels = np.geomspace(0.02, 200.0, 14)
        losses = np.asarray(landscape.loss(np.stack([x, y])))
        axes.contour(x, y, losses, levels, colors="silver", linewidths=0.6)
        for other, color in {**_NEIGHBOURS, method: "tab:blue"}.items():
            row = found[other, name]
            rate = "" if row["learning_rate"] is None else f", rate {row['learning_rate']:g}"
            line = {"linewidth": 1.6, "zorder": 3} if other == method else {"linewidth": 1.0, "alpha": 0.8}
            axes.plot(
                *np.transpose(row["path"]), ".-", markersize=3, color=color, label=f"{other}{rate}", **line
            )
        axes.plot(*landscape.minimum, "k+", markersize=9)
        axes.set(xlim=(left, right), ylim=(bottom, top), title=name, xticks=[], yticks=[])
        axes.legend(fontsize=8, loc="upper right")
    compare.save(figure, path, dpi=160)
