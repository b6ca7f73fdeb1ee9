"""A record grouped by method: an optimizer with its whole grid and seeds, and the best point of the grid.

The rate, and the values on other axes, are chosen by validation, and the methods are compared by test metrics,
which no choice has seen. A score is a metric times its sign (``Record.sign``), so that more is better.
"""

import dataclasses
import math
import statistics
from collections.abc import Callable, Mapping, Sequence

from optimiz.compare.matrix.grid import Point, at_edge, best_point, line
from optimiz.compare.record import Record
from optimiz.compare.run import Run
from optimiz.compare.statistics import (
    Difference,
    Estimate,
    Sensitivity,
    estimate,
    paired_difference,
    sensitivity,
    time_to_target,
)

CONFIDENCE = 0.95
NEAR = 0.01  # distance from the best level: a point of accuracy


@dataclasses.dataclass(frozen=True)
class Method:
    """One optimizer.

    Attributes:
        name: name of the optimizer.
        levels: learning rate → mean final validation score at the best values of the other axes, in ascending
            order of the rate; the key is None if the optimizer finds its rate.
        rate: rate with the best validation score; among equals, the middle one.
        runs: runs at the best point, by seed.
        scores: test scores of these runs.
        diverged: number of runs that diverged, at any point.
        tried: number of runs, at any point.
        values: best value on each other axis, by its name.
        lines: the same as ``levels`` along each other axis, by its name.
        edges: names of the axes at whose edge the best point is, ``"learning rate"`` among them. The values
            that were tried at a share of the budget count.
    """

    name: str
    levels: Mapping[float | None, float]
    rate: float | None
    runs: Sequence[Run]
    scores: Sequence[float]
    diverged: int
    tried: int
    values: Mapping[str, float] = dataclasses.field(default_factory=dict)
    lines: Mapping[str, Mapping[float, float]] = dataclasses.field(default_factory=dict)
    edges: Sequence[str] = ()

    @property
    def score(self) -> Estimate:
        """The mean test score over seeds."""
        return estimate(self.scores)

    def sensitivity(self) -> Sensitivity | None:
        """How the level depends on the learning rate, within ``NEAR`` of the best; None for a single rate."""
        levels = {rate: level for rate, level in self.levels.items() if rate is not None}
        return sensitivity(levels, within=NEAR) if len(levels) > 1 else None

    def forwards_per_step(self) -> float | None:
        """Forward passes per update, where a backward pass counts 2; None if not measured."""
        return self._per_step([run.forward_equivalents for run in self.runs])

    def seconds_per_step(self) -> float | None:
        """Seconds per update, on the machine of the runs; None if not measured."""
        return self._per_step([run.seconds for run in self.runs])

    def _per_step(self, values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        if len(known) < len(values):
            return None
        return sum(known) / max(sum(run.steps for run in self.runs), 1)

    def time_to(self, record: Record, metric: str, target: float) -> float:
        """Median over seeds of the cost at which the validation score first reached a target.

        Args:
            record: record of the runs.
            metric: name of the metric.
            target: score to reach.
        """
        times = []
        for run in self.runs:
            updates, values = run.validation(metric)
            scores = [record.sign(metric) * value for value in values]
            times.append(time_to_target(run.spent(updates), scores, target))
        return statistics.median(times)


def by_method(record: Record, metric: str) -> list[Method]:
    """The methods of a record, in the order in which they ran.

    Args:
        record: record with at least one run.
        metric: name of the metric that ranks them.

    Raises:
        ValueError: there is no run or no such metric, a method lacks a seed at one of its points, or its runs
            differ in the names of their axes.
    """
    if not record.runs:
        raise ValueError("the record must have at least one run, got none")
    seeds = sorted({run.seed for run in record.runs})
    found = []
    for name in dict.fromkeys(run.optimizer for run in record.runs):
        own = [run for run in record.runs if run.optimizer == name]
        axes = sorted(own[0].axes)
        by_point: dict[Point, list[Run]] = {}
        for run in own:
            if sorted(run.axes) != axes:
                raise ValueError(
                    f"all runs of {name} must have the same axes, got {axes} and {sorted(run.axes)}"
                )
            by_point.setdefault(run.point, []).append(run)
        for point, runs in by_point.items():
            runs.sort(key=lambda run: run.seed)
            if [run.seed for run in runs] != seeds:
                at = "".join(f", {axis} {value:g}" for axis, value in zip(axes, point[1:], strict=True))
                raise ValueError(f"{name} at {point[0]}{at} must have one run from each of the seeds {seeds}")
        levels = {
            point: estimate(record.scores(runs, metric, "validation")).mean for point, runs in by_point.items()
        }
        best = best_point(levels)
        lines = [line(levels, best, axis) for axis in range(len(best))]
        diverged = sum(run.diverged_at is not None for run in own)
        earlier = [run.point for run in record.rungs if run.optimizer == name]
        found.append(
            Method(
                name=name,
                levels=lines[0],
                rate=best[0],
                runs=by_point[best],
                scores=record.scores(by_point[best], metric, "test"),
                diverged=diverged,
                tried=len(own),
                values=dict(by_point[best][0].axes),
                lines=dict(zip(axes, lines[1:], strict=True)),
                edges=_edges(best, [*by_point, *earlier], axes) if math.isfinite(levels[best]) else [],
            )
        )
    return found


def _edges(best: Point, tried: Sequence[Point], axes: Sequence[str]) -> list[str]:
    """The names of the axes at whose edge a point is."""
    found = []
    for axis, (name, value) in enumerate(zip(("learning rate", *axes), best, strict=True)):
        values = [point[axis] for point in tried]
        if value is not None and at_edge(value, [other for other in values if other is not None]):
            found.append(name)
    return found


def common_target(record: Record, compared: Sequence[Method], metric: str) -> float:
    """The validation score that every run at a best rate reaches in the end; -∞ if all diverged.

    Args:
        record: record of the runs.
        compared: methods of the record.
        metric: name of the metric.
    """
    runs = [run for method in compared for run in method.runs]
    scores = record.scores(runs, metric, "validation")
    return min(filter(math.isfinite, scores), default=-math.inf)


def leader(compared: Sequence[Method]) -> tuple[Method, list[Method]]:
    """The method with the best mean score, and the others in their order."""
    best = max(compared, key=lambda method: method.score.mean)
    return best, [method for method in compared if method is not best]


def pair_confidence(compared: Sequence[Method]) -> float:
    """The confidence of one pair's interval at which those of all pairs hold together (Bonferroni).

    All of them count, and not only those with the best method: which one is the best, the same scores have
    said. Methods that diverged are in no pair.

    Args:
        compared: methods of one record.

    Example:
        >>> three = [Method(name, {}, None, [], [0.5, 0.6], diverged=0, tried=2) for name in "abc"]
        >>> round(pair_confidence(three), 4)  # 1 - 0.05 / 3
        0.9833
    """
    finite = sum(math.isfinite(method.score.mean) for method in compared)
    return 1 - (1 - CONFIDENCE) / max(math.comb(finite, 2), 1)


def leads(
    compared: Sequence[Method], difference: Callable[..., Difference] = paired_difference
) -> list[tuple[Method, Difference]]:
    """How far the best method is ahead of each other one, in their order.

    Args:
        compared: methods of one record.
        difference: (scores, scores, confidence=) → their difference, with its interval.
    """
    best, others = leader(compared)
    confidence = pair_confidence(compared)
    return [(other, difference(best.scores, other.scores, confidence=confidence)) for other in others]


def paired_deviation(one: Method, other: Method) -> float:
    """Standard deviation, over seeds, of the difference of two methods' scores; NaN where it is not known."""
    differences = [a - b for a, b in zip(one.scores, other.scores, strict=True)]
    if not all(map(math.isfinite, differences)):
        return math.nan
    found = estimate(differences)
    return found.standard_error * math.sqrt(found.n)


def have_grids(compared: Sequence[Method]) -> bool:
    """Whether some method ran at several learning rates."""
    return any(method.sensitivity() is not None for method in compared)
