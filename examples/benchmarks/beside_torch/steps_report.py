"""The report of the steps next to PyTorch's, rendered from its record."""

import statistics
from collections.abc import Mapping
from typing import Any

from optimiz import compare

Record = Mapping[str, Any]


def ratios(row: Mapping[str, Any]) -> list[float]:
    """Our time divided by PyTorch's, round by round."""
    return [a / b for a, b in zip(row["seconds"]["optimiz"], row["seconds"]["torch"], strict=True)]


def summary(record: Record) -> str:
    """One line per step, followed by when and where they were measured."""
    header = [
        "step",
        "batch",
        "parameters",
        "ms / step",
        "PyTorch's",
        "time / PyTorch's",
        "quartiles",
        "rounds",
    ]
    header += ["compilation, s"]
    lines = []
    for row in record["rows"]:
        low, median, high = statistics.quantiles(found := ratios(row), n=4, method="inclusive")
        times = [f"{1e3 * statistics.median(row['seconds'][who]):.0f}" for who in ("optimiz", "torch")]
        cells = [row["title"], row["batch"], f"{row['parameters'] / 1e6:.0f} million", *times, f"{median:.2f}"]
        lines.append([*cells, f"{low:.2f} to {high:.2f}", str(len(found)), f"{row['compile_seconds']:.1f}"])
    where = record["environment"]
    versions, dates = where["versions"] | where["peers"], sorted({row["date"] for row in record["rows"]})
    loads = sorted(load for row in record["rows"] for load in row["load"])
    words = (
        f"{' to '.join(dict.fromkeys((dates[0], dates[-1])))}, {where['device']} with {where['cpu_cores']} "
        f"cores, which both use, jax {versions['jax']}, torch {versions['torch']}, transformers "
        f"{versions['transformers']}. A step is forward with dropout of 0.1, backward and AdamW, in float32, "
        "of the same weights and batches; ours is timed within `fit`, which takes turns with PyTorch. Times "
        "and ratios are medians. PyTorch runs as its `Trainer` does: not compiled, with its fused AdamW.\n"
    )
    if loads[-1] > where["cpu_cores"] + 1:
        words += (
            f"\n**The machine had other work**, with a load of {loads[0]:.0f} to {loads[-1]:.0f}: the times "
            "are not those of an idle one, and the ratios may differ there.\n"
        )
    return f"{compare.table(header, lines, words=2)}\n\n{words}"


def report(record: Record) -> str:
    """The whole page, in Markdown."""
    return f"# Steps next to PyTorch's\n\n{summary(record)}"
