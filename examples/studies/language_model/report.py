"""The report of the study on a language model, rendered from its record."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from examples.shared import markdown, pictures
from examples.shared.study_record import column, mean_over_runs
from examples.shared.verdicts import HOLDS, NOT_HERE, OPEN
from examples.studies.tuned import decades, direction, in_groups, levels, missed
from optimiz import compare

PICTURE = "losses.png"
BASELINE = "adamw"
CHOOSING = 1
"""Seeds below this choose the rates; the others are compared."""

_SAME = 0.03  # relative difference of the seconds of a step that makes no difference
_WITHIN = 0.02  # nats, by which a rate may be worse than the best one
_WINDOW = 20  # updates, over which training losses are averaged in the picture


class Order(NamedTuple):
    """An order of two optimizers that a paper reports.

    Attributes:
        better: the optimizer that is said to have the lower loss, or one that is at least as low.
        than: the other one.
        says: what is said.
        arxiv: number of the paper.
        on_par: whether they are said to be on a par, in place of ahead.
    """

    better: str
    than: str
    says: str
    arxiv: str
    on_par: bool = False

    @property
    def source(self) -> str:
        """The paper, as a link."""
        return f"[{self.arxiv}](https://arxiv.org/abs/{self.arxiv})"


ORDERS = (
    Order("muon", "adamw", "Muon needs fewer updates than AdamW", "2502.16982"),
    Order("normuon", "muon", "NorMuon is ahead of Muon", "2510.05491"),
    Order("soap", "adamw", "SOAP needs fewer updates than AdamW", "2409.11321"),
    Order("soap_one_sided", "adamw", "one-sided SOAP needs fewer updates than AdamW", "2409.11321"),
    Order("soap", "soap_one_sided", "SOAP is ahead of its one-sided form", "2409.11321"),
    Order("lion", "adamw", "Lion is at least as good as AdamW", "2302.06675", on_par=True),
    Order("adam_mini", "adamw", "Adam-mini is on a par with AdamW", "2406.16793", on_par=True),
    Order("prodigy", "adamw", "Prodigy is on a par with a tuned Adam", "2306.06101", on_par=True),
    Order(
        "schedule_free_adamw",
        "adamw",
        "Schedule-Free is at least as good as a rate that decays",
        "2405.15682",
        on_par=True,
    ),
    Order("sgd_sai", "adamw", "SGD-SaI is on a par with AdamW", "2412.11768", on_par=True),
    Order("sgd_sai", "sqrt_size_sgd", "the first g-SNR says more than the size of a block", "2412.11768"),
)


def in_equal_time(seconds: Mapping[str, Mapping[str, float]], steps: int) -> dict[str, int]:
    """How many updates each optimizer makes in the time that the baseline takes for its own.

    Args:
        seconds: optimizer → its ``"seconds"`` of a step.
        steps: the baseline's number of updates.
    """
    own = seconds[BASELINE]["seconds"]
    shares = {name: own / timing["seconds"] for name, timing in seconds.items()}
    return {name: steps if abs(share - 1) <= _SAME else round(share * steps) for name, share in shares.items()}


class Results:
    """The runs of a record: those that chose a rate, and those that are compared."""

    def __init__(self, record: compare.Record):
        self.steps: int = record.settings["steps"]
        self.seconds: Mapping[str, Any] = record.extra["seconds"]
        self._runs = record.runs
        self.names = list(dict.fromkeys(run.optimizer for run in record.runs))
        self.updates = in_equal_time(self.seconds, self.steps)

    def grid(self, name: str) -> dict[float, float]:
        """The level of validation by rate: the loss times -1."""
        return levels([run for run in self._runs if run.optimizer == name and run.seed < CHOOSING], sign=-1)

    def by_rate(self, name: str) -> dict[float, float]:
        """Validation loss by rate; ∞ where a run diverged."""
        return {rate: -level for rate, level in self.grid(name).items()}

    def rate(self, name: str) -> float:
        """The rate that was chosen."""
        return compare.best_rate(self.grid(name))

    def at_edge(self, name: str) -> bool:
        """Whether that is the lowest or the highest that was tried."""
        return compare.at_edge(self.rate(name), list(self.grid(name)))

    def of(self, name: str, budget: str) -> list[compare.Run]:
        """The runs of an optimizer that are compared on ``"steps"`` or on ``"time"``, in the order of seeds."""
        steps = self.steps if budget == "steps" else self.updates[name]
        kind = "steps" if steps == self.steps else budget
        found = (run for run in self._runs if run.seed >= CHOOSING and run.extra["budget"] == kind)
        return sorted((run for run in found if run.optimizer == name), key=lambda run: run.seed)

    def losses(self, name: str, budget: str) -> list[float]:
        """Test loss by run, in nats per token; ∞ if it diverged."""
        return [math.inf if run.test["loss"] is None else run.test["loss"] for run in self.of(name, budget)]

    def mean(self, name: str, budget: str) -> float:
        """The mean of ``losses``."""
        return float(np.mean(self.losses(name, budget)))

    def above(self, name: str, than: str, budget: str) -> compare.Difference | None:
        """By how much the loss is above another's, paired by seed; None if a run diverged."""
        first, second = self.losses(name, budget), self.losses(than, budget)
        if not all(map(math.isfinite, first + second)):
            return None
        return compare.paired_difference(first, second, confidence=1 - 0.05 / max(len(self.names) - 1, 1))

    def slowness(self, name: str) -> float:
        """Seconds of a step relative to the baseline's."""
        return self.seconds[name]["seconds"] / self.seconds[BASELINE]["seconds"]


def in_words(results: Results) -> str:
    """The result in words, on each budget."""
    lines = []
    for budget, what in (
        ("steps", f"After {results.steps} updates"),
        ("time", f"In the time that {results.steps} updates of {BASELINE} take"),
    ):
        said = []
        for name in sorted(results.names, key=lambda name: results.mean(name, budget)):
            if name != BASELINE:
                found = results.above(name, BASELINE, budget)
                by = "(a run diverged)" if found is None else markdown.difference(found)
                said.append((direction(found, otherwise=1), f"{name} {by}"))
        own = compare.estimate(results.losses(BASELINE, budget))
        parts = in_groups(said, {-1: "lower with", 1: "higher with", 0: "**not told apart** with"})
        lines.append(
            f"- **{what}**, the test loss of {BASELINE} is {own.mean:.3f} ± {own.standard_error:.3f} nats per "
            f"token; relative to that, it is {'; '.join(parts)}."
        )
    return "\n".join(lines)


def table(results: Results) -> str:
    """One row per optimizer, as Markdown."""
    header = ["optimizer", "best rate", "rates tried", f"decades within {_WITHIN:g}", "finer grid"]
    header += ["test loss ↓, equal updates", f"relative to {BASELINE}", "seconds of a step"]
    header += ["updates in equal time", "test loss ↓, equal time", f"relative to {BASELINE}"]
    header += ["state bytes / parameter"]
    rows = []
    for name in results.names:
        grid = results.grid(name)
        cells = [compare.escaped(name)]
        cells += [f"{results.rate(name):g}{', **an edge**' if results.at_edge(name) else ''}"]
        cells += [f"{len(grid)}", f"{decades(grid, _WITHIN):.1f}", f"-{missed(grid):.3f}"]
        between = [f"× {results.slowness(name):.2f}", f"{results.updates[name]}"]
        for budget in ("steps", "time"):
            loss = compare.estimate(results.losses(name, budget))
            found = None if name == BASELINE else results.above(name, BASELINE, budget)
            cells += between if budget == "time" else []
            cells += [f"{loss.mean:.3f} ± {loss.standard_error:.3f}"]
            cells += ["" if found is None else markdown.difference(found)]
        rows.append([*cells, f"{results.of(name, 'steps')[0].state_bytes_per_parameter:.2f}"])
    return compare.table(header, rows)


def verdict(order: Order, found: compare.Difference | None) -> str:
    """Whether a published order holds.

    Args:
        order: the order.
        found: by how much the loss of the one that is said to be better is above the other's; None if a run
            diverged.
    """
    if found is None or found.low > 0:
        return NOT_HERE
    return HOLDS if found.high < (_WITHIN if order.on_par else 0) else OPEN


def orders(results: Results) -> str:
    """What papers report, and what was found, as Markdown."""
    rows = []
    for order in ORDERS:
        if {order.better, order.than} <= {*results.names}:
            both = [results.above(order.better, order.than, budget) for budget in ("steps", "time")]
            said = [
                f"{'a run diverged' if found is None else markdown.difference(found)}: {verdict(order, found)}"
                for found in both
            ]
            rows.append([order.source, order.says, *said])
    return compare.table(
        ["source", "what it says", "loss above, equal updates", "loss above, equal time"], rows
    )


def summary(record: compare.Record) -> str:
    """The part of the page with the result."""
    results = Results(record)
    edges = [name for name in results.names if results.at_edge(name)]
    warning = f"**The best rates of {', '.join(edges)} are at the edges of their grids.**\n\n" if edges else ""
    return f"{warning}{in_words(results)}\n\n{table(results)}"


def render(record: compare.Record) -> str:
    """The page, as Markdown."""
    results, settings = Results(record), record.settings
    seeds = len({run.seed for run in record.runs if run.seed >= CHOOSING})
    timed, tokens = results.seconds[BASELINE], settings["batch_size"] * settings["length"]
    return markdown.study_page(
        record,
        summary(record),
        f"The rate of each optimizer was chosen from seed 0 by validation loss; the losses are of {seeds} "
        "further seeds, on text that decided nothing. ± is the standard error over seeds; the intervals of one "
        "column hold together with 95 % (paired t, Bonferroni). Guessing by the frequency of tokens has a loss "
        f"of {record.extra['frequencies']['loss']:.3f}. In equal time an optimizer has the same rate. Decades "
        f"within {_WITHIN:g}: the range of rates around the best one whose validation loss is at most so many "
        "nats higher, a measure of how little tuning is needed. Finer grid: by how much its best rate might "
        "lower that loss, by a parabola through the best "
        f"rate and its neighbours. A step of {BASELINE} took {timed['seconds']:.3f} s ({timed['n']} measured, "
        f"interquartile range {timed['spread']:.3f}) on {tokens:,} tokens; what an optimizer adds to a step "
        "does not grow with the batch, so that larger batches bring the two budgets together.",
        f"![Training loss over updates and over time]({PICTURE})",
        "## What papers report",
        orders(results),
        f"An optimizer is on a par where the interval ends below {_WITHIN:g} nats.",
        numbers=", including those of rates that were not chosen",
    )


def draw(record: compare.Record, path: Path) -> None:
    """Plot the training loss over updates, and over time in units of the baseline's step."""
    results = Results(record)
    picture = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = picture.subplots(1, 2, sharey=True)
    for i, name in enumerate(results.names):
        style = "-" if i < 10 else "--"  # ten colors, in turn
        for axes, budget in ((left, "steps"), (right, "time")):
            losses = mean_over_runs(column(run, "loss") for run in results.of(name, budget))
            window = min(_WINDOW, len(losses))
            smooth = np.convolve(losses, np.full(window, 1 / window), "valid")
            updates = np.arange(window, len(losses) + 1)
            time = updates * (results.slowness(name) if axes is right else 1)
            axes.plot(time, smooth, style, label=name, linewidth=1)
    left.set(xlabel="updates", ylabel=f"training loss, mean of {_WINDOW} updates")
    right.set(xlabel=f"time, in steps of {BASELINE}")
    left.legend(frameon=False, fontsize=7)
    pictures.save(picture, path, dpi=130)
