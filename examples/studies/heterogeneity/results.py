"""Results of the heterogeneity study from its record: best rates, their runs, and their measurements."""

import math
import statistics
from typing import Any

from examples.shared.study_record import with_safe_names
from optimiz import compare

STATISTIC = "gini_norm"


class Results:
    """Measurements of a study.

    Args:
        record: record of the study, whose runs have their ``"model"`` in ``extra``.

    Attributes:
        curvature: curvature of the blocks at the start, for each model and seed.
        two_blocks: steps that each method needs, for each quadratic of two blocks.
    """

    def __init__(self, record: compare.Record):
        self.curvature: list[dict[str, Any]] = record.extra["curvature"]
        self.two_blocks: list[dict[str, Any]] = record.extra["two_blocks"]
        self._runs = with_safe_names(record.runs)

    @property
    def models(self) -> list[str]:
        """Names, in the order of the runs."""
        return list(dict.fromkeys(_model(run) for run in self._runs))

    def optimizers(self, model: str) -> list[str]:
        """Names, in the order of the runs."""
        return list(dict.fromkeys(run.optimizer for run in self._runs if _model(run) == model))

    def runs(self, model: str, optimizer: str) -> list[compare.Run]:
        """The runs at all rates, from all seeds."""
        return [run for run in self._runs if (_model(run), run.optimizer) == (model, optimizer)]

    def best_rate(self, model: str, optimizer: str) -> float:
        """The rate at which the run from seed 0 ends with the lowest training loss."""
        return min((run for run in self.runs(model, optimizer) if run.seed == 0), key=final_loss).learning_rate

    def best_runs(self, model: str, optimizer: str) -> list[compare.Run]:
        """The runs at the best rate, by seed."""
        best = self.best_rate(model, optimizer)
        chosen = [run for run in self.runs(model, optimizer) if run.learning_rate == best]
        return sorted(chosen, key=lambda run: run.seed)

    def lead(self, model: str, optimizer: str) -> compare.Difference:
        """By how many decades Adam's final training loss is below that of another optimizer, paired by seed."""
        both = [self.best_runs(model, name) for name in (optimizer, "adam")]
        return compare.paired_difference(*([math.log10(final_loss(run)) for run in runs] for runs in both))

    def at_start(self, model: str, statistic: str = STATISTIC) -> list[float]:
        """A statistic of the first gradient, by seed; it is the same for every optimizer."""
        return [run.extra["heterogeneity"][0][statistic] for run in self.best_runs(model, "adam")]

    def in_training(self, model: str, optimizer: str, statistic: str = STATISTIC) -> list[float]:
        """The mean of a statistic over the probes after the first, by seed."""
        probes = [run.extra["heterogeneity"] for run in self.best_runs(model, optimizer)]
        return [statistics.fmean(probe[statistic] for probe in of_run[1:] or of_run) for of_run in probes]


def final_loss(run: compare.Run) -> float:
    """The loss on the training set at the end; infinite if the run diverged."""
    loss = run.test["train_loss"]
    return math.inf if loss is None else loss


def _model(run: compare.Run) -> str:
    return compare.escaped(run.extra["model"])
