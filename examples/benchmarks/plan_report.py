"""The report of planned updates, rendered from its record."""

import dataclasses
import datetime
from collections.abc import Iterable, Mapping
from typing import Any

from optimiz import compare, plan

_FITS = {True: "yes", False: "no", None: "unknown"}


def row(name: str, planned: plan.Plan, parameters: int) -> dict[str, Any]:
    """A plan as JSON, for the record.

    Args:
        name: name of the optimizer.
        planned: the plan of its update.
        parameters: number of parameters.
    """
    about = {"optimizer": name, "date": str(datetime.date.today()), "parameters": parameters}
    return about | dataclasses.asdict(planned)


def planned_in(row: Mapping[str, Any]) -> plan.Plan:
    """The plan of a row of the record."""
    found: dict[str, Any] = {field.name: row[field.name] for field in dataclasses.fields(plan.Plan)}
    if found["traffic"] is not None:
        collectives = {kind: plan.Collective(**its) for kind, its in found["traffic"]["collectives"].items()}
        found["traffic"] = plan.Traffic(**found["traffic"] | {"collectives": collectives})
    return plan.Plan(**found)


def table(rows: Iterable[Mapping[str, Any]]) -> str:
    """One line per optimizer; all bytes are per device."""
    header = ["optimizer", "parameters", "state", "temporary", "peak", "fits", "moved", "of its bound"]
    header += ["at least", "collectives", "compiled in"]
    return compare.table(header, [_cells(each["optimizer"], planned_in(each)) for each in rows]) + "\n"


def _cells(name: str, planned: plan.Plan) -> list[str]:
    held, moved = planned.arguments, planned.traffic
    cells = [f"`{name}`", *(_gib(held[argument]) for argument in ("parameters", "state"))]
    cells += [_gib(planned.temporary), _gib(planned.peak), _FITS[planned.fits]]
    if moved is None:
        cells += ["", "", "", ""]
    else:
        both = sorted({moved.least, moved.greatest})
        collectives = (f"{its.count} {kind}" for kind, its in moved.collectives.items())
        cells += [" to ".join(map(_gib, both)), " to ".join(f"{size / planned.bound:.2f}" for size in both)]
        seconds = [size / planned.bandwidth for size in both] if planned.bandwidth else []
        cells += [" to ".join(f"{1e3 * s:.1f} ms" for s in seconds), ", ".join(collectives) or "none"]
    return [*cells, f"{planned.compile_seconds:.0f} s"]


def summary(record: Mapping[str, Any]) -> str:
    """The table, preceded by what was planned."""
    settings, versions = record["settings"], record["environment"]["versions"]
    rows, model = record["rows"], compare.escaped(settings["model"])
    about = (
        f"{model}, {rows[0]['parameters']:,} parameters in {settings['dtype']}, on {settings['target']}, mesh "
        f"{settings['mesh'] or 'data'}. Sizes are per device, 1 GiB = 2³⁰ bytes. An update moves bytes to and "
        "from the device's memory. Its bound is what any update must read and write, and its time is at least "
        "the bytes moved divided by the bandwidth. A range extends from the branches that move least to those "
        f"that move most. {rows[0]['date']}, jax {versions['jax']}, optax {versions['optax']}."
    )
    return f"{about}\n\n{table(rows)}"


def report(record: Mapping[str, Any]) -> str:
    """The page, in Markdown."""
    return f"# Plan\n\n{summary(record)}"


def _gib(size: int | None) -> str:
    return "" if size is None else f"{size / 2**30:.2f} GiB"
