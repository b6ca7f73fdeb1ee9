"""The runs of a comparison: every arm from every seed, each on its own clock.

Each run has its own directory, in which ``training.fit`` works and ``result.json`` is written at the end. A
matrix that is started again after it was stopped or killed reads the finished runs and resumes the unfinished
one; the result is the same.

From one seed, all arms start with the same parameters and see the same batches with the same dropout; a
fingerprint checks this for every run, except for arms that adapt the task. Runs with the same ``make`` follow
one another and share a compiled step, whatever their learning rates and seeds. A run that diverges is recorded
as such, and the others continue.

A grid whose best point is at an edge can go on by itself, until the best one is inside. Of many arms, the
worse ones can be dropped after a part of the budget, see ``optimiz.compare.matrix.halving``. What is added and
what is dropped follows from the runs alone, so a matrix that is continued does the same.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from optimiz import training
from optimiz.compare.arm import Arm
from optimiz.compare.directions import lower_is_better as is_lower_better
from optimiz.compare.matrix.halving import promoted
from optimiz.compare.matrix.preflight import check_arguments, prices_by_optimizer
from optimiz.compare.matrix.runs import MatrixProgress, Runs
from optimiz.compare.run import Run


def run_matrix(
    arms: Sequence[Arm],
    seeds: Sequence[int],
    task_of: Callable[[int], training.Task],
    settings: training.Settings,
    directory: str | os.PathLike[str],
    *,
    identity: Mapping[str, Any],
    metric: str,
    lower_is_better: Sequence[str] = (),
    higher_is_better: Sequence[str] = (),
    extensions: int = 0,
    halving: Sequence[float] = (),
    noise_batches: int = 0,
    reference: training.Reference | Mapping[str, training.Reference] | None = None,
    test: Callable[[Any], Mapping[str, float]] | None = None,
    extra: Callable[[Arm, int, training.Result], Mapping[str, Any]] | None = None,
    progress: Callable[[MatrixProgress], object] | None = None,
) -> list[Run]:
    """Run every arm from every seed, or continue a matrix that was stopped.

    Before the first run, every optimizer is built, its step is traced, and an untrained model is evaluated, so
    that anything that cannot be run or ranked is refused before hours are spent on it. To check the report as
    well, create the ``Record`` first, without runs, and pass it to ``check_report``.

    Args:
        arms: at least one; no two with the same name, learning rate and values on other axes.
        seeds: at least one; all different.
        task_of: seed → task; a pure function. The seed decides the order of the data. All tasks must share one
            ``loss`` function, so that a step is compiled once, and all must have ``evaluate``.
        settings: settings of all runs; the seed is replaced.
        directory: directory of this matrix alone; created if it does not exist.
        identity: what else decides the trajectories, as in ``training.fit``.
        metric: name of the metric by which runs will be ranked.
        lower_is_better: names of metrics that are better when lower, as in ``Record``. Well-known names such as
            ``"loss"`` and ``"mae"`` can be omitted.
        higher_is_better: names of metrics that are better when higher.
        extensions: maximum number of points, ≥ 0, by which the grid of each optimizer goes on along each axis
            while its best point is at an edge of it. The best point is that with the best mean of the last
            validation over all seeds; a run that diverged is worse than any other. A grid goes on in either
            direction, by the factor of its last two values, along one axis at a time, through the best point;
            where the values next to that were tried with other points only, they are run too. A single value
            is no grid, and 0 no edge.
        halving: shares of the budget, ascending in (0, 1), such as [0.25, 0.5]; empty for none. The arms of
            each optimizer run at the first share, to the end of their schedule, and only the best of them, from
            the start, at the next: of n at a share f, ⌈n f/f'⌉ at f', so that all shares take about as much. A
            grid then goes on at the first share. An optimizer with a single arm runs at the whole budget at
            once.
        noise_batches: number of batches on which the noise of the gradient is measured, before and after every
            run, without dropout; 0 for no measurement. It is not charged to a budget.
        reference: prices of the work, if the settings have a budget; or the prices of each optimizer's, by its
            name, if their steps do not cost the same.
        test: parameters → final metrics on examples that no choice has seen; it receives the model state as
            ``evaluate`` does. None for the metrics of ``evaluate``.
        extra: (arm, seed, result) → further entries for the record of a run that has just ended, as plain JSON.
            If the run diverged, the result is the one at that moment.
        progress: called whenever a run reports its progress.

    Returns:
        Every run that was made, in the order of the arms, and for each arm in the order of the seeds. Those by
        which a grid went on follow the last arm of their optimizer. With ``halving``, those at a share of the
        budget (``Run.budget_share``) come last, in the order of their shares; a ``Record`` keeps them apart.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: there are no arms or seeds, or one is given twice; an arm cannot be trained on its task (the
            message says why); ``evaluate`` or ``test`` does not return numbers by name, with the metric among
            them; the metric has no known direction; a finished run has another schema; or two runs from one
            seed would start differently.
        RunError: a run can neither start nor continue, for a reason other than divergence.
        Preempted: SIGTERM, SIGINT or SIGHUP was received, and the current run is saved.
    """
    check_arguments(
        arms,
        seeds,
        task_of,
        settings,
        identity,
        metric,
        lower_is_better,
        higher_is_better,
        test,
        extra,
        extensions,
        noise_batches,
        halving,
    )
    path = Path(directory).expanduser()
    sign = -1 if is_lower_better(metric, lower_is_better, higher_is_better) else 1
    matrix = Runs(
        arms,
        seeds,
        task_of,
        settings,
        path,
        identity,
        metric,
        sign,
        noise_batches,
        prices_by_optimizer(reference, arms),
        test,
        extra,
        progress,
    )
    first, *others = (*halving, None)
    starts = [matrix.at_share(first if _is_halved(arm, arms) else None) for arm in arms]
    found = {str(arm): start.found(arm) for arm, start in zip(arms, starts, strict=True)}
    made: dict[float | None, list[tuple[Arm, list[Run]]]] = {share: [] for share in (None, *halving)}
    steps = [(id(arm.make), arm.point[1:]) for arm in arms]
    for name in dict.fromkeys(arm.name for arm in arms):
        own = [i for i in range(len(arms)) if arms[i].name == name]
        own.sort(key=lambda i: steps.index(steps[i]))  # runs that share a step, in turn
        start = starts[own[0]]
        grid = [(i, arms[i], start.completed(arms[i], found[str(arms[i])])) for i in own]
        level = [(arm, runs) for _, arm, runs in sorted(grid, key=lambda entry: entry[0])]
        level += start.extended(level, extensions)
        made[start.share] += level
        for share in others if start.share is not None else ():
            rung = matrix.at_share(share)
            level = _next_rung(start, rung, level)
            made[share] += level
            start = rung
    place = {arm.name: i for i, arm in enumerate(arms)} | {str(arm): i for i, arm in enumerate(arms)}
    ordered = [
        sorted(level, key=lambda pair: place.get(str(pair[0]), place[pair[0].name])) for level in made.values()
    ]
    return [run for level in ordered for _, runs in level for run in runs]


def _is_halved(arm: Arm, arms: Sequence[Arm]) -> bool:
    """Whether there is something to choose between."""
    return sum(other.name == arm.name for other in arms) > 1


def _next_rung(rung: Runs, after: Runs, level: Sequence[tuple[Arm, list[Run]]]) -> list[tuple[Arm, list[Run]]]:
    """The runs of the arms that go on from a rung to the one after it, in their order."""
    names = promoted({str(arm): rung.level(runs) for arm, runs in level}, rung.cost, after.cost)
    chosen = [arm for arm, _ in level if str(arm) in names]
    found = [after.found(arm) for arm in chosen]
    return [(arm, after.completed(arm, runs)) for arm, runs in zip(chosen, found, strict=True)]
