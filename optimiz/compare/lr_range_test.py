"""The learning-rate range test: one short run in which the rate grows by the same factor at every step.

At low rates the loss hardly changes, then it falls, and at high rates it rises or becomes NaN. A tenth of the
rate with the lowest smoothed loss is a good rate to start with: the minimum lies at the edge of divergence, and
a whole run must be stable for longer than a step.

Source: Smith, arXiv 1506.01186, section 3.3; the factor of ten is that of fast.ai's ``lr_find``.

Departures: the test is a run of ``training.fit``, with the same dropout and batches, so its result applies to
training.
"""

import dataclasses
import math
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

from optimiz import checks, schedules, training
from optimiz.compare.curves import running_mean
from optimiz.compare.pictures import save
from optimiz.training.compiled_step import trace_step
from optimiz.training.step import StepSpec
from optimiz.training.train_state import initial_state

_SMOOTHED = 0.1  # share of the run over which losses are averaged: batches differ by a factor of a few
_EXPLODED = 4.0  # times the lowest loss so far
_BELOW_THE_LEAST = 10.0


@dataclasses.dataclass(frozen=True)
class RangeTest:
    """The result of a range test.

    Attributes:
        learning_rates: rate of each update, ascending.
        losses: batch loss at each rate; the last may be NaN or infinite.
        smoothed: running mean of the losses.
        diverged_at: first index at which the loss has exploded or is not finite; None if there is none.
        suggested: a learning rate to start with; None if the loss never fell.
        still_falling: whether the loss was lowest at the highest rate; a sweep over higher rates may then
            suggest a higher one.
    """

    learning_rates: Sequence[float]
    losses: Sequence[float]
    smoothed: Sequence[float]
    diverged_at: int | None
    suggested: float | None
    still_falling: bool = False

    @classmethod
    def of(cls, learning_rates: Sequence[float], losses: Sequence[float]) -> "RangeTest":
        """Interpret a sweep.

        Args:
            learning_rates: rates > 0, ascending.
            losses: loss at each rate, of any sign; lower is better.

        Example:
            >>> found = RangeTest.of([1e-3, 1e-2, 1e-1, 1.0], [2.0, 1.0, 1.5, 9.0])
            >>> found.diverged_at, found.suggested
            (3, 0.001)
        """
        smoothed = running_mean(losses, _SMOOTHED)
        least, diverged_at = 0, None
        for i, loss in enumerate(smoothed):
            if not math.isfinite(losses[i]) or loss > _bound(smoothed[0], smoothed[least]):
                diverged_at = i
                break
            if loss < smoothed[least]:
                least = i
        suggested = learning_rates[least] / _BELOW_THE_LEAST if least else None
        falling = 0 < least == len(smoothed) - 1
        return cls(learning_rates, losses, smoothed, diverged_at, suggested, falling)

    def draw(self, path: str | os.PathLike[str]) -> None:
        """Plot the loss against the learning rate, with the suggested rate and the divergence.

        Args:
            path: file to write; the suffix gives the format (``.png``, ``.svg``).
        """
        picture = Figure(figsize=(7, 4.2), layout="constrained")
        axes = picture.subplots()
        axes.plot(self.learning_rates, self.losses, color="#0072B2", alpha=0.3, linewidth=0.8)
        axes.plot(self.learning_rates, self.smoothed, color="#0072B2", label="smoothed")
        if self.suggested is not None:
            falling = ", still falling at the highest rate" * self.still_falling
            axes.axvline(self.suggested, color="#009E73", label=f"suggested: {self.suggested:.2g}{falling}")
        if self.diverged_at is not None:
            rate = self.learning_rates[self.diverged_at]
            axes.axvline(rate, color="#D55E00", linestyle="--", label=f"diverged at {rate:.2g}")
            shown = [loss for loss in self.smoothed[: self.diverged_at] if math.isfinite(loss)]
            if shown:  # the losses after divergence would flatten the others
                low, high = min(0.0, *shown), max(0.0, *shown)
                axes.set_ylim(1.5 * low, 1.5 * high)
        axes.set(xscale="log", xlabel="learning rate", ylabel="training loss ↓")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
        save(picture, path, dpi=150)


def _bound(first: float, least: float) -> float:
    """The loss above which a run has exploded; if the lowest loss is not positive, based on how far it fell."""
    return _EXPLODED * least if least > 0 else least + (_EXPLODED - 1) * max(first - least, -least)


def lr_range_test(
    task: training.Task,
    make: Callable[[optax.Schedule], optax.GradientTransformation],
    directory: str | os.PathLike[str],
    *,
    low: float = 1e-7,
    high: float = 10.0,
    steps: int = 100,
    seed: int = 0,
) -> RangeTest:
    """Sweep the learning rate over one short run.

    Only the training loss is used. Lower is better, whatever its sign.

    Args:
        task: task to train on.
        make: schedule of the learning rate → optimizer, which must use the schedule.
        directory: directory of this run alone; empty or missing. Its checkpoint is deleted.
        low: first rate, > 0.
        high: last rate, > ``low``.
        steps: number of updates, ≥ 2.
        seed: seed of the initial parameters and of dropout, ≥ 0.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is outside its domain, the task or the optimizer cannot be trained, or the
            optimizer never calls the schedule, so that its rate does not rise.
        RunError: the directory is not empty.
    """
    checks.kinds(
        {
            "task": (task, training.Task, "a training.Task"),
            "make": (make, Callable, "a function, schedule → optimizer, such as optimiz.adamw"),
        }
    )
    checks.number("low", low, gt=0)
    checks.number("high", high, gt=low)
    checks.integer("steps", steps, ge=2)
    # The last step, at x = (steps - 1) / steps, has the highest rate.
    exponent = math.log(high / low) * steps / (steps - 1)
    schedule = schedules.over_steps(lambda x: low * jnp.exp(exponent * x), steps)
    settings = training.Settings(steps=steps, seed=seed, log_every=max(1, steps // 10))
    unevaluated = dataclasses.replace(task, evaluate=None)
    identity = {"low": low, "high": high}
    called = False

    def rising(count: Any) -> Any:
        nonlocal called
        called = True
        return schedule(count)

    tx = make(rising)
    checks.transformation("what make returns", tx)
    like = jax.eval_shape(lambda: initial_state(unevaluated, tx, seed))
    trace_step(StepSpec.of(unevaluated, tx, like, task.batches(0)))
    if not called:
        raise ValueError(
            "make must return an optimizer whose learning rate is the given schedule: this one never calls "
            "it, so a sweep would show nothing"
        )
    try:
        result = training.fit(unevaluated, tx, settings, directory, identity=identity)
    except training.RunExists as error:
        raise training.UnusableDirectory(
            f"{error.directory} holds a run: choose another directory for the range test, or delete that one"
        ) from None
    except training.Diverged as diverged:
        result = diverged.result
    shutil.rmtree(Path(directory).expanduser() / "checkpoints", ignore_errors=True)
    losses = [float(row["loss"]) for row in result.history]
    rates = np.asarray(jax.vmap(schedule)(jnp.arange(len(losses))))
    return RangeTest.of(rates.tolist(), losses)
