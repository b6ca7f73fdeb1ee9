"""What a run leaves, how far it has come, and how it says that it cannot go on."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from optimiz.training.errors import RunError


@dataclasses.dataclass(frozen=True)
class Result:
    """What a finished run leaves.

    Args:
        params: the trained parameters.
        history: the rows of ``metrics.jsonl``: ``{"step", "loss", "gradient_norm"}`` for the update
            of that 0-based index, and what the optimizer's state says of it, such as
            ``"learning_rate"``; ``{"steps", "evaluation"}`` for an evaluation after that many
            updates; under a budget either has the ``"fraction"`` of it that was spent before. Where not all
            layers are on at all steps, an update has its ``"active_layers"``; where examples are selected,
            ``"looks"``, the forward passes over candidates so far, in those of a step's batch.
        steps: number of updates.
        seconds: spent on updates and their batches, earlier sessions included; compilation,
            evaluations and saves are not.
        compile_seconds: spent on tracing and compiling by this process.
        reference_seconds: of reference time, charged for the updates; None without a budget.
        temporary_bytes: of device memory, at the most, that a step needs beside its state and its batch, as
            the compiler plans it; None where it does not say.
        model_state: that of the model, where the task has one.
    """

    params: Any
    history: list[dict[str, Any]]
    steps: int
    seconds: float
    compile_seconds: float
    reference_seconds: float | None = None
    temporary_bytes: int | None = None
    model_state: Any = None

    def __repr__(self) -> str:
        rows = {name: row for row in self.history for name in ("loss", "evaluation") if name in row}  # the last
        figures = {"loss": rows["loss"]["loss"]} if "loss" in rows else {}
        figures |= rows["evaluation"]["evaluation"] if "evaluation" in rows else {}
        said = "".join(f", {name} {value:.4g}" for name, value in figures.items())
        parameters = sum(leaf.size for leaf in jax.tree.leaves(self.params))
        return f"<Result of {self.steps} steps, {self.seconds:.1f} s: {parameters} parameters{said}>"


class Diverged(RunError):
    """The loss is no longer finite, and the run cannot go on; see ``optimiz.training.divergence``.

    Attributes:
        step: 0-based index of the update that ended it.
        result: the run up to and with that update; its parameters are of no use.
    """

    def __init__(self, message: str, step: int, result: Result):
        super().__init__(message)
        self.step = step
        self.result = result


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a run has come; as a string, one line.

    Args:
        steps: updates made.
        total: updates to make; None where only the budget says.
        seconds: spent on updates so far.
        figures: those of the last update, or those of an evaluation.
        fraction: of the budget, spent so far; None without a budget.
        rows: of ``metrics.jsonl``, written since the last call; those of earlier sessions come with the first.
    """

    steps: int
    total: int | None
    seconds: float
    figures: Mapping[str, float]
    fraction: float | None = None
    rows: Sequence[Mapping[str, Any]] = ()

    @property
    def share(self) -> float:
        """Of the run, done so far, in [0, 1]."""
        if self.fraction is not None:
            return self.fraction
        return self.steps / (self.total or self.steps)

    def __str__(self) -> str:
        steps = f"{self.steps}" if self.total is None else f"{self.steps}/{self.total}"
        budget = "" if self.fraction is None else f"  {self.fraction:.1%} of the budget"
        figures = "  ".join(f"{name} {value:.4g}" for name, value in self.figures.items())
        return f"step {steps}{budget}  {self.seconds:.1f} s  {figures}"
