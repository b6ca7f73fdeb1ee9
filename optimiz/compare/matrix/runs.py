"""The runs of a matrix: each is read back if it is finished, continued if it was begun, or made.

    <directory>/<arm>/seed_<n>/result.json                    the finished run
    <directory>/<arm>/seed_<n>/run.json …                     as written by ``training.fit``
    <directory>/rungs/<share>/<arm>/seed_<n>/result.json      a run at a share of the budget

Checkpoints of a finished run are deleted. A run whose result is damaged is made again.
"""

import dataclasses
import logging
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optax

from optimiz import checks, training
from optimiz.compare.arm import Arm
from optimiz.compare.json_file import TornRecord
from optimiz.compare.matrix.beginning import beginning, untrained
from optimiz.compare.matrix.grid import line, moved, next_point
from optimiz.compare.matrix.noise import noise_row
from optimiz.compare.matrix.preflight import Preflight, preflight
from optimiz.compare.run import Run
from optimiz.compare.statistics import estimate
from optimiz.training.settings import description
from optimiz.training.storage.run_directory import CHECKPOINTS, METRICS, TIMINGS
from optimiz.training.task import untrained_arguments
from optimiz.training.train_state import keys

_RESULT = "result.json"

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class MatrixProgress:
    """The progress of a matrix; as a string, one line.

    Args:
        run: 1-based number of the current run.
        runs: number of runs that are known so far: not those that a grid will add, nor those of later rungs.
        arm: the current run's arm.
        seed: the current run's seed.
        within: progress of the current run.
        share: share of these runs that is done, in [0, 1]; one at a part of the budget counts in proportion.
        seconds_left: estimated seconds until these runs are done; None before an update is.
    """

    run: int
    runs: int
    arm: Arm
    seed: int
    within: training.Progress
    share: float
    seconds_left: float | None

    def __str__(self) -> str:
        left = "" if self.seconds_left is None else f"{math.ceil(self.seconds_left / 60)} min left  "
        return f"{self.run}/{self.runs}  {left}{self.arm}  seed {self.seed}  {self.within}"


@dataclasses.dataclass
class Tally:
    """How much is done, and what the runs at all shares of the budget have in common.

    Attributes:
        runs: number of runs, so far as it is known.
        number: number of the current run.
        total: cost of the runs, so far as it is known, in runs at the whole budget.
        missing: cost of those that this process has to make.
        done: cost of those that it has made.
        since: time of its start, by a monotonic clock.
        begun: for each seed, the first run on the common task.
        makes: the functions from a rate to an optimizer, by ``make`` and the values on the other axes.
        checked: what the checks before the first run found out; None until then.
    """

    runs: int = 0
    number: int = 0
    total: float = 0.0
    missing: float = 0.0
    done: float = 0.0
    since: float = dataclasses.field(default_factory=time.monotonic)
    begun: dict[int, Run] = dataclasses.field(default_factory=dict)
    makes: dict[Any, Callable[..., optax.GradientTransformation]] = dataclasses.field(default_factory=dict)
    checked: Preflight | None = None


@dataclasses.dataclass
class Runs:
    """The runs of a matrix at the whole budget, or at a share of it; see :func:`run_matrix` for the arguments.

    Args:
        sign: 1 if the metric is better when higher, -1 if it is better when lower.
        reference: prices of the work, by the name of the optimizer.
        share: share of the budget, in (0, 1), at a rung of successive halving; None for the whole budget.
    """

    arms: Sequence[Arm]
    seeds: Sequence[int]
    task_of: Callable[[int], training.Task]
    settings: training.Settings
    directory: Path
    identity: Mapping[str, Any]
    metric: str
    sign: int
    noise_batches: int
    reference: Mapping[str, training.Reference | None]
    test: Callable[..., Mapping[str, float]] | None
    extra: Callable[[Arm, int, training.Result], Mapping[str, Any]] | None
    progress: Callable[[MatrixProgress], object] | None
    share: float | None = None
    tally: Tally = dataclasses.field(default_factory=Tally)

    def at_share(self, share: float | None) -> "Runs":
        """The runs at a share of the budget; None for the whole."""
        return dataclasses.replace(self, share=share)

    def path(self, arm: Arm, seed: int) -> Path:
        """The directory of a run."""
        rung = () if self.share is None else ("rungs", f"{self.share!r}")
        return self.directory.joinpath(*rung, arm.directory, f"seed_{seed}")

    def settings_of(self, seed: int) -> training.Settings:
        """The settings of a run."""
        settings = dataclasses.replace(self.settings, seed=seed)
        if self.share is None:
            return settings
        assert settings.budget is not None  # see check_halving
        return dataclasses.replace(settings, budget=self.share * settings.budget)

    def identity_of(self, arm: Arm) -> dict[str, Any]:
        """What decides the trajectories of an arm."""
        identity = dict(self.identity) | {"optimizer": arm.name, "learning_rate": arm.learning_rate}
        identity |= {"axes": {axis: float(arm.axes[axis]) for axis in sorted(arm.axes)}} if arm.axes else {}
        return identity | ({"extra": dict(arm.extra)} if arm.extra else {})

    def make_of(self, arm: Arm) -> Callable[..., optax.GradientTransformation]:
        """The function from a rate to the arm's optimizer: one object for all arms with a step in common."""
        return self.tally.makes.setdefault((id(arm.make), arm.point[1:]), arm.of_rate())

    def found(self, arm: Arm) -> list[Run | None]:
        """The finished runs of an arm, by seed; None for those that are missing, which are counted."""
        runs = [self.finished(arm, seed) for seed in self.seeds]
        self.tally.runs += len(runs)
        self.tally.total += self.cost * len(runs)
        self.tally.missing += self.cost * sum(run is None for run in runs)
        return runs

    @property
    def cost(self) -> float:
        """The cost of a run, in runs at the whole budget."""
        return 1.0 if self.share is None else self.share

    def completed(self, arm: Arm, found: Sequence[Run | None]) -> list[Run]:
        """The runs of an arm from every seed; what is missing is run."""
        tally = self.tally
        if tally.checked is None and any(run is None for run in found):
            tried = self.settings_of(self.seeds[0])
            tally.checked = preflight(self.arms, self.task_of, tried, self.reference, self.test, self.metric)
        tx, runs = arm.optimizer(), []
        for seed, run in zip(self.seeds, found, strict=True):
            tally.number += 1
            runs.append(run := self.run(arm, tx, seed) if run is None else run)
            first = tally.begun.setdefault(seed, run) if arm.adapt is None else run
            if first.fingerprint != run.fingerprint:
                raise ValueError(
                    f"task_of must be a pure function: from seed {seed}, {arm} does not start with the "
                    f"parameters and batches of {first.optimizer} at {first.learning_rate}"
                )
        return runs

    def extended(self, grid: Sequence[tuple[Arm, Sequence[Run]]], most: int) -> list[tuple[Arm, list[Run]]]:
        """The runs by which a grid goes on, until its best point is inside.

        Args:
            grid: arms of one optimizer, with their runs.
            most: maximum number of points to add along each axis.
        """
        arms = {arm.point: arm for arm, _ in grid}
        levels = {arm.point: self.level(runs) for arm, runs in grid}
        left = dict.fromkeys(range(len(grid[0][0].point)), most)
        added: list[tuple[Arm, list[Run]]] = []
        while found := next_point(levels, [axis for axis, number in left.items() if number]):
            point, axis = found
            tried = line(levels, point, axis)
            edge = min(tried) if point[axis] < min(tried) else max(tried)
            nearest = arms[moved(point, axis, edge)]
            values = dict(zip(sorted(nearest.axes), point[1:], strict=True))
            try:
                arm = dataclasses.replace(nearest, learning_rate=point[0], axes=values)
                checks.transformation("what make returns", arm.optimizer())
            except (TypeError, ValueError) as error:
                along = "" if axis == 0 else f" along {sorted(nearest.axes)[axis - 1]}"
                _log.warning("the grid of %s%s ends at %s: %s", nearest.name, along, edge, error)
                left[axis] = 0
                continue
            left[axis] -= 1
            added.append((arm, self.completed(arm, self.found(arm))))
            arms[point], levels[point] = arm, self.level(added[-1][1])
        return added

    def level(self, runs: Sequence[Run]) -> float:
        """The mean validation score of runs over the seeds."""
        return estimate([run.score(self.metric, "validation", self.sign) for run in runs]).mean

    def finished(self, arm: Arm, seed: int) -> Run | None:
        """A finished run; None if there is none, or if its file is damaged."""
        path = self.path(arm, seed)
        if not (path / _RESULT).exists():
            return None
        reference = self.reference[arm.name]
        prices = None if reference is None else reference.prices()
        described = description(self.settings_of(seed), self.identity_of(arm), prices, arm.methods)
        with training.claimed(path, described, resume=True):  # refuses a run with other settings
            try:
                run = Run.read(path / _RESULT)
            except TornRecord as error:
                _log.warning("%s: the run is repeated", error)
                _begin_again(path)
                return None
            shutil.rmtree(path / CHECKPOINTS, ignore_errors=True)
        return run

    def run(self, arm: Arm, tx: optax.GradientTransformation, seed: int) -> Run:
        """Make a run, or continue it."""
        tally = self.tally
        assert tally.checked is not None
        path, task, settings = self.path(arm, seed), arm.task(self.task_of(seed)), self.settings_of(seed)
        fingerprint, measured = beginning(task, seed)
        before = self.noise(task, *untrained(task, seed), step=0)
        evaluate = self.test or task.evaluate
        assert evaluate is not None  # see preflight
        shares = tally.checked.shares(arm)
        diverged_at = None
        try:
            result = training.fit(
                task,
                self.make_of(arm) if shares else tx,
                settings,
                path,
                identity=self.identity_of(arm),
                learning_rate=arm.learning_rate if shares else None,
                reference=self.reference[arm.name],
                methods=arm.methods,
                resume=True,
                progress=self.watch(arm, seed),
            )
            frozen = None if task.frozen is None else task.frozen(keys(settings.seed)[0])
            test = evaluate(result.params, **untrained_arguments(result.model_state, frozen))
        except training.Diverged as diverged:
            _log.warning("%s, seed %d, diverged: %s", arm, seed, diverged)
            result, diverged_at = diverged.result, diverged.step
            test = dict.fromkeys(tally.checked.metrics, math.nan)
        frozen = None if task.frozen is None else task.frozen(keys(settings.seed)[0])
        after = (
            []
            if diverged_at is not None
            else self.noise(task, result.params, result.model_state, frozen, step=result.steps)
        )
        more = {} if self.extra is None else self.extra(arm, seed, result)
        run = Run.of(
            result,
            tx,
            optimizer=arm.name,
            learning_rate=arm.learning_rate,
            seed=seed,
            test=test,
            budget=settings.budget,
            diverged_at=diverged_at,
            fingerprint=fingerprint,
            heterogeneity=measured,
            noise=[*before, *after],
            extra=dict(arm.extra) | dict(more),
            axes=self.identity_of(arm).get("axes"),
            budget_share=self.share,
        )
        run.write(path / _RESULT)
        shutil.rmtree(path / CHECKPOINTS, ignore_errors=True)
        tally.done += self.cost
        return run

    def noise(self, task: training.Task, *start: Any, step: int) -> list[dict[str, Any]]:
        """The noise of the gradient at some parameters, model state and frozen arrays, if it is measured."""
        if not self.noise_batches:
            return []
        return [noise_row(task, *start, batches=self.noise_batches, step=step)]

    def watch(self, arm: Arm, seed: int) -> Callable[[training.Progress], None]:
        """The progress callback of a run."""

        def watch(within: training.Progress) -> None:
            if self.progress is None:
                return
            tally = self.tally
            made = tally.done + self.cost * within.share
            left = (time.monotonic() - tally.since) * (tally.missing - made) / made if made else None
            share = (tally.total - tally.missing + made) / tally.total
            self.progress(MatrixProgress(tally.number, tally.runs, arm, seed, within, share, left))

        return watch


def _begin_again(path: Path) -> None:
    """Delete a run whose result is damaged; the result is deleted last, so that this can be repeated."""
    if not (path / CHECKPOINTS).exists():  # otherwise it continues from the newest
        for name in (TIMINGS, METRICS, _RESULT):
            (path / name).unlink(missing_ok=True)
