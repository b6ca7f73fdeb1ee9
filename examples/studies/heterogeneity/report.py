"""The report of the heterogeneity study, rendered from its record.

Optimizers are compared by the final training loss, as in the source. A lead is a difference of decimal
logarithms of this loss, so a lead of 1 means a tenth of the loss. A difference is called significant if its
95 % interval over the seeds (paired t) excludes zero.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from scipy.stats import spearmanr

from examples.shared import markdown, pictures
from examples.shared.study_record import column
from examples.studies.heterogeneity.results import STATISTIC, Results, final_loss
from optimiz import compare

PICTURE = "study.png"

SHOWN = {
    STATISTIC: "Gini of norms",
    "gini_rms": "Gini of norms / √size",
    "max_over_median": "max / median",
    "log_spread": "spread of log₁₀ norms / √size",
}

# When a model is measured: (results, model, statistic) → values by seed.
WHEN = {
    "at the start": Results.at_start,
    "with SGD": lambda results, model, statistic: results.in_training(model, "sgd", statistic),
    "with Adam": lambda results, model, statistic: results.in_training(model, "adam", statistic),
}


def summary(record: compare.Record) -> str:
    """The part of the page with the result."""
    return in_words(Results(record))


def render(record: compare.Record) -> str:
    """The page, as Markdown."""
    results = Results(record)
    return markdown.study_page(
        record,
        in_words(results),
        f"![Training loss by optimizer, heterogeneity in training, and curvature by block]({PICTURE})",
        "## What Adam gains",
        "Each optimizer has the best rate of a decade grid, chosen on seed 0 by the final training loss. The "
        "loss is the geometric mean over seeds, with minimum and maximum in brackets. A lead is the decimal "
        "logarithm of the optimizer's final training loss divided by Adam's, with its 95 % interval over "
        "seeds.",
        _gains(results),
        "## How unequal gradients are",
        "Measured over weights and scales, before clipping, with one block per tensor: at the start, and as "
        "the mean over later epochs of the runs with SGD and with Adam. Values are means over seeds ± the "
        "standard error.",
        _unequal(results),
        "## Curvature at the start",
        "The largest eigenvalue of each diagonal block of the Hessian: its mean weighted by squared gradient "
        "norms, Λ_G, and by sizes, Λ_P, and Spearman's correlation of norm and eigenvalue over the blocks.",
        _curvatures(results),
        "## Two blocks of known gradient and curvature",
        "Steps until a quadratic has decreased to a hundredth, at the best rate of a fine grid with linear "
        "decay. The first block has gradient 1 and curvature 1.",
        _quadratics(results),
        numbers=" or is computed from it",
    )


def in_words(results: Results) -> str:
    """The result in words."""
    models = results.models
    ginis = {model: statistics.fmean(results.at_start(model)) for model in models}
    sentences = [
        "All models were trained from scratch on digits of 8 × 8 pixels; the source fine-tunes large ones"
        + _edges(results),
        f"**Adam's lead over SGD**, in decades of final training loss: {_leads(results, 'sgd')}.",
    ]
    if all("momentum" in results.optimizers(model) for model in models):
        sentences.append(f"Over SGD with momentum: {_leads(results, 'momentum')}.")
    sentences.append(
        "**Heterogeneity at the start**, the Gini coefficient of gradient norms, "
        + ("does" if _order(ginis) == _by_lead(results) else "does **not**")
        + " order the models as Adam's lead over SGD does: "
        + ", ".join(f"{model} {ginis[model]:.3f}" for model in _order(ginis))
        + "."
    )
    cells = {
        (when, name): {model: statistics.fmean(of(results, model, name)) for model in models}
        for when, of in WHEN.items()
        for name in SHOWN
    }
    alike = [f"{SHOWN[name]} {when}" for (when, name), x in cells.items() if _order(x) == _by_lead(results)]
    sentences.append(
        f"Of the {len(cells)} measurements below, {len(alike)} order the models as the lead does "
        f"({len(cells) / math.factorial(len(models)):.2g} would by chance): {', '.join(alike) or 'none'}."
    )
    if {"post_ln", "pre_ln"} <= set(models):
        sentences += [
            _placement("at the start", *(results.at_start(model) for model in ("post_ln", "pre_ln"))),
            _placement("in training with SGD", *(results.in_training(m, "sgd") for m in ("post_ln", "pre_ln"))),
            _placement(
                "in training with Adam", *(results.in_training(m, "adam") for m in ("post_ln", "pre_ln"))
            ),
        ]
    return " ".join([*sentences, _two_blocks_in_words(results)])


def _edges(results: Results) -> str:
    """The end of the first sentence, which says whose best rate is at an edge of its grid."""
    names = []
    for model in results.models:
        for name in results.optimizers(model):
            grid = {run.learning_rate for run in results.runs(model, name)}
            if compare.at_edge(results.best_rate(model, name), grid):
                names.append(f"{name} on {model}")
    if not names:
        return "."
    are = "is at the edge of its grid" if len(names) == 1 else "are at the edges of their grids"
    rates = "rate" if len(names) == 1 else "rates"
    return f"; **the best {rates} of {', '.join(names)} {are}**, and rates beyond may be better."


def _leads(results: Results, optimizer: str) -> str:
    leads = {model: results.lead(model, optimizer) for model in results.models}
    return ", ".join(f"{model} {markdown.difference(d, '.2f')}" for model, d in leads.items())


def _order(values: Mapping[str, float]) -> list[str]:
    """The names, by descending value."""
    return sorted(values, key=lambda name: -values[name])


def _by_lead(results: Results) -> list[str]:
    return _order({model: results.lead(model, "sgd").mean for model in results.models})


def _placement(when: str, post: Sequence[float], pre: Sequence[float]) -> str:
    """Whether Post-LN is more heterogeneous, as the source claims."""
    d = compare.paired_difference(post, pre)
    means = f"{statistics.fmean(post):.3f} and {statistics.fmean(pre):.3f}"
    numbers = f"{means}, difference {d.low:+.3f} to {d.high:+.3f}"
    if not d.significant:
        return f"There is **no significant difference** between Post-LN and Pre-LN {when} ({numbers})."
    return f"Post-LN is **{'more' if d.mean > 0 else 'less'}** heterogeneous than Pre-LN {when} ({numbers})."


def _two_blocks_in_words(results: Results) -> str:
    cells = results.two_blocks
    slower = [row["sgd"] / row["sign_sgd"] for row in cells]
    by_weights, by_curvature, by_norm = (
        float(spearmanr(slower, x).statistic)
        for x in (
            [row["gradient_weighted"] / row["size_weighted"] for row in cells],
            [row["curvature"] for row in cells],
            [abs(math.log(row["norm"])) for row in cells],
        )
    )
    alike = [x for x, row in zip(slower, cells, strict=True) if row["curvature"] == 1]
    return (
        f"On the quadratic, SGD needs up to {max(slower):.0f} times the steps of SignSGD; where the curvatures "
        f"are equal, it needs at most {max(alike):.2g} times, however unequal the gradients are. Over the "
        f"{len(cells)} cells, the rank correlation of this factor is {by_curvature:+.2f} with the ratio of "
        f"curvatures, {by_norm:+.2f} with the disparity of gradient norms and {by_weights:+.2f} with Λ_G / Λ_P."
    )


def _gains(results: Results) -> str:
    header = ["model", "optimizer", "rate", "at an edge of the grid", "final training loss ↓"]
    header += ["test accuracy ↑", "lead of Adam"]
    lines = []
    for model in results.models:
        for name in results.optimizers(model):
            runs, d = results.best_runs(model, name), results.lead(model, name)
            rate, grid = runs[0].learning_rate, {run.learning_rate for run in results.runs(model, name)}
            losses = [final_loss(run) for run in runs]
            mean = 10 ** statistics.fmean(map(math.log10, losses))
            accuracy = compare.estimate(np.array([run.test["accuracy"] for run in runs], float).tolist())
            lines.append(
                [
                    model,
                    name,
                    f"{rate:g}",
                    "yes" if compare.at_edge(rate, grid) else "no",
                    f"{mean:.2g} ({min(losses):.2g} to {max(losses):.2g})",
                    f"{accuracy.mean:.3f} ± {accuracy.standard_error:.3f}",
                    "" if name == "adam" else markdown.difference(d, ".2f"),
                ]
            )
    return compare.table(header, lines)


def _unequal(results: Results) -> str:
    lines = []
    for model in results.models:
        for when, of in WHEN.items():
            estimates = (compare.estimate(of(results, model, name)) for name in SHOWN)
            lines.append([model, when, *(f"{e.mean:.3g} ± {e.standard_error:.1g}" for e in estimates)])
    return compare.table(["model", "when", *SHOWN.values()], lines)


def _curvatures(results: Results) -> str:
    header = ["model", "seed", "Λ_G", "Λ_P", "Λ_G / Λ_P", "Spearman", "blocks", "converged blocks"]
    lines = []
    for row in results.curvature:
        gradient, size = row["gradient_weighted"], row["size_weighted"]
        cells = [gradient, size, gradient / size, row["rank_correlation"]]
        counts = [len(row["blocks"]), sum(row["converged"])]
        lines.append([row["model"], f"{row['seed']}", *(f"{x:.3g}" for x in cells), *map(str, counts)])
    return compare.table(header, lines)


def _quadratics(results: Results) -> str:
    header = ["gradient of the second block", "its curvature", "Λ_G / Λ_P", "SGD", "SignSGD"]
    lines = []
    for row in results.two_blocks:
        cells = [row["norm"], row["curvature"], row["gradient_weighted"] / row["size_weighted"]]
        lines.append([f"{x:.3g}" for x in [*cells, row["sgd"], row["sign_sgd"]]])
    return compare.table(header, lines)


def draw(record: compare.Record, path: Path) -> None:
    """Plot training losses, heterogeneity in training, and curvature by block."""
    results = Results(record)
    models = results.models
    picture = Figure(figsize=(13, 8), layout="constrained")
    grid = picture.add_gridspec(2, 6)
    for place, model in enumerate(models):
        axes = picture.add_subplot(grid[0, 2 * place : 2 * place + 2])
        for name in results.optimizers(model):
            curves = [column(run, "loss") for run in results.best_runs(model, name)]
            axes.plot(range(1, len(curves[0]) + 1), np.exp(np.mean(np.log(curves), 0)), label=name)
        axes.set(yscale="log", xlabel="epoch", title=f"{model}: training loss by epoch")
        axes.legend(frameon=False)
    for place, name in enumerate(("sgd", "adam")):
        axes = picture.add_subplot(grid[1, 2 * place : 2 * place + 2])
        for i, model in enumerate(models):
            ginis = [
                [probe[STATISTIC] for probe in run.extra["heterogeneity"]]
                for run in results.best_runs(model, name)
            ]
            axes.plot(np.array(ginis).T, color=f"C{i}", alpha=0.6, label=[model, *[None] * (len(ginis) - 1)])
        axes.set(xlabel="epochs done", ylim=(0, 1), title=f"{SHOWN[STATISTIC]} with {name}, a line per seed")
        axes.legend(frameon=False)
    axes = picture.add_subplot(grid[1, 4:])
    for row in (row for row in results.curvature if row["seed"] == 0):
        axes.loglog(row["norm"], np.maximum(row["eigenvalue"], 1e-6), "o", label=row["model"], alpha=0.7)
    axes.set(
        xlabel="gradient norm",
        ylabel="largest eigenvalue",
        title="blocks at the start; at the bottom: not positive",
    )
    if axes.lines:  # otherwise no curvature was measured
        axes.legend(frameon=False)
    pictures.save(picture, path, dpi=110)
