"""Studies in two stages: some seeds choose the rate of each optimizer, and further seeds are compared at it."""

import collections
import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from examples.shared import terminal
from examples.shared.study_record import in_columns
from optimiz import compare, training

HEAD_RATE = 50.0
"""Rate of a new head in multiples of the encoder's, where the name of an optimizer ends in ``_head``."""


def run_matrix(
    arms: Sequence[compare.Arm],
    seeds: Sequence[int],
    task_of: Callable[[int], training.Task],
    settings: training.Settings,
    directory: Path,
    *,
    metric: str,
    columns: Sequence[str] = (),
    **options: Any,
) -> list[compare.Run]:
    """``compare.run_matrix`` with a progress bar, and runs as the record of a study keeps them.

    Args:
        arms: as there, like all that is not named here.
        seeds: likewise.
        task_of: likewise.
        settings: likewise.
        directory: likewise.
        metric: likewise; the last validation of it is kept, see :func:`with_validation`.
        columns: names of the metrics that are kept of every update, see ``study_record.in_columns``.
        **options: further arguments of it.
    """
    with terminal.matrix_bar() as progress:
        runs = compare.run_matrix(
            arms, seeds, task_of, settings, directory, metric=metric, progress=progress, **options
        )
    return in_columns((with_validation(run, metric) for run in runs), *columns)


def with_validation(run: compare.Run, metric: str) -> compare.Run:
    """A run with the metric of its last validation in ``extra``; None if it diverged."""
    score = run.score(metric, "validation", 1)
    return dataclasses.replace(run, extra={**run.extra, "validation": score if math.isfinite(score) else None})


def levels(runs: Sequence[compare.Run], sign: int = 1) -> dict[float, float]:
    """Mean of the last validation by rate, in ascending order of the rate; -∞ where a run diverged.

    Args:
        runs: of one optimizer, as ``with_validation`` returns them.
        sign: factor of the metric, -1 for one that is better when lower, so that more is better.
    """
    found: dict[float, list[float]] = collections.defaultdict(list)
    for run in runs:
        assert run.learning_rate is not None
        score = run.extra["validation"]
        found[run.learning_rate].append(-math.inf if score is None else sign * score)
    return {rate: compare.estimate(found[rate]).mean for rate in sorted(found)}


def chosen(runs: Sequence[compare.Run], sign: int = 1) -> dict[str, float]:
    """The best rate of each optimizer by the runs that choose it."""
    names = dict.fromkeys(run.optimizer for run in runs)
    of = {name: [run for run in runs if run.optimizer == name] for name in names}
    return {name: compare.best_rate(levels(found, sign)) for name, found in of.items()}


def direction(found: compare.Difference | None, otherwise: int = 0) -> int:
    """1 if a difference is above zero by more than its interval, -1 if below, and 0 if neither.

    Args:
        found: the difference; None if there is none, as where a run diverged.
        otherwise: what is returned for None.
    """
    if found is None:
        return otherwise
    return (found.low > 0) - (found.high < 0)


def in_groups(said: Iterable[tuple[int, str]], verbs: Mapping[int, str]) -> list[str]:
    """What is said of several optimizers, one phrase for each direction that occurs.

    Args:
        said: ``direction`` of each optimizer, and its name.
        verbs: direction → the words before the names, in the order of the phrases.

    Example:
        >>> in_groups([(1, "sgd"), (0, "lion"), (1, "adam")], {1: "ahead of", -1: "behind", 0: "level with"})
        ['ahead of sgd, adam', 'level with lion']
    """
    names: dict[int, list[str]] = collections.defaultdict(list)
    for sign, name in said:
        names[sign].append(name)
    return [f"{verb} {', '.join(names[sign])}" for sign, verb in verbs.items() if sign in names]


def decades(found: dict[float, float], within: float) -> float:
    """How many decades of rates around the best one lose at most ``within``, on the grid.

    Args:
        found: level by rate, in ascending order of the rate, as ``levels`` returns them.
        within: what may be lost, in units of the level.
    """
    rates = list(found)
    best = low = high = rates.index(compare.best_rate(found))
    good = lambda i: 0 <= i < len(rates) and found[rates[i]] >= found[rates[best]] - within  # noqa: E731
    while good(low - 1):
        low -= 1
    while good(high + 1):
        high += 1
    return math.log10(rates[high] / rates[low])


def missed(found: dict[float, float]) -> float:
    """How much better the best rate of a finer grid might be, by a parabola in the logarithm of the rate.

    Args:
        found: level by rate, in ascending order of the rate, each a factor above the one before.

    Returns:
        The gain at the vertex of the parabola through the best rate and its neighbours; ∞ at an edge of the
        grid, or next to a run that diverged.

    Example:
        >>> missed({0.1: -5.5, 1.0: -5.0, 10.0: -6.0})  # -5 - x / 4 - 3 x² / 4, best at x = -1 / 6
        0.020833333333333332
    """
    rates = list(found)
    at = rates.index(compare.best_rate(found))
    if at in (0, len(rates) - 1):
        return math.inf
    below, best, above = (found[rate] for rate in rates[at - 1 : at + 2])
    slope, bend = (above - below) / 2, 2 * best - below - above
    if not math.isfinite(bend):
        return math.inf
    return 0.0 if bend == 0 else slope**2 / (2 * bend)
