"""The report of the planned steps of the trainers, rendered from its record."""

from collections.abc import Mapping
from typing import Any

from examples.benchmarks.plan_report import FITS, operations, planned_in
from optimiz import compare

Record = Mapping[str, Any]


def summary(record: Record) -> str:
    """One line per step and device, preceded by what was planned."""
    header = [
        "step",
        "batch",
        "device",
        "precision",
        "computed again",
        "parameters, MiB",
        "state, MiB",
        "temporary, MiB",
    ]
    header += ["peak, MiB", "fits", "operations"]
    header += ["of float32's"]
    whole = {_key(row): row["temporary"] for row in record["rows"] if precision(row) == "float32"}
    lines = []
    for row in record["rows"]:
        planned = planned_in(row)
        sizes = [planned.arguments["parameters"], planned.arguments["state"], planned.temporary, planned.peak]
        cells = [row["title"], row["batch"], row["target"], precision(row)]
        cells += [row["remat"]]
        cells += ["" if size is None else f"{size / 2**20:,.1f}" for size in sizes]
        of = whole.get(_key(row)) if precision(row) != "float32" else None
        share = "" if of is None or planned.temporary is None else f"{planned.temporary / of:.2f}"
        lines.append([*cells, FITS[planned.fits], operations(planned), share])
    versions, dates = record["environment"]["versions"], sorted({row["date"] for row in record["rows"]})
    words = (
        "A whole step, forward, backward and update, with AdamW on one device, by the device's compiler; mixed "
        "precision has float32 parameters and products in bfloat16, and the last column is the share of its "
        "temporary memory in float32's. Gradients and activations are temporary; the peak adds parameters, "
        "state and batch. With `--remat=dots` the backward pass finds the outputs of linear "
        "maps and computes all else of a layer again; with `--remat=layers` it finds only a layer's input. "
        "What a TPU keeps in its cores' own memory is not counted. "
        f"1 MiB = 2²⁰ bytes. {' to '.join(dict.fromkeys((dates[0], dates[-1])))}, jax {versions['jax']}."
    )
    return f"{words}\n\n{compare.table(header, lines, words=5)}\n"


def precision(row: Mapping[str, Any]) -> str:
    """The precision of a row; older ones, without it, are of float32."""
    return row.get("precision", "float32")


def _key(row: Mapping[str, Any]) -> tuple[str, str, str]:
    """What tells a row from those of other steps."""
    return row["step"], row["target"], row["remat"]


def report(record: Record) -> str:
    """The whole page, in Markdown."""
    return f"# Memory of whole steps\n\n{summary(record)}"
