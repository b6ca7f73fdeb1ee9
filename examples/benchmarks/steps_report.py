"""The report of the planned steps of the trainers, rendered from its record."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from examples.benchmarks.plan_report import FITS, operations, planned_in
from optimiz import compare, training

Record = Mapping[str, Any]


def summary(record: Record) -> str:
    """One line per step and device, preceded by what was planned."""
    header = ["step", "batch", "device", "layers", "parameters, MiB", "state, MiB", "temporary, MiB"]
    header += ["peak, MiB", "fits", "operations"]
    lines = []
    for row in record["rows"]:
        planned = planned_in(row)
        sizes = [planned.arguments["parameters"], planned.arguments["state"], planned.temporary, planned.peak]
        cells = [row["title"], row["batch"], row["target"], "computed again" if row["remat"] else "kept"]
        cells += ["" if size is None else f"{size / 2**20:,.1f}" for size in sizes]
        lines.append([*cells, FITS[planned.fits], operations(planned)])
    versions, dates = record["environment"]["versions"], sorted({row["date"] for row in record["rows"]})
    words = (
        "A whole step, forward, backward and update, with AdamW in float32 on one device, by the device's "
        "compiler. Gradients and activations are temporary; the peak adds parameters, state and batch. Where "
        "layers are computed again in the backward pass (`--remat`), only the input of each is kept. What "
        "a TPU keeps in its cores' own memory is not counted. "
        f"1 MiB = 2²⁰ bytes. {' to '.join(dict.fromkeys((dates[0], dates[-1])))}, jax {versions['jax']}."
    )
    return f"{words}\n\n{compare.table(header, lines, words=4)}\n"


def write(record: Record, path: Path) -> None:
    """Write a record, and its report in the same directory."""
    path.parent.mkdir(parents=True, exist_ok=True)
    training.write_whole(path, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    training.write_whole(path.parent / "report.md", report(record))


def report(record: Record) -> str:
    """The whole page, in Markdown."""
    return f"# Memory of whole steps\n\n{summary(record)}"
