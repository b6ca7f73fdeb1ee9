"""The report of the planned collectives, rendered from its record."""

import math
from collections.abc import Mapping
from typing import Any

from examples.benchmarks import plan_report
from optimiz import compare

Record = Mapping[str, Any]


def table(record: Record) -> str:
    """One line per device, split and optimizer."""
    header = ["device", "matrices are split by", "optimizer", "collectives", "number", "MB", "temporary, MB"]
    header += ["operations", "loops", "compiled in"]
    lines = []
    for row in record["rows"]:
        planned = plan_report.planned_in(row)
        kinds = planned.collectives
        lines.append(
            [
                row["target"]
                if ":" in row["target"]
                else f"{row['target']}, {math.prod(row['mesh'].values())}",
                row["split"],
                f"`{row['optimizer']}`",
                ", ".join(f"{its.count} {kind}" for kind, its in kinds.items()) or "none",
                f"{sum(its.count for its in kinds.values())}",
                f"{sum(its.bytes for its in kinds.values()) / 1e6:.1f}",
                f"{(planned.temporary or 0) / 1e6:.1f}",
                plan_report.operations(planned),
                "" if planned.traffic is None else f"{planned.traffic.unknown_loops}",
                f"{planned.compile_seconds:.0f} s",
            ]
        )
    return compare.table(header, lines, words=4) + "\n"


def summary(record: Record) -> str:
    """The table, preceded by what was planned."""
    versions, dates = record["environment"]["versions"], sorted({row["date"] for row in record["rows"]})
    text = (
        "What one device exchanges, holds and computes in an update of 8 layers of six matrices, 256 × 256 to "
        f"256 × 1024, in float32 ({record['rows'][0]['parameters']:,} parameters), by the device's compiler. "
        "MB are the results of its collectives. Operations are those that the compiler counts, with one "
        "iteration of each of the loops in the next column, such as the five of Newton–Schulz for a group of "
        "equal matrices. Compile times are those of a busy machine. "
        f"{' to '.join(dict.fromkeys((dates[0], dates[-1])))}, jax {versions['jax']}, optax "
        f"{versions['optax']}."
    )
    return f"{text}\n\n{table(record)}"


def report(record: Record) -> str:
    """The whole page, in Markdown."""
    return f"# Collectives of methods for matrices\n\n{summary(record)}"
