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
_BESIDE = {  # methods → beside which each of them is drawn: the first two that are not the method itself
    "sgd sgd_sai sqrt_size_sgd": "sgd adamw sgd_sai",
    "schedule_free_sgd": "sgd schedule_free_adamw",
    "schedule_free_adamw": "adamw schedule_free_sgd",
    "sign_sgd signum lion": "signum sign_sgd lion",
    "adagrad rmsprop": "adagrad rmsprop adam",
    "adam adamw": "adamw adam rmsprop",
    "nadam nadamw": "adamw nadamw nadam",
    "adamax adamaxw amsgrad": "adamw adamax amsgrad",
    "adam_atan2 stable_adamw": "adamw stable_adamw adam_atan2",
    "adam_mini adafactor": "adamw adam_mini adafactor",
    "adan ademamix mars": "adamw adan mars",
    "prodigy": "adamw salsa",
    "lamb": "lars adamw",
    "lars": "lamb sgd",
    "muon normuon muonh": "muon normuon muonh",
    "adamh": "adamw muonh",
    "soap kl_soap": "soap kl_soap adamw",
    "sophia_g sophia_h": "sophia_g sophia_h adamw",
    "armijo_sgd adam_sls momentum_sls pla_sls": "armijo_sgd adam_sls momentum_sls",
    "salsa salsa_class salsa_packaged": "salsa adam_sls armijo_sgd",
}
_COLORS = ("tab:blue", "tab:orange", "tab:green")  # of the method and its neighbours
_GRID = 200


def rows(root: Path) -> Mapping[tuple[str, str], Mapping[str, Any]]:
    """The recorded paths, by method and landscape."""
    record = json.loads((root / RECORD).read_text(encoding="utf-8"))
    return {(row["method"], row["landscape"]): row for row in record["rows"]}


def neighbours(method: str) -> list[str]:
    """The two nearest relatives of a method, beside which it is drawn."""
    (beside,) = (beside for family, beside in _BESIDE.items() if method in family.split())
    return [other for other in beside.split() if other != method][:2]


def draw(method: str, found: Mapping[tuple[str, str], Mapping[str, Any]], path: Path) -> None:
    """Draw the path of a method, on top of broader ones of its neighbours.

    Args:
        method: name of the method.
        found: the recorded paths.
        path: path of the picture.
    """
    figure = Figure(figsize=(7, 3.9), layout="constrained")
    for axes, (name, landscape) in zip(figure.subplots(1, len(LANDSCAPES)), LANDSCAPES.items(), strict=True):
        (left, bottom), (right, top) = landscape.corners
        x, y = np.meshgrid(np.linspace(left, right, _GRID), np.linspace(bottom, top, _GRID))
        levels = np.geomspace(0.02, 200.0, 14)
        losses = np.asarray(landscape.loss(np.stack([x, y])))
        axes.contour(x, y, losses, levels, colors="silver", linewidths=0.6)
        for other, color in zip([method, *neighbours(method)], _COLORS, strict=True):
            row = found[other, name]
            rate = "" if row["learning_rate"] is None else f", rate {row['learning_rate']:g}"
            line = {"linewidth": 1.2, "markersize": 4, "zorder": 3}
            if other != method:
                line = {"linewidth": 4.5, "alpha": 0.5}
            axes.plot(*np.transpose(row["path"]), ".-", color=color, label=f"{other}{rate}", **line)
        axes.plot(*landscape.minimum, "k+", markersize=9, zorder=4)
        axes.set(xlim=(left, right), ylim=(bottom, top), title=name, xticks=[], yticks=[])
        axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, 0.0))
    compare.save(figure, path, dpi=160)
