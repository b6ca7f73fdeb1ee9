"""The record of a comparison: every measured number, with the machine, the versions and the date.

A record is plain JSON. Documents are rendered from it and contain no other numbers.
"""

import dataclasses
import datetime
import math
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

from optimiz import checks
from optimiz.compare.directions import arrow, lower_is_better
from optimiz.compare.fields import check_fields, check_types
from optimiz.compare.json_file import SCHEMA, json_text, read_object, write_object
from optimiz.compare.markdown import escaped
from optimiz.compare.run import Run
from optimiz.training import environment

_PRICE = {"per_device_hour": float, "currency": str, "devices": int, "what": str}
_PRICE_TYPES = {f"price[{name!r}]": kind for name, kind in _PRICE.items()}

_RUNS = ("rungs", "runs")

# A file in the directory of the record.
_PICTURE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\.png")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """A comparison of optimizers on one task.

    Args:
        title: heading of the report.
        command: the command that made the record, as typed.
        task: description of the task, by name: data, sizes, model.
        settings: the settings that all runs share.
        baselines: metrics of methods that were not trained here: method → ``"validation"`` and ``"test"`` →
            name of the metric → value.
        test_examples: number of examples on which each test metric was measured, ≥ 1.
        runs: runs in the order in which they were made; an optimizer has the same seeds at all its rates. Those
            at a share of the budget go to ``rungs``.
        lower_is_better: names of metrics that are better when lower. Well-known names such as ``"loss"`` and
            ``"mae"`` can be omitted.
        higher_is_better: names of metrics that are better when higher; ``"accuracy"`` and ``"f1"`` can be
            omitted.
        controls: test metrics of models that should be worse than any that is trained here, such as an
            untrained one or one that is trained on half of the data: name → for each seed, name of the metric →
            value. A value is None if it is not finite.
        price: price of a device hour, for the cost of a run in money: ``{"per_device_hour": 2.5, "currency":
            "USD", "devices": 1, "what": "a price list and its date"}``; empty if it is not known.
        energy: energy of the work of a run on the reference: ``{"per_unit": reference.energy_by_kind(),
            "meter": reference.meter}``; empty if it is not known.
        left_out: parts that the report lacks, such as a baseline, and why.
        samples: name → lines of text that a model wrote; shown verbatim.
        pictures: PNG file next to the report → its caption.
        rungs: the runs of successive halving at a share of the budget, see ``run_matrix``; no statistic of the
            methods uses them.
        extra: measurements that belong to no run, as plain JSON.
        date: date and time, as ISO 8601 in UTC.
        environment: device and versions, see :func:`environment`.
        schema: version of this layout.

    Raises:
        TypeError: a field, or a value in it, has the wrong type or is not plain JSON.
        ValueError: a number is not finite or outside its domain; a baseline lacks a part; a control lacks a
            seed; a metric is listed in both directions; or a picture is not a PNG file next to the report.
    """

    title: str
    command: str
    task: Mapping[str, Any]
    settings: Mapping[str, Any]
    baselines: Mapping[str, Mapping[str, Mapping[str, float]]]
    test_examples: int
    runs: Sequence[Run]
    lower_is_better: Sequence[str] = ()
    higher_is_better: Sequence[str] = ()
    controls: Mapping[str, Sequence[Mapping[str, float | None]]] = dataclasses.field(default_factory=dict)
    price: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    energy: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    left_out: Mapping[str, str] = dataclasses.field(default_factory=dict)
    samples: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
    pictures: Mapping[str, str] = dataclasses.field(default_factory=dict)
    rungs: Sequence[Run] = ()
    extra: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    date: str = dataclasses.field(
        default_factory=lambda: datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    )
    environment: Mapping[str, Any] = dataclasses.field(default_factory=environment)
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        check_types(self)
        if parts := [run for run in self.runs if run.budget_share is not None]:
            object.__setattr__(self, "rungs", [*self.rungs, *parts])
            object.__setattr__(self, "runs", [run for run in self.runs if run.budget_share is None])
        checks.integer("test_examples", self.test_examples, ge=1)
        for name, parts in self.baselines.items():
            if parts.keys() != {"validation", "test"}:
                given = ", ".join(parts) or "none"
                raise ValueError(f"baselines[{name!r}] must have the parts validation and test, got {given}")
        seeds = len({run.seed for run in self.runs})
        for name, of_seeds in self.controls.items():
            if self.runs and len(of_seeds) != seeds:
                raise ValueError(
                    f"controls[{name!r}] must have one entry per seed, {seeds}, got {len(of_seeds)}"
                )
        if self.price:
            if self.price.keys() != _PRICE.keys():
                raise ValueError(f"price must have {', '.join(_PRICE)}, got {', '.join(self.price)}")
            check_fields({f"price[{name!r}]": self.price[name] for name in _PRICE}, _PRICE_TYPES)
            checks.number("price['per_device_hour']", self.price["per_device_hour"], ge=0)
            checks.integer("price['devices']", self.price["devices"], ge=1)
        if self.energy:
            _check_energy(self.energy)
        if both := set(self.lower_is_better) & set(self.higher_is_better):
            raise ValueError(f"{min(both)!r} cannot be in both lower_is_better and higher_is_better")
        for name in self.pictures:
            if not _PICTURE.fullmatch(name):
                raise ValueError(f"pictures must be PNG files next to the report, like 'a.png', got {name!r}")

    def sign(self, metric: str) -> int:
        """1 for a metric that is better when higher, -1 for one that is better when lower.

        Raises:
            ValueError: the metric has no known direction.
        """
        ask = f"give lower_is_better=[{metric!r}] or higher_is_better=[{metric!r}] to the Record"
        return -1 if lower_is_better(metric, self.lower_is_better, self.higher_is_better, ask=ask) else 1

    def directed(self, metric: str) -> str:
        """The name of a metric as Markdown, with an arrow in its direction if that is known."""
        return f"{escaped(metric)} {arrow(metric, self.lower_is_better, self.higher_is_better)}".rstrip()

    def scores(self, runs: Sequence[Run], metric: str, part: str) -> list[float]:
        """The final metric of each run, times its sign, so that more is better; -∞ if it is not finite.

        Args:
            runs: runs of this record.
            metric: name of the metric.
            part: ``"test"`` or ``"validation"``.

        Raises:
            ValueError: there is no such metric.
        """
        return [run.score(metric, part, self.sign(metric)) for run in runs]

    def rent(self, run: Run) -> float | None:
        """The price of a run in the currency of ``price``, by reference time or, without a budget, its own.

        The price of a device hour times the devices and the hours. None if the price or the time is not known.
        """
        seconds = run.seconds if run.budget is None else run.reference_seconds
        if not self.price or seconds is None:
            return None
        return self.price["per_device_hour"] * self.price["devices"] * seconds / 3600

    def joules(self, run: Run) -> tuple[float, float] | None:
        """The energy of a run's work on the reference, and its standard uncertainty.

        The energy of a unit was measured once, so that its error is the same in all units of a kind. None if a
        kind of work in it takes an unknown amount.
        """
        done, per_unit = run.work(), self.energy.get("per_unit", {})
        if done is None or not all(name in per_unit for name, units in done.items() if units):
            return None
        of = [(units, per_unit[name]) for name, units in done.items() if units]
        joules = sum(units * one["joules"] for units, one in of)
        return joules, math.hypot(*(units * one["uncertainty"] for units, one in of))

    def levels(self, metric: str, part: str) -> dict[str, float]:
        """The metric of each baseline that has it.

        Args:
            metric: name of the metric.
            part: ``"test"`` or ``"validation"``.
        """
        parts = {name: metrics[part] for name, metrics in self.baselines.items()}
        return {name: metrics[metric] for name, metrics in parts.items() if metric in metrics}

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the record as JSON; an existing file is replaced only once the new one is complete."""
        fields = {
            name: json_text(value) for name, value in dataclasses.asdict(self).items() if name not in _RUNS
        }
        for name in _RUNS:
            runs = ",\n".join(json_text(dataclasses.asdict(run)) for run in getattr(self, name))
            fields[name] = f"[\n{runs}\n]" if runs else "[]"
        write_object(path, fields)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> "Record":
        """Read a record back.

        Raises:
            OSError: the file cannot be read.
            TornRecord: the file is not a record, or is cut short; the message names the field.
            ValueError: it has another schema.
        """

        def record(fields: Mapping[str, Any]) -> "Record":
            read = {"runs": fields["runs"], "rungs": fields.get("rungs", [])}
            for name, runs in read.items():
                if not isinstance(runs, list):
                    raise TypeError(f"{name} must be a list, got {type(runs).__name__}")
                read[name] = [Run.of_fields(f"{name}[{i}]", run) for i, run in enumerate(runs)]
            return cls(**{**fields, **read})

        return read_object(path, record)


def _check_energy(energy: Mapping[str, Any]) -> None:
    if energy.keys() != {"per_unit", "meter"}:
        raise ValueError(f"energy must have per_unit, meter, got {', '.join(energy)}")
    if not isinstance(energy["meter"].get("source"), str):
        raise ValueError("energy['meter'] must say the source")
    for name, one in energy["per_unit"].items():
        where = f"energy['per_unit'][{name!r}]"
        check_fields({where: one}, {where: Mapping[str, float]})
        if one.keys() != {"joules", "uncertainty"}:
            raise ValueError(f"{where} must have joules, uncertainty, got {', '.join(one)}")
        for part, number in one.items():
            checks.number(f"{where}[{part!r}]", number, ge=0)
