"""The runs of a comparison: every arm from every seed, each on its own clock.

Each run has a directory of its own, in which ``training.fit`` works, and ends as ``result.json`` there. A
matrix that is stopped, or killed, goes on where it was: what is finished is read, what was begun is resumed,
and the result is the same. Checkpoints of a finished run are deleted.

    <directory>/<arm>/seed_<n>/result.json      the finished run
    <directory>/<arm>/seed_<n>/run.json …       as written by ``training.fit``

From one seed, all arms begin with the same parameters and see the same batches under the same dropout; this is
checked, run by run, by a fingerprint, but for arms that adapt the task. A run that diverges is kept as what it
is, and the others go on.
"""

import dataclasses
import functools
import hashlib
import logging
import math
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from optimiz import checks, diagnostics, training
from optimiz.compare.directions import lower_is_better as is_lower_better
from optimiz.compare.fields import check_fields
from optimiz.compare.json_file import TornRecord
from optimiz.compare.run import Run
from optimiz.training.compiled_step import trace_step
from optimiz.training.methods.methods import PLAIN
from optimiz.training.settings import description
from optimiz.training.step import StepSpec
from optimiz.training.storage.run_directory import CHECKPOINTS, METRICS, TIMINGS
from optimiz.training.task import beside, losses_and_state, mean_loss
from optimiz.training.train_state import check_state, initial_state, keys

_RESULT = "result.json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_ASK = "lower_is_better=[{0!r}] or higher_is_better=[{0!r}], here and in the Record"
_FINGERPRINTED = 3  # batches, enough to tell two orders of the data apart

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Arm:
    """One optimizer at one learning rate.

    Args:
        name: of the optimizer; letters, digits, ``_``, ``.`` and ``-``.
        learning_rate: the peak of its schedule, > 0; None where it finds its own.
        make: builds it, with a schedule that decays fully at the end of the run.
        methods: which layers and which examples are trained on.
        adapt: makes of the common task what the methods begin with, such as a shallower model or batches of
            candidates; None for the task as it is.
        extra: plain JSON that describes the arm, such as ``{"state": "int8"}``; part of the record of its runs,
            and of what decides their trajectories.

    Raises:
        TypeError: the name is no text, the learning rate no number, ``make`` or ``adapt`` no function, or
            ``extra`` not plain JSON.
        ValueError: the name cannot be that of a directory, or the learning rate is not positive and finite.
    """

    name: str
    learning_rate: float | None
    make: Callable[[], optax.GradientTransformation]
    methods: training.Methods = PLAIN
    adapt: Callable[[training.Task], training.Task] | None = None
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        function = Callable, "a function that builds the optimizer, such as lambda: optimiz.adamw(1e-3)"
        adapts = (Callable, type(None)), "a function of the common task, or None"
        checks.kinds(
            {
                "name": (self.name, str, "a text"),
                f"make of {self.name}": (self.make, *function),
                f"adapt of {self.name}": (self.adapt, *adapts),
            }
        )
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"name must be letters, digits, '_', '.' and '-', got {self.name!r}")
        check_fields({f"extra of {self.name}": self.extra}, {f"extra of {self.name}": Mapping[str, Any]})
        if self.learning_rate is not None:
            checks.number(f"learning_rate of {self.name}", self.learning_rate, gt=0)

    def __str__(self) -> str:
        return self.name if self.learning_rate is None else f"{self.name} {float(self.learning_rate)!r}"


@dataclasses.dataclass(frozen=True)
class MatrixProgress:
    """How far a matrix has come; as a string, one line.

    Args:
        run: 1-based number of the run under way.
        runs: how many there are.
        arm: of the run.
        seed: of the run.
        within: how far the run itself has come.
        share: of the whole matrix that is done, in [0, 1].
        seconds_left: until all is done, at the pace so far.
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
    figure: str,
    lower_is_better: Sequence[str] = (),
    higher_is_better: Sequence[str] = (),
    reference: training.Reference | None = None,
    test: Callable[[Any], Mapping[str, float]] | None = None,
    extra: Callable[[Arm, int, training.Result], Mapping[str, Any]] | None = None,
    progress: Callable[[MatrixProgress], object] | None = None,
) -> list[Run]:
    """Run every arm from every seed, or go on with what is there.

    Before the first run, each optimizer's step is traced and the figure evaluated once, so that what cannot be
    run or ranked is refused before hours are spent. A ``Record`` that is made before too, without its runs, and
    given to ``check_report``, refuses there what the report cannot be made of.

    Args:
        arms: at least one; no two of one name and rate.
        seeds: at least one; no two are the same.
        task_of: seed → task; a pure function. The seed decides the order of the data. All tasks have the same
            ``loss`` (one function, for which a step is compiled once), and all evaluate.
        settings: of every run; its seed is replaced.
        directory: of this matrix alone; made if it is missing.
        identity: what else decides the trajectories, as in ``training.fit``.
        figure: name of the figure by which runs will be ranked.
        lower_is_better: of figures that are the better the lower they are, as in ``Record``. Well-known names
            such as ``"loss"`` and ``"mae"`` need not be among them.
        higher_is_better: of those that are the better the higher.
        reference: what the work costs, where the settings name a budget.
        test: parameters → final figures on examples that no choice has seen, given the model state as
            ``evaluate`` is; None for the figures of ``evaluate``.
        extra: (arm, seed, result) → more for the record of a run that has just ended, as plain JSON. The result
            of a run that diverged is as it was then.
        progress: called at every look of every run.

    Returns:
        The runs, in the order of the arms, those of one arm in the order of the seeds.

    Raises:
        TypeError: an argument is not of its kind.
        ValueError: there are no arms or seeds, or one is there twice; a task or an optimizer cannot be trained,
            with the arm and the reason; ``evaluate`` or ``test`` gives no such figure, or what is no number; it
            is not known which way the figure is better; a finished run is of another schema; or from one seed
            two runs would not begin alike.
        RunError: a run can neither begin nor go on, for another reason than that it diverged.
        Preempted: SIGTERM, SIGINT or SIGHUP came in, and the run under way is saved.
    """
    checks.kinds(
        {
            "arms": (arms, Sequence, "a list of compare.Arm"),
            "seeds": (seeds, Sequence, "a list of integers"),
            "task_of": (task_of, Callable, "a function, seed → training.Task"),
            "settings": (settings, training.Settings, "a training.Settings"),
            "identity": (identity, Mapping, "a mapping of what decides the runs, such as {'data': 'mnist'}"),
            "test": (test, (Callable, type(None)), "a function, parameters → figures by name, or None"),
            "extra": (extra, (Callable, type(None)), "a function, (arm, seed, result) → plain JSON, or None"),
        }
    )
    checks.kinds({f"arms[{i}]": (arm, Arm, "a compare.Arm") for i, arm in enumerate(arms)})
    is_lower_better(figure, lower_is_better, higher_is_better, ask=_ASK.format(figure))
    _distinct("arms", [str(arm) for arm in arms])
    _distinct("seeds", [str(seed) for seed in seeds])
    for seed in seeds:
        checks.integer("each seed", seed, ge=0)
    path = Path(directory).expanduser()
    matrix = _Matrix(task_of, settings, path, identity, figure, reference, test, extra, progress)
    there = [[matrix.finished(arm, seed) for seed in seeds] for arm in arms]
    matrix.total = len(arms) * len(seeds)
    matrix.missing = sum(run is None for found in there for run in found)
    if matrix.missing:
        matrix.preflight(arms, seeds[0])
    runs: list[Run] = []
    begun: dict[int, Run] = {}
    for arm, found in zip(arms, there, strict=True):
        tx = arm.make()
        for seed, run in zip(seeds, found, strict=True):
            runs.append(matrix.run(arm, tx, seed, number=len(runs) + 1) if run is None else run)
            first = begun.setdefault(seed, runs[-1]) if arm.adapt is None else runs[-1]
            if first.fingerprint != runs[-1].fingerprint:
                raise ValueError(
                    f"task_of must be a pure function: from seed {seed}, {arm} does not begin with the "
                    f"parameters and batches that {first.optimizer} at {first.learning_rate} began with"
                )
    return runs


@dataclasses.dataclass
class _Matrix:
    """What all runs share.

    Args:
        figures: names of the final figures.
        total: number of runs.
        missing: those that this process has to make.
        done: those that it has made.
        since: when it began, by a monotonic clock.
    """

    task_of: Callable[[int], training.Task]
    settings: training.Settings
    directory: Path
    identity: Mapping[str, Any]
    figure: str
    reference: training.Reference | None
    test: Callable[[Any], Mapping[str, float]] | None
    extra: Callable[[Arm, int, training.Result], Mapping[str, Any]] | None
    progress: Callable[[MatrixProgress], object] | None
    figures: Sequence[str] = ()
    total: int = 0
    missing: int = 0
    done: int = 0
    since: float = dataclasses.field(default_factory=time.monotonic)

    def path(self, arm: Arm, seed: int) -> Path:
        return self.directory / _directory(str(arm)) / f"seed_{seed}"

    def settings_of(self, seed: int) -> training.Settings:
        return dataclasses.replace(self.settings, seed=seed)

    def task(self, arm: Arm, seed: int) -> training.Task:
        task = self.task_of(seed)
        return task if arm.adapt is None else arm.adapt(task)

    def identity_of(self, arm: Arm) -> dict[str, Any]:
        identity = dict(self.identity) | {"optimizer": arm.name, "learning_rate": arm.learning_rate}
        return identity | ({"extra": dict(arm.extra)} if arm.extra else {})

    def finished(self, arm: Arm, seed: int) -> Run | None:
        """The run that is there; None if there is none, or none that is whole."""
        path = self.path(arm, seed)
        if not (path / _RESULT).exists():
            return None
        prices = None if self.reference is None else self.reference.prices()
        described = description(self.settings_of(seed), self.identity_of(arm), prices, arm.methods)
        with training.claimed(path, described, resume=True):  # refuses a run with other settings
            try:
                run = Run.read(path / _RESULT)
            except TornRecord as error:
                _log.warning("%s: the run is made again", error)
                _begin_again(path)
                return None
            shutil.rmtree(path / CHECKPOINTS, ignore_errors=True)
        return run

    def preflight(self, arms: Sequence[Arm], seed: int) -> None:
        """Refuse what cannot be run or ranked."""
        task = self.task_of(seed)
        checks.kinds({f"task_of({seed})": (task, training.Task, "a training.Task")})
        if task.evaluate is None:
            raise ValueError("the task must evaluate, or there is nothing to compare")
        price = None if self.reference is None else self.reference.seconds
        budget, steps = self.settings.budget, self.settings.steps
        for arm in {arm.name: arm for arm in arms}.values():
            its_task, methods = self.task(arm, seed), arm.methods
            try:
                tx = arm.make()
                checks.transformation("what make() returns", tx)
                start = functools.partial(initial_state, its_task, tx, seed, budget, methods.selection)
                like = jax.eval_shape(start)
                check_state(like)
                trace_step(StepSpec.of(its_task, tx, like, its_task.batches(0), price, methods, steps))
            except (TypeError, ValueError) as error:
                raise ValueError(f"{arm} cannot be trained on this task: {error}") from error
        params, model_state = _untrained(task, seed)
        given = {"evaluate": task.evaluate} | ({} if self.test is None else {"test": self.test})
        for name, figures_of in given.items():
            figures = figures_of(params, **beside(model_state))
            try:
                self.figures = list({figure: float(value) for figure, value in figures.items()})
            except (AttributeError, TypeError, ValueError):
                raise ValueError(f"{name} must return numbers by name, got {figures!r}") from None
            if self.figure not in self.figures:
                raise ValueError(f"{name} gives no figure {self.figure!r}; it gives {', '.join(self.figures)}")

    def run(self, arm: Arm, tx: optax.GradientTransformation, seed: int, *, number: int) -> Run:
        path, task, settings = self.path(arm, seed), self.task(arm, seed), self.settings_of(seed)
        fingerprint, measured = _beginning(task, seed)
        evaluate = self.test or task.evaluate
        assert evaluate is not None  # see preflight
        diverged_at = None
        try:
            result = training.fit(
                task,
                tx,
                settings,
                path,
                identity=self.identity_of(arm),
                reference=self.reference,
                methods=arm.methods,
                resume=True,
                progress=self.watch(arm, seed, number),
            )
            test = evaluate(result.params, **beside(result.model_state))
        except training.Diverged as diverged:
            _log.warning("%s, seed %d, has diverged: %s", arm, seed, diverged)
            result, diverged_at = diverged.result, diverged.step
            test = dict.fromkeys(self.figures, math.nan)
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
            extra=dict(arm.extra) | dict(more),
        )
        run.write(path / _RESULT)
        shutil.rmtree(path / CHECKPOINTS, ignore_errors=True)
        self.done += 1
        return run

    def watch(self, arm: Arm, seed: int, number: int) -> Callable[[training.Progress], None]:
        """What a run is to call at every look."""

        def watch(within: training.Progress) -> None:
            if self.progress is None:
                return
            made = self.done + within.share
            left = (time.monotonic() - self.since) * (self.missing - made) / made
            share = (self.total - self.missing + made) / self.total
            self.progress(MatrixProgress(number, self.total, arm, seed, within, share, left))

        return watch


def _begin_again(path: Path) -> None:
    """Forget a run whose result is of no use; the result goes last, so that this can be done again."""
    if not (path / CHECKPOINTS).exists():  # else it goes on from the newest
        for name in (TIMINGS, METRICS, _RESULT):
            (path / name).unlink(missing_ok=True)


def _distinct(name: str, values: Sequence[str]) -> None:
    if not values:
        raise ValueError(f"{name} must hold at least one, got none")
    for value in values:
        if values.count(value) > 1:
            raise ValueError(f"{name} must be different from each other, got {value} twice")
    directories: dict[str, str] = {}
    for value in values:  # some file systems do not tell A from a
        other = directories.setdefault(_directory(value).casefold(), value)
        if other != value:
            raise ValueError(f"{name} must differ in more than case and spaces, got {other!r} and {value!r}")


def _directory(name: str) -> str:
    return name.replace(" ", "_")


def _untrained(task: training.Task, seed: int) -> tuple[Any, Any]:
    """The initial parameters and the model state beside them, None for a model without."""
    key = keys(seed)[0]
    return task.init(key), None if task.model_state is None else task.model_state(key)


def _beginning(task: training.Task, seed: int) -> tuple[str, dict[str, float]]:
    """A fingerprint of what a run begins with, and how unequal the blocks of its first gradient are.

    The one is the SHA-256 of the initial parameters, the key of the dropout, the first batches and, if there is
    one, the model state; the other is measured without dropout.
    """
    params, model_state = _untrained(task, seed)
    run_key = keys(seed)[1]
    batches = [dict(task.batches(step)) for step in range(_FINGERPRINTED)]
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves((params, jax.random.key_data(run_key), batches, model_state)):
        digest.update(np.asarray(leaf).tobytes())
    measured = _first_heterogeneity(task.loss)(params, jax.device_put(batches[0]), model_state)._asdict()
    figures = {name: float(x) for name, x in measured.items() if name not in ("norm", "rms")}
    return digest.hexdigest(), figures


# As in training.step: the seeds share it, and it keeps the data alive that the loss refers to.
@functools.lru_cache(maxsize=1)
def _first_heterogeneity(loss: Any) -> Callable[[Any, Any, Any], diagnostics.Heterogeneity]:
    def measured(params: Any, batch: Any, model_state: Any) -> diagnostics.Heterogeneity:
        def mean(params: Any) -> jax.Array:
            returned = loss(params, batch, None, **beside(model_state))
            return mean_loss(losses_and_state(returned, model_state)[0], batch)

        return diagnostics.heterogeneity(jax.grad(mean)(params))

    return jax.jit(measured)
