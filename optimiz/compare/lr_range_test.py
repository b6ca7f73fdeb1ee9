"""The learning-rate range test: one short run whose rate rises by the same factor at every step.

At low rates nothing moves, then the loss falls, and at high rates it climbs or is no number any more. A tenth
of the rate at which the smoothed loss was least is a rate to begin with: the least lies at the edge of
divergence, and the rate of a whole run must be borne for longer than a step.

Source: Smith, arXiv 1506.01186, section 3.3; the tenth is that of fast.ai's ``lr_find``.

Departures: the test is a run of ``training.fit``, with its dropout and its batches, so what it finds is what
training will meet.
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
_EXPLODED = 4.0  # times the least so far
_BELOW_THE_LEAST = 10.0


@dataclasses.dataclass(frozen=True)
class RangeTest:
    """What a range test found.

    Attributes:
        learning_rates: of each update, ascending.
        losses: of the batch at each; the last may be NaN or infinite.
        smoothed: means of each loss and some before it.
        diverged_at: the first index from which the loss has exploded, or is not finite; None if it never did.
        suggested: a learning rate to begin with; None where the loss never fell.
        still_falling: whether the loss was least at the highest rate that was tried: a sweep beyond it may
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
        """Read a sweep.

        Args:
            learning_rates: > 0, ascending.
            losses: as many, the lower the better; of any sign.

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
        """Draw the loss against the learning rate, with what was found.

        Args:
            path: where to write; the suffix says the format (``.png``, ``.svg``).
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
            if shown:  # what comes after would flatten what came before
                low, high = min(0.0, *shown), max(0.0, *shown)
                axes.set_ylim(1.5 * low, 1.5 * high)
        axes.set(xscale="log", xlabel="learning rate", ylabel="training loss ↓")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
        save(picture, path, dpi=150)


def _bound(first: float, least: float) -> float:
    """Above which a loss has exploded; of one that is not positive, by what it fell through."""
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

    What is read is the training loss, which is the better the lower it is, whatever its sign.

    Args:
        task: what to learn.
        make: schedule of the learning rate → the optimizer, which must ask it for its rate.
        directory: of this run alone; empty or not there. Its checkpoint is deleted.
        low: the first rate, > 0.
        high: the last one, > ``low``.
        steps: updates, ≥ 2.
        seed: of the initial parameters and of dropout, ≥ 0.

    Raises:
        TypeError: an argument is not of its kind.
        ValueError: it is outside its domain, or the task or the optimizer cannot be trained, or never asks the
            schedule, so that its rate does not rise.
        RunError: the directory holds something.
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
    # The last of the steps, at x = (steps - 1) / steps, is to have the highest rate.
    exponent = math.log(high / low) * steps / (steps - 1)
    schedule = schedules.over_steps(lambda x: low * jnp.exp(exponent * x), steps)
    settings = training.Settings(steps=steps, seed=seed, log_every=max(1, steps // 10))
    unevaluated = dataclasses.replace(task, evaluate=None)
    identity = {"low": low, "high": high}
    asked = False

    def rising(count: Any) -> Any:
        nonlocal asked
        asked = True
        return schedule(count)

    tx = make(rising)
    checks.transformation("what make returns", tx)
    like = jax.eval_shape(lambda: initial_state(unevaluated, tx, seed))
    trace_step(StepSpec.of(unevaluated, tx, like, task.batches(0)))
    if not asked:
        raise ValueError(
            "make must return an optimizer whose learning rate is the schedule that it is given: this one "
            "never asks it, so that a sweep would say nothing"
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
