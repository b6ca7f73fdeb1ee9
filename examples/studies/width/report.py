"""The report of the study on width, rendered from its record."""

import math
from pathlib import Path

from matplotlib.figure import Figure

from examples.shared import markdown, pictures
from examples.studies.tuned import levels
from examples.studies.width.arms import MUP, STANDARD
from optimiz import compare

PICTURE = "rates.png"


class Results:
    """What a record says of the rates at each width."""

    def __init__(self, record: compare.Record):
        self.base: int = record.settings["base"]
        self.names = list(dict.fromkeys(run.optimizer for run in record.runs))
        self.widths = sorted({run.extra["width"] for run in record.runs})
        self.seeds = len({run.seed for run in record.runs})
        self._runs = record.runs

    def losses(self, name: str, how: str, width: int) -> dict[float, float]:
        """Validation loss by rate, in nats per token; ∞ where a run diverged. The base has one for both."""
        of = (name, STANDARD if width == self.base else how, width)
        found = [r for r in self._runs if (r.optimizer, r.extra["parametrization"], r.extra["width"]) == of]
        return {rate: -level for rate, level in levels(found, sign=-1).items()}

    def best(self, name: str, how: str, width: int) -> float:
        """The best rate."""
        losses = self.losses(name, how, width)
        return min(losses, key=lambda rate: losses[rate])

    def carried(self, name: str, how: str, width: int) -> float:
        """Nats that the best rate of the base loses to the best one here; NaN if it was not run here."""
        losses = self.losses(name, how, width)
        rate = self.best(name, how, self.base)
        return losses.get(rate, math.nan) - min(losses.values())

    def edges(self) -> list[str]:
        """Where the best rate is the lowest or the highest that was tried."""
        found = [(n, h, w) for n in self.names for h in (STANDARD, MUP) for w in self.widths]
        edges = [of for of in found if compare.at_edge(self.best(*of), list(self.losses(*of)))]
        return [f"{name} at width {width} ({how})" for name, how, width in edges]


def table(results: Results) -> str:
    """Best rate and loss by width, as Markdown."""
    header = ["optimizer", "parametrization"]
    for width in results.widths:
        header += [f"width {width}: best rate", "loss ↓", "the base's rate loses"]
    rows = []
    for name in results.names:
        for how in (STANDARD, MUP):
            cells = [name, how]
            for width in results.widths:
                lost = results.carried(name, how, width)
                cells += [f"{results.best(name, how, width):g}"]
                cells += [f"{min(results.losses(name, how, width).values()):.3f}"]
                cells += ["not run" if math.isnan(lost) else "diverges" if lost == math.inf else f"{lost:.3f}"]
            rows.append(cells)
    return compare.table(header, rows, words=2)


def summary(record: compare.Record) -> str:
    """The part of the page with the result."""
    results = Results(record)
    edges = results.edges()
    warning = f"**The best rates of {', '.join(edges)} are at the edges of their grids.**\n\n" if edges else ""
    return f"{warning}{table(results)}"


def render(record: compare.Record) -> str:
    """The page, as Markdown."""
    results, settings = Results(record), record.settings
    return markdown.study_page(
        record,
        summary(record),
        f"Validation losses in nats per token, means over {results.seeds} seeds, after {settings['steps']} "
        f"updates of {settings['batch_size']} rows of {settings['length']} tokens. μP has the model of width "
        f"{results.base} as its base, where the two parametrizations are the same. What the base's best rate "
        "loses at another width is measured to the best rate there, of the same parametrization and on a grid "
        "of half decades.",
        f"![Validation loss against the learning rate, by width]({PICTURE})",
    )


def draw(record: compare.Record, path: Path) -> None:
    """Plot the validation loss against the rate, a line for each width."""
    results = Results(record)
    picture = Figure(figsize=(9, 3.6 * len(results.names)), layout="constrained")
    grid = picture.subplots(len(results.names), 2, sharey="row", sharex="row", squeeze=False)
    for row, name in zip(grid, results.names, strict=True):
        for axes, how in zip(row, (STANDARD, MUP), strict=True):
            for i, width in enumerate(results.widths):
                losses = results.losses(name, how, width)
                shown = {rate: loss for rate, loss in losses.items() if math.isfinite(loss)}
                colour = (0.1, 0.35, 0.65, 0.25 + 0.75 * i / (len(results.widths) - 1))
                axes.plot([*shown], [*shown.values()], "o-", color=colour, label=f"{width}", markersize=3)
                best = results.best(name, how, width)
                axes.plot([best], [losses[best]], "o", color=colour, markersize=8, fillstyle="none")
            axes.set(xscale="log", xlabel="peak learning rate", title=f"{name}, {how}")
        row[0].set_ylabel("validation loss, nats per token")
    grid[0][0].legend(title="width", frameon=False, fontsize=7)
    pictures.save(picture, path, dpi=130)
