"""What the trainers share: several optimizers in turn on one task, each on a schedule that decays fully."""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import optax
from absl import flags

from examples.shared import command, program_flags, terminal
from examples.shared.optimizers import Choice, averaged
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


def check_flags(
    own: program_flags.Flags,
    choose: Callable[[str], Choice],
    optimizers: flags.FlagHolder,
    learning_rate: flags.FlagHolder,
    *others: flags.FlagHolder,
) -> None:
    """Refuse unknown optimizers, a missing learning rate, and flags that affect none of the optimizers.

    Args:
        own: the program's flags; ``warmup`` and ``head_rate`` are checked too if it has them.
        choose: name → optimizer; raises a ValueError for an unknown name.
        optimizers: flag with the names of the optimizers.
        learning_rate: flag with the peak rate, for all optimizers that take one.
        *others: flags on which ``choose`` depends.
    """
    program_flags.check_each(choose, optimizers)
    program_flags.check(lambda x: x > 0, "must be above 0, or nothing would be trained", learning_rate)

    def chosen(names: Iterable[str]) -> Iterator[Choice]:
        for name in names:
            with contextlib.suppress(ValueError):  # reported already
                yield choose(name)

    def have_rates(values: dict[str, Any]) -> bool:
        for choice in chosen(values[optimizers.name]):
            choice.peak(values[learning_rate.name])
        return True

    program_flags.check_together(have_rates, "need a rate", own, optimizers, learning_rate, *others)
    for name, heeds in {
        learning_rate.name: lambda choice: not choice.searches,
        "warmup": lambda choice: not choice.searches,
        "head_rate": lambda choice: choice.scales_parts,
    }.items():
        if name not in own:
            continue

        def is_heeded(values: dict[str, Any], name: str = name, heeds: Callable = heeds) -> bool:
            choices = list(chosen(values[optimizers.name]))
            return own[name].using_default_value or not choices or any(map(heeds, choices))

        domain = f"--{name} needs an optimizer that takes a rate; the given ones find their own"
        program_flags.check_together(is_heeded, domain, own, optimizers, own[name], *others)


def average_flag(own: program_flags.Flags) -> None:
    """Define the flag for the average of the parameters that is evaluated."""
    text = 'Evaluate and save an average of the parameters: "ema:0.999", or "tail:0.2" for the last fifth.'
    holder = own.DEFINE_string("average", None, text)
    program_flags.check_each(lambda rule: averaged(optax.identity(), rule, 1), holder)


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
    """

    settings: training.Settings
    batch_size: int
    learning_rate: float | None
    warmup: float
    weight_decay: float
    output: Path
    resume: bool
    average: str | None = None

    @classmethod
    def of(cls, own: program_flags.Flags, *, log_every: int) -> "Plan":
        """The plan of a trainer's flags.

        Args:
            own: flags with the names of these attributes, and of the settings ``steps``, ``seed``,
                ``evaluate_every``, ``save_every`` and ``keep_best``, and that of :func:`average_flag`.
            log_every: number of steps between two logged losses.

        Raises:
            ValueError: the settings are refused.
        """
        settings = training.Settings(
            steps=own.steps,
            seed=own.seed,
            log_every=log_every,
            evaluate_every=own.evaluate_every,
            save_every=own.save_every,
            keep_best="loss" if own.keep_best else None,
            lower_is_better=True if own.keep_best else None,
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
        )

    def optimizer(
        self, choice: Choice, decay: Callable[[float], schedules.Shape], multipliers: Any
    ) -> tuple[optax.GradientTransformation, float | None]:
        """An optimizer on a schedule that decays to zero at the last step, and its peak rate.

        A line search finds its own rate; the schedule gives the share of it to take. A method that is meant for
        a constant rate has the warm-up alone.

        Args:
            choice: the optimizer.
            decay: peak → shape of the schedule after the warm-up.
            multipliers: multipliers of the rate, by parameter.
        """
        rate = choice.peak(self.learning_rate)
        if rate is None:
            shape = schedules.linear(1.0)
        else:
            after = schedules.constant if choice.constant_rate else decay
            shape = schedules.warm_up(after(rate), self.warmup)
        schedule = schedules.over_steps(shape, self.settings.steps)
        tx = choice.make(schedule, self.weight_decay, groups.no_decay(), multipliers)
        return tx if self.average is None else averaged(tx, self.average, self.settings.steps), rate

    def optimizers(
        self, choices: Iterable[Choice], decay: Callable[[float], schedules.Shape], multipliers: Any
    ) -> dict[str, tuple[optax.GradientTransformation, float | None]]:
        """Several optimizers by their names, for :meth:`train_each`.

        Args:
            choices: the optimizers.
            decay: see :meth:`optimizer`.
            multipliers: see :meth:`optimizer`.
        """
        return {choice.name: self.optimizer(choice, decay, multipliers) for choice in choices}

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
            settings={**settings, **self._average()},
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
    ) -> Iterator[tuple[str, Any, compare.Run]]:
        """Train with one optimizer after the other, and test each result.

        Args:
            chosen: {name: (optimizer, peak rate)}.
            task: the task.
            test: parameters → test metrics.
            identity: what decides the trajectories, apart from optimizer, rate and settings.
            layout: layout of the runs on a mesh; None for one device.

        Yields:
            Name, trained parameters and record of each run.
        """
        for name, (tx, rate) in chosen.items():
            with terminal.bar(name, self.batch_size) as progress:
                result = training.fit(
                    task,
                    tx,
                    self.settings,
                    self.output / name,
                    identity={**identity, "optimizer": name, "learning_rate": rate, **self._average()},
                    layout=layout,
                    resume=self.resume,
                    progress=progress,
                )
            seed, metrics = self.settings.seed, test(result.params)
            if not math.isfinite(metrics.get("loss", 0.0)):  # then the predictions come from NaN
                metrics = dict.fromkeys(metrics, math.nan)
            run = compare.Run.of(result, tx, optimizer=name, learning_rate=rate, seed=seed, test=metrics)
            yield name, result.params, run
