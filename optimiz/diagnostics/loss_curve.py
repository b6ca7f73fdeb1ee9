"""The training losses of a run as a curve, and parts of it to compare.

Losses are compared as means over parts of the run, with the standard error due to the batches: the noisier a
run, the longer it must be before a problem is reported.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

# Fewer losses show no trend; an eighth of the run still has five.
LEAST_LOSSES = 40

# Differences of means count from this many standard errors: one in 15,000 by chance.
SIGNIFICANT = 4.0

# A transient is over after the first quarter; usual warm-ups are 1 to 10 % of a run.
EARLY = 0.25


@dataclasses.dataclass(frozen=True)
class LossCurve:
    """The training losses up to the first that is not finite, each [N]."""

    step: np.ndarray
    loss: np.ndarray
    rate: np.ndarray | None  # learning rates, where all rows have one

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, Any]]) -> "LossCurve":
        """The curve of a run's rows, without those that have no loss."""
        rows = [row for row in rows if "loss" in row]
        loss = np.array([float(row["loss"]) for row in rows])
        finite = int(np.argmin(np.append(np.isfinite(loss), False)))
        step = np.array([row["step"] for row in rows], int)
        rate = [row.get("learning_rate") for row in rows[:finite]]
        return cls(step[:finite], loss[:finite], None if None in rate else np.array(rate, float))

    def part(self, start: float, end: float) -> "Part":
        """The losses between two fractions of the run's rows."""
        return Part(self.loss[round(start * len(self.loss)) : round(end * len(self.loss))])

    @property
    def progress(self) -> np.ndarray:
        """Progress at each row: the share of the sum of the learning rates, or of the steps."""
        lengths = np.ones(len(self.loss)) if self.rate is None else self.rate
        return (np.cumsum(lengths) - lengths / 2) / max(lengths.sum(), np.finfo(float).tiny)

    @property
    def rates(self) -> str:
        """The largest learning rate, as the end of a sentence; empty if the rows have none."""
        return "" if self.rate is None else f", at learning rates up to {self.rate.max():.3g}"


@dataclasses.dataclass(frozen=True)
class Part:
    """The losses of a part of a run."""

    loss: np.ndarray

    @property
    def level(self) -> float:
        """Their mean."""
        return float(np.mean(self.loss))

    @property
    def deviation(self) -> float:
        """Standard deviation between batches, from differences, which a trend does not affect."""
        return float(np.std(np.diff(self.loss)) / math.sqrt(2))

    @property
    def error(self) -> float:
        """Standard error of the level."""
        return self.deviation / math.sqrt(len(self.loss))


def error_between(one: Part, other: Part) -> float:
    """Standard error of the difference of two levels."""
    return math.hypot(one.error, other.error)
