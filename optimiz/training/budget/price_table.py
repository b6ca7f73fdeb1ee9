"""A reference system: the price of each unit of work, in seconds.

Methods that save work per step, or spend more of it, can only be compared under the same budget if all are
charged by the same table. The table is measured once, on one machine, and stored as JSON: a run charged by it
stops at the same step wherever it is repeated.

A unit of work is identified by its name, and by the active depth and the batch size if its cost depends on
them. The loop of ``optimiz.training`` charges ``step`` (forward, backward and update) and the extra work of an
optimizer: ``forward`` (one more evaluation of the loss) and ``hessian`` (one estimate of a Hessian's diagonal).
Other names are free for other uses of a table.

Source: arXiv 2307.06440, section 2 (reference system time).

Departures: the median of the measurements instead of their mean, which a single hiccup of the machine moves; a
table in which more work is faster is refused, because one entry of the authors' table is ten times too low.
"""

import dataclasses
import datetime
import json
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from optimiz import checks
from optimiz.training.budget.clock import check_seconds
from optimiz.training.environment import environment
from optimiz.training.storage.whole_file import write_whole

SCHEMA = 2
_READ = (1, 2)  # the first has no energy

# Standard deviations of a median per interquartile range and root of n, for normal errors.
_MEDIAN = 0.929


class Work(NamedTuple):
    """A unit of work.

    Args:
        name: the kind of work.
        depth: number of active layers; None if the price does not depend on it.
        batch: number of examples; None if the price does not depend on it.
    """

    name: str
    depth: int | None = None
    batch: int | None = None

    def __str__(self) -> str:
        sizes = {"depth": self.depth, "batch": self.batch}
        given = ", ".join(f"{name}={size}" for name, size in sizes.items() if size is not None)
        return f"{self.name}({given})" if given else self.name


class Timing(NamedTuple):
    """How long one unit of work took.

    Args:
        seconds: the median time; of steps, of the means of every ten.
        spread: the interquartile range, in seconds.
        n: number of measurements.
    """

    seconds: float
    spread: float
    n: int

    @property
    def standard_error(self) -> float:
        """Standard error of the median, in seconds, for normal errors."""
        return _MEDIAN * self.spread / math.sqrt(self.n)


class Energy(NamedTuple):
    """How much energy one unit of work took.

    Args:
        joules: the median over windows of many units.
        spread: the interquartile range, in joules.
        n: number of windows.
    """

    joules: float
    spread: float
    n: int

    @property
    def standard_error(self) -> float:
        """Standard error of the median, in joules, for normal errors."""
        return _MEDIAN * self.spread / math.sqrt(self.n)


_Row = TypeVar("_Row", Timing, Energy)
_TABLES: dict[str, Any] = {"times": Timing, "energy": Energy}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reference:
    """The prices of a reference system.

    Args:
        times: how long each unit of work takes on it.
        about: what was timed, such as model, sizes and data, by name; plain JSON.
        date: date of the measurement in ISO 8601, UTC.
        environment: the device and the versions.
        energy: how much energy each unit of work takes on it, of all devices together and with the power that
            they draw at rest; work without an entry takes an unknown amount.
        meter: where the energy was read, see ``Meter.about``.
        schema: version of the file format.

    Raises:
        TypeError: a time, a size or a number of measurements is not a number.
        ValueError: there is no work, or work without a name; a time is not positive and finite, or another
            number is outside its range; or more of the same work, in depth or batch, is faster.

    Example:
        >>> step = Work("step", batch=32)
        >>> reference = Reference(times={step: Timing(0.25, spread=0.01, n=200)}, about={"model": "BERT"})
        >>> reference.seconds("step", batch=32)
        0.25
    """

    times: Mapping[Work, Timing]
    about: Mapping[str, Any]
    date: str = dataclasses.field(
        default_factory=lambda: datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    )
    environment: Mapping[str, Any] = dataclasses.field(default_factory=environment)
    energy: Mapping[Work, Energy] = dataclasses.field(default_factory=dict)
    meter: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        if not self.times:
            raise ValueError("times must hold at least one unit of work, got none")
        for work, timing in self.times.items():
            if not isinstance(work.name, str) or not work.name:
                raise ValueError(f"the name of a unit of work must be a nonempty string, got {work.name!r}")
            for name, size in (("depth", work.depth), ("batch", work.batch)):
                if size is not None:
                    checks.integer(f"{name} of {work}", size, ge=1)
            check_seconds(f"seconds of {work}", timing.seconds)
            checks.number(f"spread of {work}", timing.spread, ge=0)
            checks.integer(f"n of {work}", timing.n, ge=1)
        for more, slower in self.times.items():
            for less, faster in self.times.items():
                if _is_less(less, more) and slower.seconds < faster.seconds:
                    raise ValueError(
                        f"{more} cannot be faster than {less}, got {slower.seconds} and {faster.seconds} s"
                    )
        for work, energy in self.energy.items():
            if work not in self.times:
                raise ValueError(f"energy has {work}, which times lack")
            checks.number(f"joules of {work}", energy.joules, gt=0)
            checks.number(f"spread of the joules of {work}", energy.spread, ge=0)
            checks.integer(f"n of the joules of {work}", energy.n, ge=1)
        if self.energy and not isinstance(self.meter.get("source"), str):
            raise ValueError("meter must say the source of the energy")

    def seconds(self, name: str, *, depth: int | None = None, batch: int | None = None) -> float:
        """The price of one unit of work.

        Args:
            name: the kind of work.
            depth: number of active layers; None if the work was timed without one.
            batch: number of examples; None if the work was timed without one.

        Raises:
            ValueError: the table lacks this work; prices are not extrapolated from other sizes.
        """
        work = Work(name, depth, batch)
        if work not in self.times:
            raise ValueError(f"the reference lacks {work}; it has {', '.join(map(str, self.times))}")
        return self.times[work].seconds

    def prices(self) -> dict[str, float]:
        """Seconds by unit of work: all that decides what a run is charged."""
        return {str(work): timing.seconds for work, timing in self.times.items()}

    def energy_by_kind(self) -> dict[str, dict[str, float]]:
        """Joules of one unit by kind of work, and their standard uncertainty; a kind of several sizes has none.

        Example:
            >>> step = Work("step", batch=32)
            >>> reference = Reference(
            ...     times={step: Timing(0.25, spread=0.01, n=200)},
            ...     about={},
            ...     energy={step: Energy(50.0, spread=1.0, n=4)},
            ...     meter={"source": "RAPL"},
            ... )
            >>> reference.energy_by_kind()
            {'step': {'joules': 50.0, 'uncertainty': 0.4645}}
        """
        kinds = [work.name for work in self.times]
        return {
            work.name: {"joules": energy.joules, "uncertainty": energy.standard_error}
            for work, energy in self.energy.items()
            if kinds.count(work.name) == 1
        }

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the reference as JSON; an existing file is replaced only once the new one is complete."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        for name in _TABLES:
            rows = [work._asdict() | measured._asdict() for work, measured in fields[name].items()]
            fields[name] = rows
        text = json.dumps(fields, indent=1, allow_nan=False, ensure_ascii=False)
        write_whole(path, text + "\n")

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> "Reference":
        """Read a reference back.

        Raises:
            ValueError: the file is not a reference, is truncated, has another schema, or holds an invalid
                price.
        """
        try:
            fields = json.loads(Path(path).read_text(encoding="utf-8"))
            schema = fields["schema"]
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"{path} is not a complete reference: {error!r}") from None
        if schema not in _READ:
            known = " and ".join(map(str, _READ))
            raise ValueError(f"{path} has reference schema {schema}, this version reads {known}")
        try:
            tables = {name: _table(fields.get(name, ()), row) for name, row in _TABLES.items()}
            return cls(**fields | tables | {"schema": SCHEMA})
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is not a valid reference: {error}") from None


def _table(rows: Iterable[Mapping[str, Any]], kind: type[_Row]) -> dict[Work, _Row]:
    table = {}
    for row in rows:
        work = Work(*(row[name] for name in Work._fields))
        if work in table:
            raise ValueError(f"{work} is listed twice")
        table[work] = kind(*(row[name] for name in kind._fields))
    return table


def _is_less(less: Work, more: Work) -> bool:
    """Whether it is the same work with a smaller depth or batch, and neither is larger."""
    if less == more or less.name != more.name:
        return False
    sizes = ((less.depth, more.depth), (less.batch, more.batch))
    return all(a == b or (a is not None and b is not None and a < b) for a, b in sizes)
