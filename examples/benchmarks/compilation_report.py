"""The report of the benchmark of compilation, rendered from its record."""

import statistics
from collections.abc import Mapping
from typing import Any

from optimiz import compare

Record = Mapping[str, Any]


def ratio(row: Mapping[str, Any]) -> float:
    """The median of our times over the median of Optax's."""
    return statistics.median(row["seconds"]["optimiz"]) / statistics.median(row["seconds"]["optax"])


def table(record: Record) -> str:
    """One line per method, device and number of leaves."""
    header = ["device", "leaves", "method", "seconds", "spread", "Optax's", "spread", "ratio"]
    lines = []
    for row in record["rows"]:
        cells = [row["target"], f"{row['leaves']}", row["method"]]
        for seconds in (row["seconds"]["optimiz"], row["seconds"]["optax"]):
            median = statistics.median(seconds)
            low, _, high = statistics.quantiles(seconds, n=4)
            cells += [f"{median:.2f}", f"{(high - low) / median:.0%}"]
        lines.append([*cells, f"{ratio(row):.2f}"])
    return compare.table(header, lines, words=3) + "\n"


def by_method(record: Record) -> str:
    """One line per method, with the ratios on each device and number of leaves."""
    places = sorted({(row["target"], row["leaves"]) for row in record["rows"]})
    ratios = {(row["method"], row["target"], row["leaves"]): ratio(row) for row in record["rows"]}
    header = ["method", *(f"{target}, {leaves}" for target, leaves in places)]
    lines = []
    for method in dict.fromkeys(row["method"] for row in record["rows"]):
        found = [ratios.get((method, *place)) for place in places]
        lines.append([method, *("" if x is None else f"{x:.2f}" for x in found)])
    return compare.table(header, lines) + "\n"


def summary(record: Record) -> str:
    """The ratios, preceded by what was measured."""
    versions, dates = record["environment"]["versions"], sorted({row["date"] for row in record["rows"]})
    rounds = sorted({len(row["seconds"]["optax"]) for row in record["rows"]})
    text = (
        "Time to trace, lower and compile an update of so many matrices, divided by that of Optax's optimizer "
        "of the same name; that of `adamw in Int8` is Optax's AdamW, of `guarded clip + adamw` Optax's "
        "`apply_if_finite`. The devices' own compilers run on this machine. Medians of processor time over "
        f"{' to '.join(map(str, dict.fromkeys((rounds[0], rounds[-1]))))} compilations, "
        f"{' to '.join(dict.fromkeys((dates[0], dates[-1])))}, {record['environment']['cpu_cores']} cores, jax "
        f"{versions['jax']}, optax {versions['optax']}."
    )
    return f"{text}\n\n{by_method(record)}"


def report(record: Record) -> str:
    """The whole page, in Markdown."""
    return f"# Compilation\n\n{summary(record)}\n## Seconds\n\n{table(record)}"
