"""One run of a comparison: its settings, its cost, and everything that was measured."""

import dataclasses
import json
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import optax

from optimiz import checks, schedules, training
from optimiz.compare.fields import check_types
from optimiz.compare.json_file import SCHEMA, json_text, read_object, sha256, write_object
from optimiz.compare.matrix.grid import Point
from optimiz.training import environment
from optimiz.training.budget.step_cost import EXTRA_WORK, FORWARD, HESSIAN, STEP
from optimiz.training.step import SELECTION_FORWARDS

# Forward passes per update: one, and a backward pass that counts 2.
STEP_FORWARDS = 3

# Forward passes per unit of the extra work that optimizers count in their state. An estimate of the Hessian's
# diagonal takes at least one more gradient.
_FORWARDS = {count: {FORWARD: 1, HESSIAN: STEP_FORWARDS}[work] for count, work in EXTRA_WORK.items()}
_FORWARDS[SELECTION_FORWARDS] = 1

# Fields of the row of an update that did not do the work of a whole step.
_NOT_WHOLE = {"active_layers", SELECTION_FORWARDS}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """One optimizer's run at one learning rate, from one seed.

    Args:
        optimizer: name of the optimizer.
        learning_rate: peak of its schedule; None if the optimizer finds it.
        seed: seed of the initial parameters, the data order and dropout.
        steps: number of updates.
        diverged_at: 0-based index of the update whose loss or gradient was not finite, which ended the run;
            None if the run completed.
        seconds: time spent on updates, without compilation, evaluation and saves; None if it was not measured.
            The same holds for the other numbers that can be None, in a record that was made elsewhere.
        compile_seconds: time spent compiling; almost zero if the step of an earlier run was used again.
        forward_equivalents: work of all updates, in forward passes. A backward pass counts 2, so an update
            counts 3; a further loss evaluation by the optimizer counts 1, an estimate of the Hessian 3, and an
            evaluation of as many candidates as a step has examples 1. With dropped layers, an update counts in
            proportion to its active layers, relative to the largest number of them.
        reference_seconds: reference time spent, in seconds; None without a budget.
        budget: budget of reference time, in seconds; None if the run has a given number of steps.
        state_bytes_per_parameter: size of the optimizer's state divided by the number of parameters.
        temporary_bytes: peak memory that a compiled training step needs in addition to parameters, state and
            batch; None if the compiler does not report it.
        versions: versions of the packages that were used, by name.
        test: final metrics on examples that neither training nor any choice has seen, by name. A metric that is
            not finite is None, as are all metrics of a run that diverged.
        history: the rows of the run's ``metrics.jsonl``: ``{"step", "loss", ...}`` per update and
            ``{"steps", "evaluation"}`` per evaluation. A number that is not finite is None. A row ``{"step",
            "noise"}`` has the noise of the gradient after so many updates, if it was measured.
        fingerprint: SHA-256 of the initial parameters, the random key and the first batches; None if it was not
            computed.
        heterogeneity: heterogeneity of the first gradient, see ``diagnostics.heterogeneity``; statistic →
            value.
        extra: anything else about the run, as plain JSON.
        axes: the optimizer's values on the other axes of its grid, by name; see ``Arm``.
        budget_share: share of the comparison's budget, in (0, 1), if the run is of a rung of successive
            halving; None for the whole budget.

    Raises:
        TypeError: a field, or a value in it, has the wrong type.
        ValueError: a number is not finite, or the history lacks a number that curves need.
    """

    optimizer: str
    learning_rate: float | None
    seed: int
    steps: int
    diverged_at: int | None
    seconds: float | None
    compile_seconds: float | None
    forward_equivalents: float | None
    reference_seconds: float | None
    budget: float | None
    state_bytes_per_parameter: float | None
    temporary_bytes: int | None
    versions: Mapping[str, str]
    test: Mapping[str, float | None]
    history: Sequence[Mapping[str, Any]]
    fingerprint: str | None = None
    heterogeneity: Mapping[str, float | None] = dataclasses.field(default_factory=dict)
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    axes: Mapping[str, float] = dataclasses.field(default_factory=dict)
    budget_share: float | None = None

    def __post_init__(self) -> None:
        check_types(self)
        if self.budget_share is not None:
            checks.number("budget_share", self.budget_share, gt=0, lt=1)
        updates = sum("loss" in row for row in self.history)
        for i, row in enumerate(self.history):
            where = f"history[{i}]"
            if "evaluation" in row:
                _check_number(where, row, "steps", whole=True, least=0)
                if not isinstance(row["evaluation"], Mapping):
                    raise TypeError(f"{where}['evaluation'] must be a mapping, got {row['evaluation']!r}")
                for name in row["evaluation"]:
                    _check_number(f"{where}['evaluation']", row["evaluation"], name, or_none=True)
                if self.budget is not None and row["steps"] > updates:
                    raise ValueError(f"{where}['steps'] must be at most {updates}, got {row['steps']}")
            elif "loss" in row:
                _check_number(where, row, "step", whole=True, least=0)
                _check_number(where, row, "loss", or_none=True)
                if self.budget is not None:
                    _check_number(where, row, "fraction")

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
        noise: Sequence[Mapping[str, Any]] = (),
        extra: Mapping[str, Any] | None = None,
        axes: Mapping[str, float] | None = None,
        budget_share: float | None = None,
    ) -> "Run":
        """The run of a result of ``training.fit``.

        Args:
            result: what ``fit`` returned, or the result in the ``Diverged`` that it raised.
            tx: optimizer that was passed to ``fit``.
            optimizer: name of the optimizer.
            learning_rate: peak of its schedule; None if the optimizer finds it.
            seed: seed of the run.
            test: final metrics by name; values that are not finite become None.
            budget: budget of reference time, in seconds; None if the run has a given number of steps.
            diverged_at: ``Diverged.step``; None if the run completed.
            fingerprint: fingerprint of the start of the run.
            heterogeneity: heterogeneity of the first gradient.
            noise: rows with the noise of the gradient, which are added to the history.
            extra: anything else about the run, as plain JSON; numbers that are not finite become None.
            axes: the optimizer's values on the other axes of its grid.
            budget_share: share of the comparison's budget at a rung of successive halving.
        """
        with schedules.spending(0.0):  # a schedule does not change the size of the state
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
            state_bytes_per_parameter=state_bytes / max(parameters, 1),
            temporary_bytes=result.temporary_bytes,
            versions=environment()["versions"],
            test=_finite({name: float(value) for name, value in test.items()}),
            history=[_finite(row) for row in (*result.history, *noise)],
            fingerprint=fingerprint,
            heterogeneity=_finite(dict(heterogeneity or {})),
            extra=_finite(dict(extra or {})),
            axes=dict(axes or {}),
            budget_share=budget_share,
        )

    @property
    def point(self) -> Point:
        """The run as a point of the grid of its optimizer, with the other axes in the order of their names."""
        return (self.learning_rate, *(self.axes[axis] for axis in sorted(self.axes)))

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The history, with NaN for numbers that are not finite."""
        return [number(row) for row in self.history]

    def per_update(self, name: str) -> list[Any]:
        """A field of each update's row, in order; NaN if it is not finite.

        Args:
            name: name of the field, such as ``"loss"``, ``"gradient_norm"``, or a scalar of the optimizer's
                state, such as ``"learning_rate"`` or ``"step_size"``.

        Raises:
            ValueError: there is no such field.
        """
        rows = [row for row in self.rows if "loss" in row]
        for row in rows:
            needs(name, row, "update")
        return [row[name] for row in rows]

    def training_loss(self) -> tuple[list[int], list[float]]:
        """Update counts, from 1, and the batch loss of each update; NaN if it is not finite."""
        rows = [row for row in self.rows if "loss" in row]
        return [row["step"] + 1 for row in rows], [row["loss"] for row in rows]

    def validation(self, metric: str) -> tuple[list[int], list[float]]:
        """Update counts, and a metric of the evaluation at each count; NaN if it is not finite.

        Raises:
            ValueError: there is no such metric.
        """
        rows = [row for row in self.rows if "evaluation" in row]
        for row in rows:
            needs(metric, row["evaluation"], "evaluation")
        return [row["steps"] for row in rows], [row["evaluation"][metric] for row in rows]

    def score(self, metric: str, part: str, sign: int) -> float:
        """The final metric times its sign, so that more is better; -∞ if it is not finite, or the run diverged.

        Args:
            metric: name of the metric.
            part: ``"test"`` or ``"validation"``.
            sign: 1 if the metric is better when higher, -1 if it is better when lower.

        Raises:
            ValueError: there is no such metric.
        """
        if part == "test":
            needs(metric, self.test, part)
            value = number(self.test[metric])
        else:
            values = self.validation(metric)[1]
            value = values[-1] if values and self.diverged_at is None else math.nan
        return sign * value if math.isfinite(value) else -math.inf

    def spent(self, updates: Sequence[int]) -> list[float]:
        """The cost of numbers of updates: seconds of reference time or, without a budget, the numbers.

        Args:
            updates: numbers of updates, each from 0 to ``steps``.
        """
        if self.budget is None or self.reference_seconds is None:
            return [float(count) for count in updates]
        before = [row["fraction"] * self.budget for row in self.history if "loss" in row]
        return [[*before, self.reference_seconds][count] for count in updates]

    def work(self) -> dict[str, int] | None:
        """Units of work by kind: ``step``, and ``forward`` and ``hessian`` beyond them; see ``training.Work``.

        None with dropped layers or selected examples, whose work is not that of whole steps.
        """
        last = next((row for row in reversed(self.history) if "loss" in row), {})
        if _NOT_WHOLE & last.keys():
            return None
        done = {STEP: self.steps}
        for name, count in last.items():
            if (kind := EXTRA_WORK.get(name.rpartition("/")[2])) is not None:
                done[kind] = done.get(kind, 0) + int(count)
        return done

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the run as JSON, with its SHA-256; see ``read``."""
        run = json_text(dataclasses.asdict(self))
        write_object(path, {"schema": json.dumps(SCHEMA), "sha256": json.dumps(sha256(run)), "run": run})

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> "Run":
        """Read a run back.

        Raises:
            OSError: the file cannot be read.
            TornRecord: the file is not a run, is cut short, or differs from what was written; the message names
                the field.
            ValueError: it has another schema.
        """

        def run(fields: Mapping[str, Any]) -> "Run":
            if "sha256" in fields and fields["sha256"] != sha256(json_text(fields["run"])):
                raise ValueError("run differs from its SHA-256")
            return cls.of_fields("run", fields["run"])

        return read_object(path, run)

    @classmethod
    def of_fields(cls, where: str, fields: Any) -> "Run":
        """The run with the given fields, as read from a file.

        Args:
            where: place of the run in the file, for the message.
            fields: fields of the JSON object.

        Raises:
            ValueError: these are not the fields of a run.
        """
        if not isinstance(fields, Mapping):
            raise ValueError(f"{where} must be an object, got {type(fields).__name__}")
        try:
            return cls(**fields)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{where}: {str(error).replace('Run.__init__() ', '')}") from None


def _whole_steps(result: training.Result) -> float:
    """The number of updates, each weighted by its share of the layers."""
    on = [row["active_layers"] for row in result.history if "active_layers" in row]
    return sum(on) / max(on) if on else result.steps


def _extra_forwards(history: Sequence[Mapping[str, Any]]) -> float:
    """The work that was counted in addition to the updates, taken from the last update's row."""
    last = next((row for row in reversed(history) if "loss" in row), {})
    forwards = {name: _FORWARDS.get(name.rpartition("/")[2], 0) for name in last}
    return float(sum(times * last[name] for name, times in forwards.items() if times))


def needs(metric: str, metrics: Mapping[str, Any], part: str) -> None:
    """Refuse a metric that a part does not have."""
    if metric not in metrics:
        raise ValueError(f"the {part} has no metric {metric!r}; it has {', '.join(metrics)}")


def _finite(value: Any) -> Any:
    """The value with None in place of numbers that are not finite, at any depth."""
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def number(value: Any) -> Any:
    """The value with NaN in place of None, at any depth."""
    if isinstance(value, Mapping):
        return {name: number(item) for name, item in value.items()}
    if isinstance(value, list):
        return [number(item) for item in value]
    return math.nan if value is None else value


def _check_number(
    where: str,
    row: Mapping[str, Any],
    name: str,
    *,
    whole: bool = False,
    or_none: bool = False,
    least: float = -math.inf,
) -> None:
    value = row.get(name)
    fits = isinstance(value, int if whole else int | float) and not isinstance(value, bool) and value >= least
    if not fits and not (or_none and value is None and name in row):
        given = repr(value) if name in row else "none"
        raise TypeError(f"{where}[{name!r}] must be {'an integer' if whole else 'a number'}, got {given}")
