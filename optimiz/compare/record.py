"""The record of a comparison: every measured number, with the machine, the versions and the date.

A record is plain JSON. Documents are rendered from it and hold no number of their own.
"""

import dataclasses
import datetime
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import optax

from optimiz import schedules, training
from optimiz.training import environment
from optimiz.training.run_directory import flush

SCHEMA = 2

# Of an update: a forward pass, and a backward pass that counts 2.
STEP_FORWARDS = 3

# Of the extra work that optimizers count in their state. An estimate of the Hessian's diagonal is one more
# gradient at the least.
_FORWARDS = {"evaluations": 1, "estimates": STEP_FORWARDS, "looks": 1}


class TornRecord(ValueError):
    """A file that is no record, or not all of one."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """One optimizer's run at one learning rate, from one seed.

    Args:
        optimizer: its name.
        learning_rate: the peak of its schedule; None where the optimizer finds it.
        seed: of the initial parameters, the data order and dropout.
        steps: updates made.
        diverged_at: 0-based index of the update whose loss or gradient was not finite, which ended the run;
            None for a run that came to its end.
        seconds: spent on updates; compilation, evaluation and saves are not counted.
        compile_seconds: spent compiling; next to none where the step of another seed was at hand.
        forward_equivalents: work of all updates, in forward passes: a backward pass counts 2, and so an
            update 3; an evaluation of the loss that the optimizer counts 1, an estimate of the Hessian 3, and a
            look at as many candidates as a step has examples 1. Where not all layers are on at every step, an
            update counts by its share of the most that were.
        reference_seconds: of reference time spent; None without a budget.
        budget: of reference time, in seconds; None for a run of so many steps.
        state_bytes_per_parameter: size of the optimizer's state over the number of parameters.
        temporary_bytes: of memory, at the most, that a compiled training step needs beside parameters, state
            and batch; None where the compiler does not say.
        versions: of the packages under which it ran, by name.
        test: final figures on examples that neither training nor any choice has seen, by name; None where
            not finite, as all are of a run that diverged.
        history: the rows of the run's ``metrics.jsonl``: ``{"step", "loss", ...}`` per update and
            ``{"steps", "evaluation"}`` per evaluation. A number that is not finite is None.
        fingerprint: SHA-256 of the initial parameters, the random key and the first batches; None where it
            was not taken.
        heterogeneity: of the first gradient, see ``diagnostics.heterogeneity``; statistic → number.
    """

    optimizer: str
    learning_rate: float | None
    seed: int
    steps: int
    diverged_at: int | None
    seconds: float
    compile_seconds: float
    forward_equivalents: float
    reference_seconds: float | None
    budget: float | None
    state_bytes_per_parameter: float
    temporary_bytes: int | None
    versions: Mapping[str, str]
    test: Mapping[str, float | None]
    history: Sequence[Mapping[str, Any]]
    fingerprint: str | None = None
    heterogeneity: Mapping[str, float | None] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(
        cls,
        result: training.Result,
        tx: optax.GradientTransformation,
        *,
        optimizer: str,
        learning_rate: float | None,
        seed: int,
        test: Mapping[str, float],
        budget: float | None = None,
        diverged_at: int | None = None,
        fingerprint: str | None = None,
        heterogeneity: Mapping[str, float] | None = None,
    ) -> "Run":
        """The run that a result of ``training.fit`` was.

        Args:
            result: what ``fit`` returned, or what its ``Diverged`` holds.
            tx: the optimizer it was given.
            optimizer: its name.
            learning_rate: the peak of its schedule; None where the optimizer finds it.
            seed: of the run.
            test: final figures by name; what is not finite becomes None.
            budget: of reference time, in seconds; None for a run of so many steps.
            diverged_at: ``Diverged.step``; None for a run that came to its end.
            fingerprint: of what the run began with.
            heterogeneity: of the first gradient.
        """
        with schedules.spending(0.0):  # no schedule decides the size of a state
            state = jax.eval_shape(tx.init, result.params)
        parameters = sum(leaf.size for leaf in jax.tree.leaves(result.params))
        state_bytes = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
        return cls(
            optimizer=optimizer,
            learning_rate=learning_rate,
            seed=seed,
            steps=result.steps,
            diverged_at=diverged_at,
            seconds=result.seconds,
            compile_seconds=result.compile_seconds,
            forward_equivalents=STEP_FORWARDS * _whole_steps(result) + _extra_forwards(result.history),
            reference_seconds=result.reference_seconds,
            budget=budget,
            state_bytes_per_parameter=state_bytes / parameters,
            temporary_bytes=result.temporary_bytes,
            versions=environment()["versions"],
            test=_finite({name: float(value) for name, value in test.items()}),
            history=[_finite(row) for row in result.history],
            fingerprint=fingerprint,
            heterogeneity=_finite(dict(heterogeneity or {})),
        )

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The history, with NaN for what is not finite."""
        return [_number(row) for row in self.history]

    def training_loss(self) -> tuple[list[int], list[float]]:
        """Update counts, from 1, and the batch loss at each; what is not finite is NaN."""
        rows = [row for row in self.rows if "loss" in row]
        return [row["step"] + 1 for row in rows], [row["loss"] for row in rows]

    def validation(self, figure: str) -> tuple[list[int], list[float]]:
        """Update counts and a figure of the evaluation after each; what is not finite is NaN.

        Raises:
            ValueError: there is no such figure.
        """
        rows = [row for row in self.rows if "evaluation" in row]
        for row in rows:
            _needs(figure, row["evaluation"], "evaluation")
        return [row["steps"] for row in rows], [row["evaluation"][figure] for row in rows]

    def spent(self, updates: Sequence[int]) -> list[float]:
        """What so many updates cost: seconds of reference time, or, without a budget, their number.

        Args:
            updates: numbers of updates, each from 0 to ``steps``.
        """
        if self.budget is None or self.reference_seconds is None:
            return [float(count) for count in updates]
        before = [row["fraction"] * self.budget for row in self.history if "loss" in row]
        return [[*before, self.reference_seconds][count] for count in updates]

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the run as JSON; a file of that name is replaced only once the new one is whole."""
        _replace(path, {"schema": json.dumps(SCHEMA), "run": _json(dataclasses.asdict(self))})

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> "Run":
        """Read a run back.

        Raises:
            TornRecord: the file is no run, or is cut short.
            ValueError: it has another schema.
        """
        return _read(path, lambda fields: cls(**fields["run"]))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """A comparison of optimizers on one task.

    Args:
        title: what was done, as a heading.
        command: the command that made it, as typed.
        task: what the task is, by name: data, sizes, model.
        settings: what all runs share.
        baselines: figures of methods that were not trained here: by method, then ``"validation"`` or
            ``"test"``, then figure.
        test_examples: the number of examples behind each test figure.
        runs: in the order in which they ran; those of one optimizer have the same seeds at all its rates.
        lower_is_better: the figures that are the better the lower they are; all others, the higher.
        date: ISO 8601, UTC.
        environment: see :func:`environment`.
        schema: version of this layout.
    """

    title: str
    command: str
    task: Mapping[str, Any]
    settings: Mapping[str, Any]
    baselines: Mapping[str, Mapping[str, Mapping[str, float]]]
    test_examples: int
    runs: Sequence[Run]
    lower_is_better: Sequence[str] = ("loss",)
    date: str = dataclasses.field(
        default_factory=lambda: datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    )
    environment: Mapping[str, Any] = dataclasses.field(default_factory=environment)
    schema: int = SCHEMA

    def sign(self, figure: str) -> int:
        """1 for a figure that is the better the higher it is, -1 for the others."""
        return -1 if figure in self.lower_is_better else 1

    def scores(self, runs: Sequence[Run], figure: str, part: str) -> list[float]:
        """The final figure of each run, times its sign: the higher, the better; -∞ where not finite.

        Args:
            runs: of this record.
            figure: its name.
            part: ``"test"`` or ``"validation"``.

        Raises:
            ValueError: there is no such figure.
        """
        scores = []
        for run in runs:
            if part == "test":
                _needs(figure, run.test, part)
                value = _number(run.test[figure])
            else:
                values = run.validation(figure)[1]
                value = values[-1] if values and run.diverged_at is None else math.nan
            scores.append(self.sign(figure) * value if math.isfinite(value) else -math.inf)
        return scores

    def levels(self, figure: str, part: str) -> dict[str, float]:
        """The figure of each baseline that has it.

        Args:
            figure: its name.
            part: ``"test"`` or ``"validation"``.
        """
        parts = {name: figures[part] for name, figures in self.baselines.items()}
        return {name: figures[figure] for name, figures in parts.items() if figure in figures}

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the record as JSON; a file of that name is replaced only once the new one is whole."""
        fields = {name: _json(value) for name, value in dataclasses.asdict(self).items() if name != "runs"}
        runs = ",\n".join(_json(dataclasses.asdict(run)) for run in self.runs)
        _replace(path, fields | {"runs": f"[\n{runs}\n]"})

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> "Record":
        """Read a record back.

        Raises:
            TornRecord: the file is no record, or is cut short.
            ValueError: it has another schema.
        """
        return _read(path, lambda fields: cls(**fields | {"runs": [Run(**run) for run in fields["runs"]]}))


def _whole_steps(result: training.Result) -> float:
    """The number of updates, each by its share of the layers."""
    on = [row["active_layers"] for row in result.history if "active_layers" in row]
    return sum(on) / max(on) if on else result.steps


def _extra_forwards(history: Sequence[Mapping[str, Any]]) -> float:
    """What has been counted beside the updates, as it stands in the last row of one."""
    last = next((row for row in reversed(history) if "loss" in row), {})
    forwards = {name: _FORWARDS.get(name.rpartition("/")[2], 0) for name in last}
    return float(sum(times * last[name] for name, times in forwards.items() if times))


def _needs(figure: str, figures: Mapping[str, Any], part: str) -> None:
    if figure not in figures:
        raise ValueError(f"there is no {part} figure {figure!r}; there are {', '.join(figures)}")


def _finite(value: Any) -> Any:
    """The same, however deep, with None in place of a number that JSON does not have."""
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _number(value: Any) -> Any:
    """The same, however deep, with NaN in place of None."""
    if isinstance(value, Mapping):
        return {name: _number(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_number(item) for item in value]
    return math.nan if value is None else value


def _json(value: Any) -> str:
    return json.dumps(value, allow_nan=False, ensure_ascii=False)


def _replace(path: str | os.PathLike[str], fields: Mapping[str, str]) -> None:
    """Write an object of JSON texts, one a line."""
    path = Path(path)
    lines = ",\n".join(f"{json.dumps(name)}: {text}" for name, text in fields.items())
    partial = path.with_name(path.name + ".partial")
    partial.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")
    flush(partial)  # what it is made from may be deleted next
    partial.replace(path)
    flush(path.parent)


def _read(path: str | os.PathLike[str], make: Any) -> Any:
    try:
        fields = json.loads(Path(path).read_text(encoding="utf-8"))
        schema = fields["schema"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, RecursionError) as error:
        raise TornRecord(f"{path} is not a whole record: {error!r}") from None
    if schema != SCHEMA:
        raise ValueError(f"{path} has record schema {schema}, this version reads {SCHEMA}")
    try:
        return make(fields)
    except (KeyError, TypeError) as error:
        raise TornRecord(f"{path} is not a whole record: {error!r}") from None
