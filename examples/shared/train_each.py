"""What the trainers share: several optimizers in turn on one task, each on a schedule that decays fully."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import optax

from examples.shared import (
    command,
    program_flags,
    terminal,
    tracking,
    trained_parts,
    training_flags,
    warm_start,
)
from examples.shared.optimizers import Choice, averaged, clipped
from examples.shared.precisions import PRECISIONS, in_precision, with_state
from examples.shared.run_folders import MODEL
from optimiz import compare, groups, schedules, training

_T = TypeVar("_T")


def made_or_left_out(name: str, left_out: dict[str, str], make: Callable[[], _T]) -> _T | None:
    """Make a part of a report, such as a baseline or a picture; if that fails, keep the reason instead.

    Args:
        name: name of the part.
        left_out: {name: reason} of the parts that the report lacks; this part is added if it fails.
        make: function that makes the part.

    Returns:
        The part, or None.
    """
    try:
        return make()
    except Exception as error:  # of any kind: the report matters more than one of its parts
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        left_out[name] = f"{kind}{error}"
        print(compare.shown(f"warning: {name} is left out of the report: {left_out[name]}"), flush=True)
        return None


@dataclasses.dataclass(frozen=True)
class Plan:
    """How each optimizer is run.

    Attributes:
        settings: settings of every run; its length is in steps.
        batch_size: examples per update, for the speed that is shown.
        learning_rate: peak rate; None for each optimizer's default.
        warmup: share of the steps over which the rate rises from 0.
        weight_decay: decoupled weight decay; biases and norms are left out.
        output: directory of the report; each run has a directory in it, named after the optimizer.
        resume: whether to continue existing runs.
        average: rule of the average that is evaluated, see ``optimizers.averaged``; None for the last
            parameters.
        init: directory of the run whose parameters are the initial ones; None for those of the task.
        precision: name of the precision, see ``precisions.PRECISIONS``.
        state: name of the format of the optimizer's state, see ``precisions.STATES``.
        schedule: name of what follows the warm-up, see ``training_flags.SCHEDULES``.
        clip: largest norm of a gradient; None for any.
        report_to: trackers that are told of the runs, see ``tracking.TRACKERS``.
        freeze: what is not trained, see ``trained_parts.pattern``.
        layerwise_decay: factor of the rate for each layer below the head; None for none.
    """

    settings: training.Settings
    batch_size: int
    learning_rate: float | None
    warmup: float
    weight_decay: float
    output: Path
    resume: bool
    average: str | None = None
    init: str | None = None
    precision: str = "float32"
    state: str = "float32"
    schedule: str = "cosine"
    clip: float | None = None
    report_to: Sequence[str] = ()
    freeze: Sequence[str] = ()
    layerwise_decay: float | None = None

    @classmethod
    def of(cls, own: program_flags.Flags, examples: int, *, log_every: int) -> "Plan":
        """The plan of a trainer's flags.

        Args:
            own: flags that ``training_flags.define`` has defined.
            examples: number of training examples.
            log_every: number of steps between two logged losses.

        Raises:
            ValueError: the settings are refused.
        """
        settings = training.Settings(
            steps=training_flags.steps_of(own, examples),
            seed=own.seed,
            log_every=log_every,
            evaluate_every=own.evaluate_every,
            save_every=own.save_every,
            patience=own.patience,
            micro_batches=own.accumulate,
            noise_every=own.noise_every,
            profile=training_flags.profiled(own.profile),
            **training_flags.kept(own.keep),
        )
        return cls(
            settings=settings,
            batch_size=own.batch_size,
            learning_rate=own.learning_rate,
            warmup=own.warmup,
            weight_decay=own.weight_decay,
            output=Path(own.output),
            resume=own.resume,
            average=own.average,
            init=own.init,
            precision=own.precision,
            state=own.state,
            schedule=own.schedule,
            clip=own.clip,
            report_to=own.report_to or (),
            **training_flags.parts(own),
        )

    @property
    def decisive(self) -> dict[str, Any]:
        """What these flags say that decides a trajectory, by name."""
        return {
            "steps": self.settings.steps,
            "batch_size": self.batch_size,
            "seed": self.settings.seed,
            "warmup": self.warmup,
            "weight_decay": self.weight_decay,
            "precision": self.precision,
            "state": self.state,
            "schedule": self.schedule,
            "clip": self.clip,
            "accumulate": self.settings.micro_batches,
        } | {name: value for name, value in self._parts.items() if value}

    @property
    def _parts(self) -> dict[str, Any]:
        return {"freeze": list(self.freeze), "layerwise_decay": self.layerwise_decay}

    def parts(self, task: training.Task, multipliers: Callable[[Any], Any]) -> dict[str, str]:
        """Which parameters are trained, and how fast, if ``--freeze`` or ``--layerwise_decay`` is given.

        Args:
            task: the task.
            multipliers: see :meth:`optimizer`.

        Raises:
            ValueError: what is to be frozen is not there, or is everything.
        """
        if not any(self._parts.values()):
            return {}
        params = jax.eval_shape(task.init, jax.random.key(0))
        multipliers = trained_parts.multiplied(multipliers, self.layerwise_decay)
        return trained_parts.facts(params, self.freeze, multipliers)

    def begun(
        self, task: training.Task, identity: dict[str, Any], choices: Iterable[Choice]
    ) -> tuple[training.Task, dict[str, Any]]:
        """The task and the identity of its runs, in its precision, and from ``--init`` if that is given.

        The number of steps is part of the identity only if a run depends on it: any other may be resumed with
        more.

        Args:
            task: the task.
            identity: what decides the trajectories, see :meth:`train_each`; ``"label_names"`` and
                ``"vocabulary"``, if it has them, must be those of the run that is given.
            choices: the optimizers.

        Raises:
            ValueError: the parameters of that run mean something else, or have other shapes.
            RunError: there is no such run, or it has saved nothing.
        """
        if self.init is not None:
            task, identity = warm_start.begun(task, identity, self.init)
        averages_tail = self.average is not None and self.average.startswith("tail")
        # The evaluation at the end of the shorter run would count as one without a better value.
        if not averages_tail and self.settings.patience is None and all(map(self._holds_rate, choices)):
            identity = {name: value for name, value in identity.items() if name != "steps"}
        return trained_parts.without_gradients(PRECISIONS[self.precision].task(task), self.freeze), identity

    def _holds_rate(self, choice: Choice) -> bool:
        """Whether the rate of an optimizer is the same at every update, however many there are."""
        holds = choice.constant_rate or training_flags.SCHEDULES[self.schedule] is schedules.constant
        return holds and self.warmup == 0 and not choice.searches

    def optimizer(self, choice: Choice, multipliers: Any) -> tuple[optax.GradientTransformation, float | None]:
        """An optimizer on its schedule, and its peak rate.

        A line search finds its own rate; the schedule gives the share of it to take. A method that is meant for
        a constant rate has the warm-up alone.

        Args:
            choice: the optimizer.
            multipliers: multipliers of the rate, by parameter.
        """
        rate = choice.peak(self.learning_rate)
        if rate is None:
            shape = schedules.linear(1.0)
        else:
            after = schedules.constant if choice.constant_rate else training_flags.SCHEDULES[self.schedule]
            shape = schedules.warm_up(after(rate), self.warmup)
        # A rate that holds is bound to one step: a step in which their number appears cannot have more of them.
        schedule = schedules.over_steps(shape, 1 if self._holds_rate(choice) else self.settings.steps)
        multipliers = trained_parts.multiplied(multipliers, self.layerwise_decay)
        tx = with_state(choice.make(schedule, self.weight_decay, groups.no_decay(), multipliers), self.state)
        tx = tx if self.clip is None else clipped(tx, self.clip)
        tx = trained_parts.freezing(in_precision(tx, self.precision, self.settings.seed), self.freeze)
        return tx if self.average is None else averaged(tx, self.average, self.settings.steps), rate

    def optimizers(
        self, choices: Iterable[Choice], multipliers: Any
    ) -> dict[str, tuple[optax.GradientTransformation, float | None]]:
        """Several optimizers by their names, for :meth:`train_each`.

        Args:
            choices: the optimizers.
            multipliers: see :meth:`optimizer`.
        """
        return {choice.name: self.optimizer(choice, multipliers) for choice in choices}

    def new_record(
        self,
        program: str,
        title: str,
        *,
        task: Mapping[str, Any],
        settings: Mapping[str, Any],
        baseline: str,
        compute: Callable[[], Mapping[str, Any]],
        test_examples: int,
        metric: str,
    ) -> compare.Record:
        """The record before the runs: computes the baseline, and checks that a report can be written.

        Args:
            program: name of the trainer.
            title: heading of the report.
            task: description of the task, for the report.
            settings: settings of all runs, for the report.
            baseline: name of the baseline, for the report if it is left out.
            compute: function that computes the baselines; if it fails, the report says why.
            test_examples: number of examples behind each test metric.
            metric: name of the test metric that ranks the optimizers.

        Raises:
            ValueError: no report could be written for such a record.
        """
        print("computing the baseline, without any optimizer", flush=True)
        left_out: dict[str, str] = {}
        baselines = made_or_left_out(baseline, left_out, compute)
        record = compare.Record(
            title=title,
            command=command.typed(program),
            task=task,
            settings={**settings, **self._average(), **({"init": self.init} if self.init else {})},
            baselines=baselines or {},
            test_examples=test_examples,
            runs=[],
            left_out=left_out,
        )
        compare.check_report(record, self.output, metric=metric)
        return record

    def _average(self) -> dict[str, str]:
        """The average as a setting, if there is one."""
        return {} if self.average is None else {"average": self.average}

    def report(self, record: compare.Record, *, metric: str) -> None:
        """Write the report, and show its summary and its path.

        Args:
            record: the record, with its runs.
            metric: name of the test metric that ranks the optimizers.
        """
        path = compare.write_report(record, self.output, metric=metric)
        terminal.show(compare.summary(record, metric=metric))
        print(f"\nreport: {path}", flush=True)

    def train_each(
        self,
        chosen: Mapping[str, tuple[optax.GradientTransformation, float | None]],
        task: training.Task,
        test: Callable[[Any], Mapping[str, float]],
        identity: Mapping[str, Any],
        layout: training.Layout | None = None,
        save: Callable[[Path, Any], None] | None = None,
        details: Callable[[Any], Mapping[str, Any]] | None = None,
    ) -> Iterator[tuple[str, Any, compare.Run]]:
        """Train with one optimizer after the other, and test each result.

        Args:
            chosen: {name: (optimizer, peak rate)}.
            task: the task.
            test: parameters → test metrics.
            identity: what decides the trajectories, apart from optimizer, rate and settings.
            layout: layout of the runs on a mesh; None for one device.
            save: (directory, parameters) → a model that other programs read, in the directory ``model`` of the
                run; None for the checkpoints alone.
            details: parameters → what else the record of a run says of them, as plain JSON.

        Yields:
            Name, parameters and record of each run. The parameters are those that ``--keep`` names.
        """
        for name, (tx, rate) in chosen.items():
            decisive = {**identity, "optimizer": name, "learning_rate": rate, **self._average()}
            with (
                terminal.bar(name, self.batch_size) as show,
                tracking.tracked(self.report_to, self.output, name, decisive, show) as progress,
            ):
                result = training.fit(
                    task,
                    tx,
                    self.settings,
                    self.output / name,
                    identity=decisive,
                    layout=layout,
                    resume=self.resume,
                    progress=progress,
                )
            params, kept = self._kept(result, self.output / name)
            seed, metrics = self.settings.seed, test(params)
            more = {} if details is None else dict(details(params))
            if not math.isfinite(metrics.get("loss", 0.0)):  # then the predictions come from NaN
                metrics, more = dict.fromkeys(metrics, math.nan), {}
            if save is not None and training.is_first():
                save(self.output / name / MODEL, params)
            about = {
                "optimizer": name,
                "learning_rate": rate,
                "seed": seed,
                "test": metrics,
                "extra": kept | more,
            }
            yield name, params, compare.Run.of(result, tx, **about)

    def _kept(self, result: training.Result, directory: Path) -> tuple[Any, dict[str, Any]]:
        """The parameters to test, and what is to be said of them in the record of the run."""
        if result.best is None:
            if (metric := self.settings.keep_best) is not None:
                said = f"{metric} was never finite: the last parameters are tested and saved"
                print(f"warning: {directory.name}: {said}", flush=True)
            return result.params, {}
        kept = {**result.best, "stopped_early": result.stopped_early, "patience": self.settings.patience}
        if result.stopped_early:
            print(
                f"{directory.name} stopped early, after {result.steps} of {self.settings.steps} updates",
                flush=True,
            )
        params = training.load_params(directory, "best", like=result.params)
        return params, {"kept": kept | {"of_steps": self.settings.steps}}
