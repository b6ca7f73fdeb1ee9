"""The report of the planned steps of LoRA, rendered from its record."""

from collections.abc import Mapping
from typing import Any

from examples.benchmarks.plan_report import FITS, collectives, gib, planned_in
from optimiz import compare

Record = Mapping[str, Any]


def summary(record: Record) -> str:
    """One line per case, preceded by what was planned."""
    header = ["devices", "batch", "frozen", "adapters", "their state", "temporary", "peak", "memory", "fits"]
    header += ["collectives"]
    lines = []
    for row in record["rows"]:
        planned = planned_in(row)
        sizes = [planned.arguments[name] for name in ("frozen", "parameters", "state")]
        sizes += [planned.temporary, planned.peak, planned.memory]
        cells = [row["target"], f"{row['batch']} × {row['length']} tokens", *map(gib, sizes)]
        lines.append([*cells, FITS[planned.fits], collectives(planned)])
    first, dates = record["rows"][0], sorted({row["date"] for row in record["rows"]})
    words = (
        f"A whole step of AdamW on adapters of rank {first['rank']} of all linear maps of a Llama-2-7B: "
        f"{first['parameters']:,} parameters in float32, beside {first['frozen_parameters']:,} that are frozen "
        "in bfloat16. Layers are computed again in the backward pass. On several devices the frozen matrices "
        "and the batch are split over them, and the adapters are whole on each. By the devices' own compilers, "
        "per device, 1 GiB = 2³⁰ bytes; behind collectives stand the bytes of their results. "
        f"{' to '.join(dict.fromkeys((dates[0], dates[-1])))}, jax {record['environment']['versions']['jax']}."
    )
    return f"{words}\n\n{compare.table(header, lines, words=2)}\n"


def report(record: Record) -> str:
    """The whole page, in Markdown."""
    return f"# Memory of LoRA\n\n{summary(record)}"
