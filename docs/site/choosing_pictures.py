"""Pictures of the page on choosing an optimizer, one for each question, from the rows of its tables."""

import math
import textwrap
from pathlib import Path

from matplotlib import colormaps
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from examples import choosing, records
from optimiz import compare, methods

CAPTIONS = {
    "by_task": "Difference from Adam or AdamW at its best rate, with its interval over seeds: better "
    "(green), worse (red) or not told apart (gray)",
    "by_memory": "Bytes per parameter of parameters, gradients and state (blue), and of what an update holds "
    "besides, where it is planned (gray)",
    "by_tuning": "What a rate beside the best one loses; at a cross the method diverges",
    "by_traffic": "Bytes that an update of GPT-2 XL moves on an H200, per parameter; a line joins the branches "
    "that move least to those that move most",
}


def draw_all(folder: Path) -> None:
    """Draw them.

    Args:
        folder: where the pictures go, each named after its question.
    """
    drawn = {"by_task": _task(), "by_memory": _memory(), "by_tuning": _tuning(), "by_traffic": _traffic()}
    for name, figure in drawn.items():
        compare.save(figure, folder / f"{name}.png", dpi=110)


def _task():
    found = list(records.outcomes())
    parts = {sign: [one for one in found if one.sign == sign] for sign in (1, -1)}
    figure = Figure(figsize=(9, 1.4 + 0.3 * len(found)), layout="constrained")
    heights = [max(1, len(part)) for part in parts.values()]
    for axes, (sign, part) in zip(figure.subplots(2, 1, height_ratios=heights), parts.items(), strict=True):
        for height, one in enumerate(reversed(part)):
            low, high = one.difference.low, one.difference.high
            color = {"better": "tab:green", "worse": "tab:red"}.get(one.verdict, "tab:gray")
            axes.plot([low, high], [height, height], color=color, linewidth=2)
            axes.plot(one.difference.mean, height, "o", color=color, markersize=5)
        labels = [f"{one.method.replace('`', '')} | {one.study.partition(',')[0]}" for one in reversed(part)]
        axes.set_yticks(range(len(part)), labels, fontsize=8)
        axes.set_ylim(-0.7, len(part) - 0.3)
        axes.axvline(0, color="black", linewidth=0.8)
        metrics = ", ".join(dict.fromkeys(one.metric.split()[0] for one in part))
        axes.set_xlabel(
            f"difference in {metrics}; {'right' if sign > 0 else 'left'} of 0 is better", fontsize=9
        )
    return figure


def _memory():
    found = choosing.forms(records._measured("memory"))
    besides = choosing.temporaries(records._benchmark("plan/gpt2_xl_h200"))
    figure = Figure(figsize=(7, 4.6), layout="constrained")
    axes = figure.subplots()
    names = list(reversed(found))
    totals = [found[name] + besides.get(name, 0.0) for name in names]
    labels, sizes = [textwrap.fill(name, 40) for name in names], [found[name] for name in names]
    axes.barh(labels, sizes, color="tab:blue")
    axes.barh(labels, [besides.get(name, 0.0) for name in names], left=sizes, color="tab:gray")
    limits = {device: choosing.SHARE * choosing.DEVICES[device] / 1.3e9 for device in ("24 GB", "80 GB")}
    for limit in limits.values():
        axes.axvline(limit, color="tab:orange")
    axes.set(xlim=(0, 1.1 * max(*limits.values(), *totals)), xlabel="bytes per parameter")
    top = axes.secondary_xaxis("top")
    top.set_xticks(list(limits.values()), list(limits))
    top.set_xlabel(f"where 1.3 billion parameters take {choosing.SHARE:.0%} of a device of")
    axes.tick_params(labelsize=8)
    return figure


def _tuning():
    found = records.grids()
    names = dict.fromkeys(name for methods_ in found.values() for name in methods_)
    palette = [to_hex(color) for color in colormaps["tab20"](range(20))]  # each color and a lighter one
    colors = dict(zip(names, [*palette[::2], *palette[1::2]], strict=False))
    figure = Figure(figsize=(7, 8.4), layout="constrained")
    for axes, (study, methods_) in zip(figure.subplots(len(found), 1), found.items(), strict=True):
        for name, levels in methods_.items():
            best = min(levels, key=lambda rate: levels[rate])
            rates = [rate for rate in sorted(levels) if math.isfinite(levels[rate])]
            lost = [levels[rate] for rate in rates]
            axes.plot([rate / best for rate in rates], lost, "o-", color=colors[name], label=name)
            cross = {"color": colors[name], "markeredgewidth": 2, "transform": axes.get_xaxis_transform()}
            for rate in levels.keys() - set(rates):
                axes.plot(rate / best, 0.93, "x", **cross)
        axes.set(xscale="log", xlim=(0.08, 12), xlabel="rate over the best rate", ylabel="lost", title=study)
        axes.set_xticks([0.1, 0.3, 1, 3, 10], ["0.1", "0.3", "1", "3", "10"])
        axes.set_xticks([], minor=True)
        axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def _traffic():
    ends = {
        row["optimizer"]: [round(row["traffic"][end] / row["parameters"]) for end in ("least", "greatest")]
        for row in records._benchmark("plan/gpt2_xl_h200")["rows"]
        if row["optimizer"] in methods.METHODS and row["traffic"]
    }
    names = sorted(ends, key=lambda name: (ends[name][::-1], name), reverse=True)
    figure = Figure(figsize=(7, 1.0 + 0.2 * len(names)), layout="constrained")
    axes = figure.subplots()
    for name in names:
        axes.plot(ends[name], [name, name], "o-", color="tab:blue", markersize=5, linewidth=2)
    axes.set(xscale="log", xlabel="bytes per parameter", ylim=(-0.7, len(names) - 0.3))
    axes.set_xticks([10, 20, 50, 100, 200, 500], ["10", "20", "50", "100", "200", "500"])
    axes.set_xticks([], minor=True)
    axes.grid(axis="x", color="lightgray")
    axes.tick_params(labelsize=8)
    return figure
