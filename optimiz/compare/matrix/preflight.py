"""Checks before the first run of a matrix, so that no hours are spent on runs that cannot be made or ranked."""

import dataclasses
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

from optimiz import checks, training
from optimiz.compare.arm import Arm, directory_name
from optimiz.compare.directions import lower_is_better as is_lower_better
from optimiz.compare.matrix.beginning import untrained
from optimiz.compare.matrix.halving import check_halving
from optimiz.training.at_rate import AtRate
from optimiz.training.run_plan import RunPlan
from optimiz.training.task import untrained_arguments

_ASK = "give lower_is_better=[{0!r}] or higher_is_better=[{0!r}], here and to the Record"

_log = logging.getLogger(__name__)


class Preflight(NamedTuple):
    """What the checks found out.

    Attributes:
        metrics: names of the final metrics.
        sharing: name and ``id(make)`` of the arms whose compiled step takes the learning rate as an argument.
    """

    metrics: Sequence[str] = ()
    sharing: Collection[tuple[str, int]] = ()

    def shares(self, arm: Arm) -> bool:
        """Whether the compiled step of an arm, or of one like it at another rate, takes the rate."""
        return _step_of(arm) in self.sharing


def check_arguments(
    arms: Any,
    seeds: Any,
    task_of: Any,
    settings: Any,
    identity: Any,
    metric: Any,
    lower_is_better: Any,
    higher_is_better: Any,
    test: Any,
    extra: Any,
    extensions: Any,
    noise_batches: Any,
    halving: Any,
) -> None:
    """Check the arguments of ``run_matrix`` without computing anything.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: there are no arms or seeds, one is given twice, arms of an optimizer differ in the names of
            their axes, the metric has no known direction, or ``extensions``, ``noise_batches`` or ``halving``
            is outside its domain.
    """
    checks.kinds(
        {
            "arms": (arms, Sequence, "a list of compare.Arm"),
            "seeds": (seeds, Sequence, "a list of integers"),
            "task_of": (task_of, Callable, "a function, seed → training.Task"),
            "settings": (settings, training.Settings, "a training.Settings"),
            "identity": (identity, Mapping, "a mapping of what decides the runs, such as {'data': 'mnist'}"),
            "test": (test, (Callable, type(None)), "a function, parameters → metrics by name, or None"),
            "extra": (extra, (Callable, type(None)), "a function, (arm, seed, result) → plain JSON, or None"),
        }
    )
    checks.kinds({f"arms[{i}]": (arm, Arm, "a compare.Arm") for i, arm in enumerate(arms)})
    is_lower_better(metric, lower_is_better, higher_is_better, ask=_ASK.format(metric))
    _check_distinct("arms", [str(arm) for arm in arms])
    axes: dict[str, list[str]] = {}
    for arm in arms:
        if axes.setdefault(arm.name, sorted(arm.axes)) != sorted(arm.axes):
            raise ValueError(
                f"all arms of {arm.name} must have the same axes, got {axes[arm.name]} and {sorted(arm.axes)}"
            )
    _check_distinct("seeds", [str(seed) for seed in seeds])
    for seed in seeds:
        checks.integer("each seed", seed, ge=0)
    checks.integer("extensions", extensions, ge=0)
    checks.integer("noise_batches", noise_batches, ge=0)
    if noise_batches == 1:
        raise ValueError("noise_batches must be 0, or at least 2 to show any noise, got 1")
    check_halving(halving, settings.budget)


def _check_distinct(name: str, values: Sequence[str]) -> None:
    if not values:
        raise ValueError(f"{name} must have at least one entry, got none")
    for value in values:
        if values.count(value) > 1:
            raise ValueError(f"{name} must all be different, got {value} twice")
    directories: dict[str, str] = {}
    for value in values:  # some file systems do not tell A from a
        other = directories.setdefault(directory_name(value).casefold(), value)
        if other != value:
            raise ValueError(f"{name} must differ in more than case and spaces, got {other!r} and {value!r}")


def prices_by_optimizer(
    reference: training.Reference | Mapping[str, training.Reference] | None, arms: Sequence[Arm]
) -> dict[str, training.Reference | None]:
    """The prices that each optimizer is charged, by its name; see ``run_matrix``.

    Raises:
        TypeError: the prices of an optimizer are not a ``training.Reference``.
        ValueError: an optimizer has none.
    """
    names = [arm.name for arm in arms]
    if not isinstance(reference, Mapping):
        return dict.fromkeys(names, reference)
    if missing := sorted({*names} - reference.keys()):
        raise ValueError(f"reference must have the prices of every optimizer, got none of {', '.join(missing)}")
    checks.kinds(
        {
            f"reference[{name!r}]": (reference[name], training.Reference, "a training.Reference")
            for name in names
        }
    )
    return {name: reference[name] for name in names}


def preflight(
    arms: Sequence[Arm],
    task_of: Callable[[int], training.Task],
    settings: training.Settings,
    reference: Mapping[str, training.Reference | None],
    test: Callable[..., Mapping[str, float]] | None,
    metric: str,
) -> Preflight:
    """Trace every optimizer's step, and evaluate an untrained model.

    Args:
        arms: arms of the matrix.
        task_of: seed → task.
        settings: settings of one of the runs, with which this is tried.
        reference: prices of the work, by the name of the optimizer; needed under a budget.
        test: as in ``run_matrix``.
        metric: name of the metric by which runs will be ranked.

    Raises:
        TypeError: ``task_of`` does not return a task.
        ValueError: a task or an optimizer cannot be trained (the message names the arm and the reason), or
            ``evaluate`` or ``test`` does not return numbers by name, with the metric among them.
    """
    task = task_of(settings.seed)
    checks.kinds({f"task_of({settings.seed})": (task, training.Task, "a training.Task")})
    if task.evaluate is None:
        raise ValueError("the task must have an evaluate function, or there is nothing to compare")
    return Preflight(
        sharing=_sharing(arms, task, settings, reference),
        metrics=_metrics(
            task, settings.seed, {"evaluate": task.evaluate} | ({"test": test} if test else {}), metric
        ),
    )


def _sharing(
    arms: Sequence[Arm],
    task: training.Task,
    settings: training.Settings,
    reference: Mapping[str, training.Reference | None],
) -> set[tuple[str, int]]:
    """Check that each arm can be trained; return those whose compiled step takes the rate as an argument."""
    alike: dict[tuple[str, int], list[Arm]] = {}
    for arm in arms:
        alike.setdefault(_step_of(arm), []).append(arm)
    sharing = set()
    for step, group in alike.items():
        for arm in group:
            try:
                tx = arm.optimizer()
                checks.transformation("what make returns", tx)
                prices = reference[arm.name]
                plan = RunPlan(arm.task(task), tx, settings, prices, arm.methods, layout=None)
                if arm is group[-1] and _traces_at_any_rate(plan, group):
                    sharing.add(step)
            except (TypeError, ValueError) as error:
                raise ValueError(f"{arm} cannot be trained on this task: {error}") from error
    return sharing


def _step_of(arm: Arm) -> tuple[str, int]:
    """What arms have in common that differ in their rates alone; ``make`` need not be hashable."""
    return arm.name, id(arm.make)


def _traces_at_any_rate(plan: RunPlan, arms: Sequence[Arm]) -> bool:
    """Whether the step can be traced with the learning rate as an argument, not only for a given rate.

    Args:
        plan: plan for a run of the last arm.
        arms: arms with the same ``make``.

    Raises:
        ValueError: the step cannot be traced for a given rate either.
    """
    plan.check()
    arm, reason = arms[-1], None
    if arm.learning_rate is not None:
        try:
            hash(arm.make)
            dataclasses.replace(plan, at_rate=AtRate.of(arm.of_rate(), arm.learning_rate)).trace()
            return True
        except Exception as error:  # of any kind: without a traced rate it may not occur
            reason = error
    plan.trace()
    if reason is not None and len(arms) > 1:
        message, *_ = str(reason).splitlines() or [""]
        _log.warning(
            "%s is compiled for each of its %d learning rates, because make needs the value of the rate: %s",
            arm.name,
            len(arms),
            message,
        )
    return False


def _metrics(
    task: training.Task, seed: int, given: Mapping[str, Callable[..., Mapping[str, float]]], metric: str
) -> list[str]:
    """Names of the final metrics."""
    params, model_state, frozen = untrained(task, seed)
    names: list[str] = []
    for name, metrics_of in given.items():
        metrics = metrics_of(params, **untrained_arguments(model_state, frozen))
        try:
            names = list({key: float(value) for key, value in metrics.items()})
        except (AttributeError, TypeError, ValueError):
            raise ValueError(f"{name} must return numbers by name, got {metrics!r}") from None
        if metric not in names:
            raise ValueError(f"{name} does not return the metric {metric!r}; it returns {', '.join(names)}")
    return names
