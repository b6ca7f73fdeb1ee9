"""The rows of the heterogeneity study, read: the best rates, their runs, and what was measured in these."""

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from examples.shared.rows import Row
from optimiz import compare

STATISTIC = "gini_norm"
_FIELDS: dict[str, dict[str, Any]] = {
    "run": {
        "model": str,
        "optimizer": str,
        "learning_rate": float,
        "seed": int,
        "loss": Sequence[float | None],
        "training_loss": float | None,
        "test_accuracy": float,
        "heterogeneity": Sequence[Mapping[str, float | None]],
    },
    "curvature": {
        "model": str,
        "seed": int,
        "blocks": Sequence[str],
        "eigenvalue": Sequence[float],
        "converged": Sequence[bool],
        "norm": Sequence[float],
        "gradient_weighted": float,
        "size_weighted": float,
        "rank_correlation": float,
    },
    "two_blocks": {
        "norm": float,
        "curvature": float,
        "gradient_weighted": float,
        "size_weighted": float,
        "sgd": int | None,
        "sign_sgd": int | None,
    },
}


def fields(row: Row) -> dict[str, Any]:
    """The fields of a row, with their types.

    Raises:
        ValueError: it is of no kind that is known.
    """
    kind = row.get("kind")
    if not isinstance(kind, str) or kind not in _FIELDS:
        raise ValueError(f"kind must be one of {', '.join(_FIELDS)}, got {kind!r}")
    return _FIELDS[kind]


@dataclasses.dataclass(frozen=True)
class Results:
    """What a study has measured.

    Args:
        rows: of its runs, curvatures and quadratics.
    """

    rows: Sequence[Row]

    def of(self, kind: str) -> list[Row]:
        """The rows of a kind: ``"run"``, ``"curvature"`` or ``"two_blocks"``."""
        return [row for row in self.rows if row["kind"] == kind]

    @property
    def models(self) -> list[str]:
        """Names, in the order of the runs."""
        return list(dict.fromkeys(row["model"] for row in self.of("run")))

    def optimizers(self, model: str) -> list[str]:
        """Names, in the order of the runs."""
        return list(dict.fromkeys(row["optimizer"] for row in self.of("run") if row["model"] == model))

    def runs(self, model: str, optimizer: str) -> list[Row]:
        """The runs at all rates, from all seeds."""
        return [row for row in self.of("run") if (row["model"], row["optimizer"]) == (model, optimizer)]

    def best_rate(self, model: str, optimizer: str) -> float:
        """The rate of the grid at which the run from seed 0 ends with the least training loss."""
        grid = [row for row in self.runs(model, optimizer) if row["seed"] == 0]
        return min(grid, key=final_loss)["learning_rate"]

    def best_runs(self, model: str, optimizer: str) -> list[Row]:
        """The runs at that rate, by seed."""
        best = self.best_rate(model, optimizer)
        chosen = [row for row in self.runs(model, optimizer) if row["learning_rate"] == best]
        return sorted(chosen, key=lambda row: row["seed"])

    def lead(self, model: str, optimizer: str) -> compare.Difference:
        """By how many decades Adam's final training loss is below another's: paired over seeds."""
        both = [self.best_runs(model, name) for name in (optimizer, "adam")]
        return compare.paired_difference(*([math.log10(final_loss(run)) for run in runs] for runs in both))

    def at_start(self, model: str, statistic: str = STATISTIC) -> list[float]:
        """A statistic of the first gradient, by seed: it is the same for every optimizer."""
        return [run["heterogeneity"][0][statistic] for run in self.best_runs(model, "adam")]

    def in_training(self, model: str, optimizer: str, statistic: str = STATISTIC) -> list[float]:
        """The mean of a statistic over the probes after the first, by seed."""
        probes = [run["heterogeneity"][1:] or run["heterogeneity"] for run in self.best_runs(model, optimizer)]
        return [statistics.fmean(probe[statistic] for probe in of_run) for of_run in probes]


def final_loss(row: Row) -> float:
    """The training loss at the end; infinite where the run diverged."""
    return math.inf if row["training_loss"] is None else row["training_loss"]
