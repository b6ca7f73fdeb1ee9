"""The report of the update benchmark, rendered from its record."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from optimiz import compare

Record = Mapping[str, Any]


def ratio(seconds: Mapping[str, Sequence[float]], peer: str) -> float | None:
    """The median over the rounds of our time divided by a peer's; None if there is no such peer."""
    if peer not in seconds:
        return None
    return statistics.median(a / b for a, b in zip(seconds["optimiz"], seconds[peer], strict=True))


def table(record: Record) -> str:
    """One line per method."""
    header = ["method", "ms", "spread", "time / Optax's", "time / torch's", "share of bandwidth"]
    header += ["temporary bytes / parameter", "Optax's"]
    lines = []
    for row in record["rows"]:
        seconds, programs = row["seconds"], row["programs"]
        median = statistics.median(seconds["optimiz"])
        low, _, high = statistics.quantiles(seconds["optimiz"], n=4)
        ratios = [ratio(seconds, peer) for peer in ("optax", "torch fused")]
        theirs = programs.get("optax", {}).get("temporary_bytes_per_parameter")
        cells = [row["method"], f"{1e3 * median:.0f}", f"{(high - low) / median:.0%}"]
        cells += ["" if r is None else f"{r:.2f}" for r in ratios]
        share = row["bytes"] / row["copy_bytes"] / ratio(seconds, "copy")
        cells += [f"{share:.0%}", f"{programs['optimiz']['temporary_bytes_per_parameter']:.2f}"]
        lines.append([*cells, "" if theirs is None else f"{theirs:.2f}"])
    return compare.table(header, lines) + "\n"


def summary(record: Record) -> str:
    """The table, followed by when and where it was measured."""
    settings, where = record["settings"], record["environment"]
    rows = {row["method"]: row for row in record["rows"]}
    versions, date = where["versions"], record["rows"][0]["date"]
    copies = [row["copy_bytes"] / s for row in record["rows"] for s in row["seconds"]["copy"]]
    text = (
        f"\nOne update of {settings['parameters'] / 1e6:.0f} million {settings['dtype']} parameters "
        f"({settings['model']}'s shapes), {date}, {where['device']} with {where['cpu_cores']} cores, jax "
        f"{versions['jax']}, optax {versions['optax']}. Times are medians; ratios are medians over rounds, in "
        "each of which every method took one step; the spread is the interquartile range. Bandwidth: the "
        "bytes that the update must move per second, as a share of what a copy moves in the same rounds "
        f"(median {statistics.median(copies) / 1e9:.0f} GB/s).\n"
    )
    if "sgd_sai" in rows and (r := ratio(rows["sgd_sai"]["seconds"], "optax clip + adamw")):
        text += f"\nSGD-SaI takes {r:.2f} times as long as Optax's clip_by_global_norm and adamw.\n"
    return table(record) + text


def report(record: Record) -> str:
    """The whole page, in Markdown."""
    return f"# Updates\n\n{summary(record)}"
