"""The runs of a comparison: every arm from every seed, each on its own clock.

Each run has its own directory, in which ``training.fit`` works and ``result.json`` is written at the end. A
matrix that is started again after it was stopped or killed reads the finished runs and resumes the unfinished
one; the result is the same. Checkpoints of a finished run are deleted.

    <directory>/<arm>/seed_<n>/result.json      the finished run
    <directory>/<arm>/seed_<n>/run.json …       as written by ``training.fit``

From one seed, all arms start with the same parameters and see the same batches with the same dropout; a
fingerprint checks this for every run, except for arms that adapt the task. Runs with the same ``make`` follow
one another and share a compiled step, whatever their learning rates and seeds. A run that diverges is recorded
as such, and the others continue.

A grid whose best rate is the lowest or the highest can go on by itself, until the best one is inside. Which
rates are added follows from the runs alone, so a matrix that is continued adds the same.
"""

import dataclasses
import functools
import hashlib
import logging
import math
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from optimiz import checks, diagnostics, training
from optimiz.compare.arm import Arm
from optimiz.compare.directions import lower_is_better as is_lower_better
from optimiz.compare.grid import next_rate
from optimiz.compare.json_file import TornRecord
from optimiz.compare.noise import noise_row
from optimiz.compare.preflight import Preflight, check_arguments, preflight, untrained
from optimiz.compare.run import Run
from optimiz.compare.statistics import estimate
from optimiz.training.settings import description
from optimiz.training.storage.run_directory import CHECKPOINTS, METRICS, TIMINGS
from optimiz.training.task import losses_and_state, mean_loss, untrained_arguments
from optimiz.training.train_state import keys

_RESULT = "result.json"
_FINGERPRINTED = 3  # batches, enough to tell two orders of the data apart

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class MatrixProgress:
    """The progress of a matrix; as a string, one line.

    Args:
        run: 1-based number of the current run.
        runs: number of runs, including those at rates that were added so far.
        arm: the current run's arm.
        seed: the current run's seed.
        within: progress of the current run.
        share: share of the whole matrix that is done, in [0, 1].
        seconds_left: estimated seconds until the matrix is done.
    """

    run: int
    runs: int
    arm: Arm
    seed: int
    within: training.Progress
    share: float
    seconds_left: float

    def __str__(self) -> str:
        minutes = math.ceil(self.seconds_left / 60)
        return f"{self.run}/{self.runs}  {minutes} min left  {self.arm}  seed {self.seed}  {self.within}"


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
    noise_batches: int = 0,
    reference: training.Reference | None = None,
    test: Callable[[Any], Mapping[str, float]] | None = None,
    extra: Callable[[Arm, int, training.Result], Mapping[str, Any]] | None = None,
    progress: Callable[[MatrixProgress], object] | None = None,
) -> list[Run]:
    """Run every arm from every seed, or continue a matrix that was stopped.

    Before the first run, every optimizer is built, its step is traced, and an untrained model is evaluated, so
    that anything that cannot be run or ranked is refused before hours are spent on it. To check the report as
    well, create the ``Record`` first, without runs, and pass it to ``check_report``.

    Args:
        arms: at least one; no two with the same name and learning rate.
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
        extensions: maximum number of rates, ≥ 0, by which the grid of each optimizer goes on while its best
            rate is an edge of it. The best rate is that with the best mean of the last validation over all
            seeds; a run that diverged is worse than any other. A grid goes on in either direction, by the
            factor of its last two rates. A single rate is no grid.
        noise_batches: number of batches on which the noise of the gradient is measured, before and after every
            run, without dropout; 0 for no measurement. It is not charged to a budget.
        reference: prices of the work, if the settings have a budget.
        test: parameters → final metrics on examples that no choice has seen; it receives the model state as
            ``evaluate`` does. None for the metrics of ``evaluate``.
        extra: (arm, seed, result) → further entries for the record of a run that has just ended, as plain JSON.
            If the run diverged, the result is the one at that moment.
        progress: called whenever a run reports its progress.

    Returns:
        The runs, in the order of the arms, and for each arm in the order of the seeds. Those at rates that were
        added follow the last arm of their optimizer.

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
    )
    path = Path(directory).expanduser()
    sign = -1 if is_lower_better(metric, lower_is_better, higher_is_better) else 1
    matrix = _Matrix(
        arms,
        seeds,
        task_of,
        settings,
        path,
        identity,
        metric,
        sign,
        noise_batches,
        reference,
        test,
        extra,
        progress,
    )
    found = [matrix.found(arm) for arm in arms]
    makes, names = [id(arm.make) for arm in arms], [arm.name for arm in arms]
    runs: dict[int, list[Run]] = {}
    waiting = Counter(names)
    for i in sorted(range(len(arms)), key=lambda i: makes.index(makes[i])):  # runs that share a step, in turn
        runs[i] = matrix.completed(arms[i], found[i])
        waiting[names[i]] -= 1
        if not waiting[names[i]]:
            own = [k for k, name in enumerate(names) if name == names[i]]
            runs[own[-1]] += matrix.extended([(arms[k], runs[k]) for k in own], extensions)
    return [run for i in range(len(arms)) for run in runs[i]]


@dataclasses.dataclass
class _Matrix:
    """What all runs share.

    Args:
        sign: 1 if the metric is better when higher, -1 if it is better when lower.
        total: number of runs, so far as it is known.
        missing: number of those that this process has to make.
        number: number of the current run.
        done: number of those that it has made.
        since: time of its start, by a monotonic clock.
        begun: for each seed, the first run on the common task.
        checked: what the checks before the first run found out; None until then.
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
    reference: training.Reference | None
    test: Callable[..., Mapping[str, float]] | None
    extra: Callable[[Arm, int, training.Result], Mapping[str, Any]] | None
    progress: Callable[[MatrixProgress], object] | None
    total: int = 0
    missing: int = 0
    number: int = 0
    done: int = 0
    since: float = dataclasses.field(default_factory=time.monotonic)
    begun: dict[int, Run] = dataclasses.field(default_factory=dict)
    checked: Preflight | None = None

    def path(self, arm: Arm, seed: int) -> Path:
        return self.directory / arm.directory / f"seed_{seed}"

    def settings_of(self, seed: int) -> training.Settings:
        return dataclasses.replace(self.settings, seed=seed)

    def identity_of(self, arm: Arm) -> dict[str, Any]:
        identity = dict(self.identity) | {"optimizer": arm.name, "learning_rate": arm.learning_rate}
        return identity | ({"extra": dict(arm.extra)} if arm.extra else {})

    def found(self, arm: Arm) -> list[Run | None]:
        """The finished runs of an arm, by seed; None for those that are missing, which are counted."""
        runs = [self.finished(arm, seed) for seed in self.seeds]
        self.total += len(runs)
        self.missing += sum(run is None for run in runs)
        return runs

    def completed(self, arm: Arm, found: Sequence[Run | None]) -> list[Run]:
        """The runs of an arm from every seed; what is missing is run."""
        if self.missing and self.checked is None:
            tried = self.settings_of(self.seeds[0])
            self.checked = preflight(self.arms, self.task_of, tried, self.reference, self.test, self.metric)
        tx, runs = arm.optimizer(), []
        for seed, run in zip(self.seeds, found, strict=True):
            self.number += 1
            runs.append(run := self.run(arm, tx, seed) if run is None else run)
            first = self.begun.setdefault(seed, run) if arm.adapt is None else run
            if first.fingerprint != run.fingerprint:
                raise ValueError(
                    f"task_of must be a pure function: from seed {seed}, {arm} does not start with the "
                    f"parameters and batches of {first.optimizer} at {first.learning_rate}"
                )
        return runs

    def extended(self, grid: Sequence[tuple[Arm, Sequence[Run]]], most: int) -> list[Run]:
        """The runs at rates beyond a grid, until its best rate is inside, or ``most`` rates are added.

        Args:
            grid: arms of one optimizer, with their runs.
            most: maximum number of rates to add.
        """
        arms = {arm.learning_rate: arm for arm, _ in grid if arm.learning_rate is not None}
        levels = {arm.learning_rate: self.level(runs) for arm, runs in grid if arm.learning_rate is not None}
        added: list[Run] = []
        for _ in range(most):
            if (rate := next_rate(levels)) is None:
                break
            edge = min(arms) if rate < min(arms) else max(arms)
            arms[rate] = arm = dataclasses.replace(arms[edge], learning_rate=rate)
            try:
                checks.transformation("what make returns", arm.optimizer())
            except (TypeError, ValueError) as error:
                _log.warning("the grid of %s ends at %s: %s", arm.name, edge, error)
                break
            added += (runs := self.completed(arm, self.found(arm)))
            levels[rate] = self.level(runs)
        return added

    def level(self, runs: Sequence[Run]) -> float:
        """The mean validation score of runs over the seeds."""
        return estimate([run.score(self.metric, "validation", self.sign) for run in runs]).mean

    def finished(self, arm: Arm, seed: int) -> Run | None:
        """A finished run; None if there is none, or if its file is damaged."""
        path = self.path(arm, seed)
        if not (path / _RESULT).exists():
            return None
        prices = None if self.reference is None else self.reference.prices()
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
        assert self.checked is not None
        path, task, settings = self.path(arm, seed), arm.task(self.task_of(seed)), self.settings_of(seed)
        fingerprint, measured = _beginning(task, seed)
        before = self.noise(task, *untrained(task, seed), step=0)
        evaluate = self.test or task.evaluate
        assert evaluate is not None  # see preflight
        shares = self.checked.shares(arm)
        diverged_at = None
        try:
            result = training.fit(
                task,
                arm.make if shares else tx,
                settings,
                path,
                identity=self.identity_of(arm),
                learning_rate=arm.learning_rate if shares else None,
                reference=self.reference,
                methods=arm.methods,
                resume=True,
                progress=self.watch(arm, seed),
            )
            frozen = None if task.frozen is None else task.frozen(keys(settings.seed)[0])
            test = evaluate(result.params, **untrained_arguments(result.model_state, frozen))
        except training.Diverged as diverged:
            _log.warning("%s, seed %d, diverged: %s", arm, seed, diverged)
            result, diverged_at = diverged.result, diverged.step
            test = dict.fromkeys(self.checked.metrics, math.nan)
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
        )
        run.write(path / _RESULT)
        shutil.rmtree(path / CHECKPOINTS, ignore_errors=True)
        self.done += 1
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
            made = self.done + within.share
            left = (time.monotonic() - self.since) * (self.missing - made) / made
            share = (self.total - self.missing + made) / self.total
            self.progress(MatrixProgress(self.number, self.total, arm, seed, within, share, left))

        return watch


def _begin_again(path: Path) -> None:
    """Delete a run whose result is damaged; the result is deleted last, so that this can be repeated."""
    if not (path / CHECKPOINTS).exists():  # otherwise it continues from the newest
        for name in (TIMINGS, METRICS, _RESULT):
            (path / name).unlink(missing_ok=True)


def _beginning(task: training.Task, seed: int) -> tuple[str, dict[str, float]]:
    """A fingerprint of the start of a run, and the heterogeneity of its first gradient.

    The fingerprint is the SHA-256 of the initial parameters, the dropout key, the first batches, and the model
    state and the frozen arrays, if there are any; heterogeneity is measured without dropout.
    """
    params, model_state, frozen = untrained(task, seed)
    run_key = keys(seed)[1]
    batches = [dict(task.batches(step)) for step in range(_FINGERPRINTED)]
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves((params, jax.random.key_data(run_key), batches, model_state, frozen)):
        digest.update(np.asarray(leaf).tobytes())
    first = jax.device_put(batches[0])
    measured = _first_heterogeneity(task.loss)(params, first, model_state, frozen)._asdict()
    statistics = {name: float(x) for name, x in measured.items() if name not in ("norm", "rms")}
    return digest.hexdigest(), statistics


# As in training.step: the seeds share it, and it keeps alive the data that the loss refers to.
@functools.lru_cache(maxsize=1)
def _first_heterogeneity(loss: Any) -> Callable[..., diagnostics.Heterogeneity]:
    def measured(params: Any, batch: Any, model_state: Any, frozen: Any) -> diagnostics.Heterogeneity:
        def mean(params: Any) -> jax.Array:
            returned = loss(params, batch, None, **untrained_arguments(model_state, frozen))
            return mean_loss(losses_and_state(returned, model_state)[0], batch)

        return diagnostics.heterogeneity(jax.grad(mean)(params))

    return jax.jit(measured)
