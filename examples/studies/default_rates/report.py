"""The report of the study on default rates, rendered from its record."""

import math
from pathlib import Path

from matplotlib.figure import Figure

from examples.data.summary import counted
from examples.shared import markdown, pictures
from examples.studies.default_rates.settings import SETTINGS
from examples.studies.tuned import decades, levels
from optimiz import compare, methods

PICTURE = "rates.png"
METRIC = "loss"
"""Metric of the validation by which a rate is chosen: a new head is right before it is sure of anything."""

WITHIN = 0.05
"""Nats by which a rate may be worse than the best one and still count as good."""


class Results:
    """What a record says of the rates of each optimizer."""

    def __init__(self, record: compare.Record):
        self.setting = SETTINGS[record.settings["setting"]]
        self.names = list(dict.fromkeys(run.optimizer for run in record.runs))
        self.seeds = len({run.seed for run in record.runs})
        self._grids = {
            name: levels([run for run in record.runs if run.optimizer == name], sign=-1) for name in self.names
        }

    def lost(self, name: str) -> dict[float, float]:
        """Rate → nats by which its loss is above that of the best rate; ∞ where a run diverged."""
        grid = self._grids[name]
        best = max(grid.values())
        return {rate: best - level for rate, level in grid.items()}

    def loss(self, name: str) -> float:
        """The validation loss of the best rate, in nats."""
        return -max(self._grids[name].values())

    def rate(self, name: str) -> float:
        """The best rate."""
        return compare.best_rate(self._grids[name])

    def at_edge(self, name: str) -> bool:
        """Whether that is the lowest or the highest that was tried."""
        return compare.at_edge(self.rate(name), list(self._grids[name]))

    def decades(self, name: str) -> float:
        """How many decades of rates around the best one are good."""
        return decades(self._grids[name], WITHIN)

    def default(self, name: str) -> float | None:
        """The default rate of the trainers."""
        method = methods.METHODS[name]
        return method.from_scratch_rate if self.setting.from_scratch else method.fine_tuning_rate


def summary(record: compare.Record) -> str:
    """The part of the page with the result."""
    results = Results(record)
    header = ["optimizer", "default", "best rate", "rates tried", f"validation loss {compare.arrow(METRIC)}"]
    header += [f"decades within {WITHIN:g}", "lost at ÷ 3.16", "lost at × 3.16"]
    rows = []
    for name in results.names:
        lost, default = results.lost(name), results.default(name)
        rates = list(lost)
        at = rates.index(results.rate(name))
        beside = [lost[rates[i]] if 0 <= i < len(rates) else math.nan for i in (at - 1, at + 1)]
        rows.append(
            [
                f"`{name}`",
                "" if default is None else f"{default:g}",
                f"{results.rate(name):g}{', **an edge**' if results.at_edge(name) else ''}",
                f"{len(rates)}",
                f"{results.loss(name):.3f}",
                f"{results.decades(name):.1f}",
                *("diverges" if x == math.inf else "" if math.isnan(x) else f"{x:.3f}" for x in beside),
            ]
        )
    return compare.table(header, rows)


def render(record: compare.Record) -> str:
    """The page, as Markdown."""
    results, settings = Results(record), record.settings
    page = [
        f"# {record.title}",
        summary(record),
        f"Means over {counted(results.seeds, 'seeds')} of runs of {settings['steps']} updates of "
        f"{settings['batch_size']} examples, with what the trainer does by default. The runs are short and "
        "few: they find the scale of each optimizer's rate, and do not tell one optimizer from another.",
        f"![What other rates lose to the best one]({PICTURE})",
        markdown.what_was_run(record),
        "Every number is in `record.json`.",
    ]
    return "\n\n".join(page) + "\n"


def draw(record: compare.Record, path: Path) -> None:
    """Draw one line per optimizer with a mark at each rate: the darker, the less it loses to the best one."""
    results = Results(record)
    names, limit = results.names[::-1], 5 * WITHIN
    picture = Figure(
        figsize=(8, max(3.8, 0.6 + 0.26 * len(names))), layout="constrained"
    )  # the label of the colours fits
    axes = picture.add_subplot()
    for row, name in enumerate(names):
        lost = results.lost(name)
        axes.plot([*lost], [row] * len(lost), color="0.85", linewidth=1, zorder=0)
        marks = axes.scatter(
            [*lost], [row] * len(lost), c=[*lost.values()], vmin=0, vmax=limit, cmap="viridis", s=36
        )
        axes.scatter([results.rate(name)], [row], facecolors="none", edgecolors="black", s=80)
    axes.set(xscale="log", xlabel="peak learning rate", yticks=range(len(names)), yticklabels=names)
    picture.colorbar(marks, label="validation loss above that of the best rate, nats", extend="max")
    pictures.save(picture, path, dpi=110)
