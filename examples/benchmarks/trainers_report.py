"""The report of the trainers' benchmark, rendered from its record."""

import statistics
from collections.abc import Mapping
from typing import Any

from optimiz import compare

Record = Mapping[str, Any]


def summary(record: Record) -> str:
    """One line per trainer, followed by when and where they were measured."""
    header = ["trainer", "batch", "parameters", "ms / update", "spread", "batch, ms", "waits"]
    header += ["arguments, MB", "optimizer state, MB", "temporary, MB"]
    lines = []
    for row in record["rows"]:
        low, median, high = statistics.quantiles(row["seconds"], n=4, method="inclusive")
        megabytes = [row[name] / 1e6 for name in ("argument_bytes", "state_bytes", "temporary_bytes")]
        cells = [row["title"], row["batch"], f"{row['parameters'] / 1e6:.2g} million"]
        drawing = 1e3 * statistics.median(row["drawing_seconds"])
        waits = sum(row["waiting_seconds"]) / sum(row["seconds"])
        cells += [f"{1e3 * median:.0f}", f"{(high - low) / median:.0%}", f"{drawing:.2f}", f"{waits:.1%}"]
        cells += [f"{x:.1f}" for x in megabytes]
        lines.append(cells)
    where, versions = record["environment"], record["environment"]["versions"]
    dates = sorted({row["date"] for row in record["rows"]})
    stretches = sorted({len(row["seconds"]) for row in record["rows"]})
    updates = sorted({row["updates_per_stretch"] for row in record["rows"]})
    words = (
        f"{_range(dates)}, {where['device']} with {where['cpu_cores']} cores, jax {versions['jax']}, AdamW, "
        f"float32. Times are medians over {_range(stretches)} stretches of {_range(updates)} updates, "
        "including the batches; the spread is the interquartile range. A batch is made by the host while the "
        "device works on the one before; what it waits is a share of the time. Memory is what the compiler "
        "plans for a step, whose arguments are parameters, state and batch.\n"
    )
    return f"{compare.table(header, lines, words=2)}\n\n{words}"


def _range(ascending: list[Any]) -> str:
    return " to ".join(str(end) for end in dict.fromkeys((ascending[0], ascending[-1])))


def report(record: Record) -> str:
    """The whole page, in Markdown."""
    commands = "".join(f"- {row['title']}: `{row['command']}`\n" for row in record["rows"])
    return f"# Steps of the trainers\n\n{summary(record)}\n{commands}"
