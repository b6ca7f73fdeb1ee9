"""What the trainers share: several optimizers in turn, on one task, each on a schedule that decays fully."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import optax

from examples import command
from examples.optimizers import Choice
from optimiz import compare, groups, schedules, training


def scheduled(
    choice: Choice,
    learning_rate: float | None,
    decay: Callable[[float], schedules.Shape],
    *,
    warmup: float,
    steps: int,
    weight_decay: float,
    multipliers: Any,
) -> tuple[optax.GradientTransformation, float | None]:
    """An optimizer on a schedule that decays to zero at the last step, and its peak rate.

    A line search finds its own rate; the schedule says what share of it is taken.

    Args:
        choice: the optimizer.
        learning_rate: the peak; None for the optimizer's own.
        decay: peak → shape of the schedule after the warm-up.
        warmup: share of the steps over which the rate rises from 0.
        steps: of the run.
        weight_decay: decoupled; biases and norms are left out.
        multipliers: of the rate, by parameter.
    """
    searches = choice.learning_rate is None
    rate = choice.learning_rate if searches or learning_rate is None else learning_rate
    shape = schedules.linear(1.0) if searches else schedules.warm_up(decay(rate), warmup)
    schedule = schedules.over_steps(shape, steps)
    return choice.make(schedule, weight_decay, groups.no_decay(), multipliers), rate


def train_each(
    chosen: Mapping[str, tuple[optax.GradientTransformation, float | None]],
    task: training.Task,
    test: Callable[[Any], Mapping[str, float]],
    settings: training.Settings,
    output: Path,
    *,
    identity: Mapping[str, Any],
    batch_size: int,
    resume: bool,
    layout: training.Layout | None = None,
) -> Iterator[tuple[str, Any, compare.Run]]:
    """Train with one optimizer after the other, and test what each has made.

    Args:
        chosen: name → optimizer and its peak rate.
        task: what to learn.
        test: parameters → test figures.
        settings: of every run.
        output: the directory; each run has one in it, by the optimizer's name.
        identity: what else decides the trajectories.
        batch_size: for the speed that is shown.
        resume: go on with the runs that are there.
        layout: of the runs on a mesh.

    Yields:
        Name, trained parameters and record of each run.
    """
    for name, (tx, rate) in chosen.items():
        run_identity = {**identity, "optimizer": name, "learning_rate": rate}
        with command.bar(name, batch_size) as progress:
            result = training.fit(
                task,
                tx,
                settings,
                output / name,
                identity=run_identity,
                layout=layout,
                resume=resume,
                progress=progress,
            )
        figures = test(result.params)
        run = compare.Run.of(result, tx, optimizer=name, learning_rate=rate, seed=settings.seed, test=figures)
        yield name, result.params, run
