"""The record of a comparison: every measured number, with the machine, the versions and the date.

A record is plain JSON. Documents are rendered from it and hold no number of their own.
"""

import dataclasses
import datetime
import importlib.metadata
import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import optax

from optimiz import training

SCHEMA = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """One optimizer's run.

    Args:
        optimizer: its name, unique in the record.
        learning_rate: the peak of its schedule.
        seed: of the initial parameters, the data order and dropout.
        steps: updates made.
        seconds: spent on them; compilation, evaluation and saves are not counted.
        compile_seconds: spent compiling.
        state_bytes_per_parameter: size of the optimizer's state over the number of parameters.
        test: final figures on examples that neither training nor any choice has seen, by name.
        history: the rows of the run's ``metrics.jsonl``: ``{"step", "loss", ...}`` per update and
            ``{"steps", "evaluation"}`` per evaluation. A number that is not finite is None.
    """

    optimizer: str
    learning_rate: float
    seed: int
    steps: int
    seconds: float
    compile_seconds: float
    state_bytes_per_parameter: float
    test: Mapping[str, float | None]
    history: Sequence[Mapping[str, Any]]

    @classmethod
    def of(
        cls,
        result: training.Result,
        tx: optax.GradientTransformation,
        *,
        optimizer: str,
        learning_rate: float,
        seed: int,
        test: Mapping[str, float],
    ) -> "Run":
        """The run that a result of ``training.fit`` was.

        Args:
            result: what ``fit`` returned.
            tx: the optimizer it was given.
            optimizer: its name, unique in the record.
            learning_rate: the peak of its schedule.
            seed: of the run.
            test: final figures by name; what is not finite becomes None.
        """
        state = jax.eval_shape(tx.init, result.params)
        parameters = sum(leaf.size for leaf in jax.tree.leaves(result.params))
        state_bytes = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
        return cls(
            optimizer=optimizer,
            learning_rate=learning_rate,
            seed=seed,
            steps=result.steps,
            seconds=result.seconds,
            compile_seconds=result.compile_seconds,
            state_bytes_per_parameter=state_bytes / parameters,
            test=_finite(test),
            history=[_finite(row) for row in result.history],
        )

    def training_loss(self) -> tuple[list[int], list[float]]:
        """Update counts, from 1, and the batch loss at each; what is not finite is NaN."""
        rows = [row for row in self.history if "loss" in row]
        return [row["step"] + 1 for row in rows], [_number(row["loss"]) for row in rows]

    def validation(self, figure: str) -> tuple[list[int], list[float]]:
        """Update counts and a figure of the evaluation after each; what is not finite is NaN."""
        rows = [row for row in self.history if "evaluation" in row]
        return [r["steps"] for r in rows], [_number(r["evaluation"][figure]) for r in rows]


def _finite(figures: Mapping[str, Any]) -> dict[str, Any]:
    """The same figures, however deep, with None in place of a number that JSON does not have."""
    return {
        name: _finite(value)
        if isinstance(value, Mapping)
        else (None if isinstance(value, float) and not math.isfinite(value) else value)
        for name, value in figures.items()
    }


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def environment() -> dict[str, Any]:
    """The device and the versions under which a measurement is taken."""
    packages = ("optimiz", "jax", "jaxlib", "optax", "flax", "numpy")
    versions = {}
    for name in packages:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    devices = jax.devices()
    return {
        "device": devices[0].device_kind,
        "devices": len(devices),
        "cpu_cores": os.cpu_count(),
        "machine": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": versions,
    }


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
        runs: one per optimizer, in the order in which they ran.
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
    date: str = dataclasses.field(
        default_factory=lambda: datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    )
    environment: Mapping[str, Any] = dataclasses.field(default_factory=environment)
    schema: int = SCHEMA

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the record as JSON; a file of that name is replaced only once the new one is whole."""
        path = Path(path)
        partial = path.with_name(path.name + ".partial")
        text = json.dumps(dataclasses.asdict(self), indent=1, allow_nan=False, ensure_ascii=False)
        partial.write_text(text + "\n", encoding="utf-8")
        partial.replace(path)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> "Record":
        """Read a record back.

        Raises:
            ValueError: the file is not a record, is cut short, or has another schema.
        """
        try:
            fields = json.loads(Path(path).read_text(encoding="utf-8"))
            schema = fields["schema"]
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is not a whole record: {error!r}") from None
        if schema != SCHEMA:
            raise ValueError(f"{path} has record schema {schema}, this version reads {SCHEMA}")
        try:
            return cls(**fields | {"runs": [Run(**run) for run in fields["runs"]]})
        except TypeError as error:
            raise ValueError(f"{path} is not a whole record: {error}") from None
