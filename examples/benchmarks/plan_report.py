"""The report of planned updates, or of planned steps, rendered from its record."""

import dataclasses
import datetime
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from optimiz import compare, plan

FITS = {True: "yes", False: "no", None: "unknown"}
_BACKWARD = {  # remat → what the backward pass does
    "none": "keeps all activations",
    "dots": "keeps the outputs of linear maps",
    "layers": "computes layers again",
}


def row(name: str, planned: plan.Plan, parameters: int) -> dict[str, Any]:
    """A plan as JSON, for the record.

    Args:
        name: name of the optimizer.
        planned: the plan of its update, or of a step with it.
        parameters: number of parameters.
    """
    about = {"optimizer": name, "date": str(datetime.date.today()), "parameters": parameters}
    return about | dataclasses.asdict(planned)


def planned_in(row: Mapping[str, Any]) -> plan.Plan:
    """The plan of a row of the record."""
    found: dict[str, Any] = {f.name: row[f.name] for f in dataclasses.fields(plan.Plan) if f.name in row}
    if found["traffic"] is not None:
        collectives = {kind: plan.Collective(**its) for kind, its in found["traffic"]["collectives"].items()}
        found["traffic"] = plan.Traffic(**found["traffic"] | {"collectives": collectives})
    return plan.Plan(**found)


def table(rows: Iterable[Mapping[str, Any]], *, whole: bool = False) -> str:
    """One line per optimizer; all bytes are per device.

    Args:
        rows: rows of the record.
        whole: whether they are of whole steps, which have operations, whose gradients are temporary, and
            which have no bound worth a column.
    """
    rows = list(rows)
    plans = [planned_in(each) for each in rows]
    counted = any(each.padding is not None for each in plans)
    header = ["optimizer", *_held(whole), *["padding"] * counted, "temporary", "peak", "fits", "moved"]
    header += ["at least", "operations"] if whole else ["of its bound", "at least"]
    header += ["collectives", "compiled in"]
    named = zip((each["optimizer"] for each in rows), plans, strict=True)
    lines = [_cells(name, each, whole, counted) for name, each in named]
    if any(each.host for each in plans):
        held, at = (header.index(last) + 1 for last in ("state", "moved"))
        header = [*header[:held], "on the host", *header[held:at], "copied each way", *header[at:]]
        lines = [
            [*line[:held], gib(its.host), *line[held:at], _copies(its), *line[at:]]
            for line, its in zip(lines, plans, strict=True)
        ]
    return compare.table(header, lines) + "\n"


def _held(whole: bool) -> list[str]:
    """The arguments of the program that have a column."""
    return ["parameters", *["gradients"] * (not whole), "state"]


def _cells(name: str, planned: plan.Plan, whole: bool, padded: bool) -> list[str]:
    held, moved = planned.arguments, planned.traffic
    cells = [f"`{name}`", *(gib(held[argument]) for argument in _held(whole))]
    cells += [gib(None if planned.padding is None else sum(planned.padding.values()))] * padded
    cells += [gib(planned.temporary), gib(planned.peak), FITS[planned.fits]]
    if moved is None:
        cells += ["", "", "", ""]
    else:
        both = sorted({moved.least, moved.greatest})
        link = planned.link_seconds_at_least or 0
        seconds = [max(size / planned.bandwidth, link) for size in both] if planned.bandwidth else []
        at_least = " to ".join(f"{1e3 * s:.1f} ms" for s in seconds)
        of_bound = " to ".join(f"{size / planned.bound:.2f}" for size in both)
        cells += [" to ".join(map(gib, both))]
        cells += [at_least, operations(planned)] if whole else [of_bound, at_least]
        cells += [collectives(planned)]
    return [*cells, f"{planned.compile_seconds:.0f} s"]


def _copies(planned: plan.Plan) -> str:
    """The bytes that are copied from the host, as many as to it, and the time that they take at least."""
    if planned.traffic is None:
        return ""
    seconds = planned.link_seconds_at_least
    return gib(planned.traffic.from_host) + ("" if seconds is None else f", {1e3 * seconds:.1f} ms")


def operations(planned: plan.Plan) -> str:
    """The floating-point operations of a step; empty where the compiler does not count them."""
    return "" if planned.flops is None else f"{planned.flops / 1e9:,.1f} G"


def collectives(planned: plan.Plan) -> str:
    """The collectives by kind, with their bytes."""
    found = (f"{its.count} {kind} ({gib(its.bytes)})" for kind, its in planned.collectives.items())
    return ", ".join(found) or "none"


def summary(record: Mapping[str, Any]) -> str:
    """The table, preceded by what was planned."""
    settings, versions = record["settings"], record["environment"]["versions"]
    rows, model, whole = record["rows"], compare.escaped(settings["model"]), "batch" in settings
    about = (
        f"{model}, {rows[0]['parameters']:,} parameters in {settings['dtype']}, on {settings['target']}, mesh "
        f"{settings['mesh'] or 'data'}. "
    )
    if whole:
        length = f" × {settings['length']} tokens" if settings["length"] else " at the model's full size"
        kept = _BACKWARD[settings["remat"]]
        precision = f" with `--precision={settings['precision']}`" if "precision" in settings else ""
        about += (
            f"A whole step{precision} of a batch of {settings['batch']}{length}, whose backward pass {kept}. "
            "Gradients and activations are temporary. "
        )
    about += (
        f"Sizes are per device, 1 GiB = 2³⁰ bytes. {'A step' if whole else 'An update'} moves bytes to and "
        "from the device's memory. "
    )
    if any(each.get("padding") for each in rows):
        about += "Padding is what a TPU's tiles add to the arguments. "
    about += "" if whole else "Its bound is what any update must read and write. "
    about += (
        "Its time is at least the bytes moved divided by the bandwidth. A range extends from the branches that "
        "move least to those that move most. Behind collectives stand the bytes of their results. "
        f"{rows[0]['date']}, jax {versions['jax']}, optax {versions['optax']}."
    )
    return f"{about}\n\n{table(rows, whole=whole)}"


def by_device(records: Sequence[Mapping[str, Any]]) -> str:
    """What updates of one model move on several devices.

    Args:
        records: of updates, one for each device and dtype.
    """
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for record in records:
        for each in record["rows"]:
            moved, bound = each["traffic"], each["bound"]
            n = each["arguments"]["parameters"] / jnp.dtype(record["settings"]["dtype"]).itemsize
            both = sorted({moved["least"], moved["greatest"]})
            size, times = (" to ".join(f"{x / of:.{d}f}" for x in both) for of, d in ((n, 1), (bound, 2)))
            row = cells.setdefault((each["optimizer"], record["settings"]["dtype"]), {})
            row[record["settings"]["target"]] = f"{size} ({times})"
    targets = list(dict.fromkeys(target for row in cells.values() for target in row))
    lines = [[f"`{name}`", dtype, *(row.get(t, "") for t in targets)] for (name, dtype), row in cells.items()]
    table = compare.table(["optimizer", "parameters", *targets], lines)
    model, row = compare.escaped(records[0]["settings"]["model"]), records[0]["rows"][0]
    return (
        f"Bytes that an update of {model} moves on a device per parameter that it holds, and how many times "
        "its bound, what any update must read and write. A range extends from the branches that move least, "
        f"those of a steady step, to those that move most. {row['date']}, jax "
        f"{records[0]['environment']['versions']['jax']}.\n\n{table}\n"
    )


def report(record: Mapping[str, Any]) -> str:
    """The page, in Markdown."""
    return f"# Plan\n\n{summary(record)}"


def gib(size: int | None) -> str:
    """Bytes in GiB; empty if unknown."""
    return "" if size is None else f"{size / 2**30:.2f} GiB"
