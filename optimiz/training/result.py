"""What a run returns, the progress it reports, and the error that ends a run that has diverged."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from optimiz.training.errors import RunError


@dataclasses.dataclass(frozen=True)
class Result:
    """What a finished run returns.

    Args:
        params: the trained parameters.
        history: the rows of ``metrics.jsonl``. An update has ``{"step", "loss", "gradient_norm"}``, where step
            is its 0-based index, and the scalars of the optimizer's state, such as ``"learning_rate"``; an
            evaluation has ``{"steps", "evaluation"}``, where steps is the number of updates before it. Under a
            budget both have ``"fraction"``, the share of the budget spent before. If not all layers are on at
            every step, an update has ``"active_layers"``; if examples are selected, it has ``"looks"``, the
            number of forward passes over candidates so far, counted as passes over a step's batch.
        steps: number of updates.
        seconds: time spent on updates and their batches, including earlier sessions, and excluding
            compilation, evaluations and saves.
        compile_seconds: time that this process has spent on tracing and compiling.
        reference_seconds: reference time charged for the updates; None without a budget.
        temporary_bytes: the most device memory that a step needs besides its state and its batch, as planned by
            the compiler; None if the compiler does not report it.
        model_state: the final state of the model, if the task has a model state.
        best: the best evaluation by ``Settings(keep_best=)``: ``{"metric", "value", "steps"}``, where steps is
            the number of updates before it. Its parameters are ``load_params(directory, "best")``. None without
            ``keep_best``, or if the metric was never finite.
        stopped_early: whether ``Settings(patience=)`` has ended the run.
    """

    params: Any
    history: list[dict[str, Any]]
    steps: int
    seconds: float
    compile_seconds: float
    reference_seconds: float | None = None
    temporary_bytes: int | None = None
    model_state: Any = None
    best: Mapping[str, Any] | None = None
    stopped_early: bool = False

    def __repr__(self) -> str:
        rows = {name: row for row in self.history for name in ("loss", "evaluation") if name in row}  # the last
        metrics = {"loss": rows["loss"]["loss"]} if "loss" in rows else {}
        metrics |= rows["evaluation"]["evaluation"] if "evaluation" in rows else {}
        shown = "".join(f", {name} {value:.4g}" for name, value in metrics.items())
        parameters = sum(leaf.size for leaf in jax.tree.leaves(self.params))
        return f"<Result of {self.steps} steps, {self.seconds:.1f} s: {parameters} parameters{shown}>"


class Diverged(RunError):
    """The loss is no longer finite, and the run cannot continue.

    A run ends with the first step whose loss or gradient is not finite; under an optimizer that skips such
    steps, as ``optimiz.guard`` and ``optax.apply_if_finite`` do, with the step at which that one gives up.
    Nothing is saved after it: the newest checkpoint holds a good state.

    Attributes:
        step: 0-based index of the update that ended the run.
        result: the run up to and including that update; its parameters are useless.
    """

    def __init__(self, message: str, step: int, result: Result):
        super().__init__(message)
        self.step = step
        self.result = result


@dataclasses.dataclass(frozen=True)
class Progress:
    """The progress of a run; as a string, one line.

    Args:
        steps: number of updates made.
        total: number of updates to make; None if only the budget limits it.
        seconds: time spent on updates so far.
        metrics: the metrics of the last update, or of an evaluation.
        fraction: share of the budget spent so far; None without a budget.
        rows: the rows of ``metrics.jsonl`` written since the last call; the first call includes those of
            earlier sessions.
        memory: ``peak_bytes``, what a step needs on a device, and ``device_bytes``, what that has, as far as
            they are known.
    """

    steps: int
    total: int | None
    seconds: float
    metrics: Mapping[str, float]
    fraction: float | None = None
    rows: Sequence[Mapping[str, Any]] = ()
    memory: Mapping[str, int] = dataclasses.field(default_factory=dict)

    @property
    def share(self) -> float:
        """The share of the run that is done, in [0, 1]."""
        if self.fraction is not None:
            return self.fraction
        return self.steps / (self.total or self.steps)

    def __str__(self) -> str:
        steps = f"{self.steps}" if self.total is None else f"{self.steps}/{self.total}"
        budget = "" if self.fraction is None else f"  {self.fraction:.1%} of the budget"
        metrics = "  ".join(f"{name} {value:.4g}" for name, value in self.metrics.items())
        return f"step {steps}{budget}  {self.seconds:.1f} s  {metrics}"
