"""The sections of a report, each of which answers one question.

Each function takes the record, its methods from :func:`optimiz.compare.methods.by_method` and the metric that
ranks them, and returns paragraphs of Markdown: none if the record does not answer the question.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from optimiz import diagnostics
from optimiz.compare.markdown import code, decimal, escaped, fenced, measured, table
from optimiz.compare.methods import (
    CONFIDENCE,
    NEAR,
    Method,
    common_target,
    have_grids,
    leader,
    leads,
    pair_confidence,
    paired_deviation,
)
from optimiz.compare.power import MOST, POWER, detectable, deviation_factor, seeds_needed, sequential_difference
from optimiz.compare.record import Record
from optimiz.compare.run import Run
from optimiz.compare.statistics import Difference

MATRIX = 12  # classes of a confusion matrix that is shown whole


def differences(record: Record, compared: Sequence[Method], metric: str) -> list[str]:
    """Whether the lead of the best method is real."""
    best, others = leader(compared)
    if not others or len(best.runs) == 1 or not math.isfinite(best.score.mean):
        return []
    rows = []
    for (method, lead), (_, at_any) in zip(
        leads(compared), leads(compared, sequential_difference), strict=True
    ):
        pairs = ", ".join(f"{a - b:+.3f}" for a, b in zip(best.scores, method.scores, strict=True))
        verdict = "told apart" if lead.significant else "not told apart"
        rows.append([escaped(method.name), decimal(lead.mean), _bounds(lead), _bounds(at_any), pairs, verdict])
    header = [
        "method",
        "mean lead over it",
        "interval",
        "interval at any number of seeds",
        "by seed",
        "verdict",
    ]
    return [
        "## Is the lead real?",
        f"The lead of {escaped(best.name)} in test {record.directed(metric)}, seed by seed: for each seed, "
        "both methods start with the same parameters and see the same batches. With a confidence of "
        f"{CONFIDENCE:.0%}, the intervals together contain every mean lead over very many seeds (paired t, "
        "Bonferroni over all pairs of methods). If an interval contains zero, the seeds do not tell the two "
        "methods apart. Another test set would add an uncertainty of its own.",
        "These intervals are for a number of seeds that was chosen beforehand. Whoever adds seeds until an "
        "interval excludes zero needs the intervals at any number of seeds, which hold at all numbers at once: "
        f"stopping by them errs with a probability of at most {1 - CONFIDENCE:.0%}, if leads are normal.",
        table(header, rows),
    ]


def seeds(record: Record, compared: Sequence[Method], metric: str) -> list[str]:
    """How many seeds would tell which difference."""
    best, others = leader(compared)
    n, confidence = len(best.runs), pair_confidence(compared)
    known = [(method, paired_deviation(best, method)) for method in others]
    known = [(method, deviation) for method, deviation in known if deviation > 0]
    if n == 1 or not known:
        return []
    numbers = [n, *(more for more in _NUMBERS_OF_SEEDS if more > n)]
    rows = []
    for method, deviation in known:
        needed = seeds_needed(best.score.mean - method.score.mean, deviation, confidence=confidence)
        least = [decimal(detectable(deviation, number, confidence=confidence)) for number in numbers]
        shown = f"more than {MOST:,}" if needed is None else f"{needed}"
        rows.append([escaped(method.name), decimal(deviation), *least, shown])
    header = ["method", "standard deviation of the lead", *(f"told by {number} seeds" for number in numbers)]
    return [
        "## How many seeds?",
        f"The smallest mean lead of {escaped(best.name)} in test {record.directed(metric)} that numbers of "
        f"seeds would tell with a probability of {POWER:.0%}, at the confidence of the intervals above, and "
        "the number that would tell a lead as large as the present one. The standard deviation comes from the "
        f"same {n} seeds: the true one may be up to {deviation_factor(n):.2g} times as large (90% limit), and "
        "the leads that are told with it.",
        table([*header, "seeds for the present lead"], rows),
    ]


_NUMBERS_OF_SEEDS = (5, 10, 20)


def _bounds(difference: Difference) -> str:
    return f"{difference.low:+.3f} to {difference.high:+.3f}" if math.isfinite(difference.low) else "none"


def rates(record: Record, compared: Sequence[Method], metric: str) -> list[str]:
    """How much the learning rate matters."""
    if not have_grids(compared):
        return []
    sign = record.sign(metric)
    rows = []
    for method in compared:
        depends = method.sensitivity()
        if depends is None:
            continue
        grid = ", ".join(f"{rate:g}" for rate in method.levels if rate is not None)
        width = "all diverged"
        if not math.isnan(depends.low):
            width = f"{depends.low:g} to {depends.high:g} (×{depends.factor:.3g})"
        rows.append(
            [
                escaped(method.name),
                grid,
                decimal(sign * depends.mean),
                decimal(depends.spread),
                width,
                f"{method.diverged} of {method.tried}",
            ]
        )
    header = [
        "method",
        "rates",
        f"mean validation {record.directed(metric)}",
        "spread",
        f"within {NEAR} of the best",
        "diverged",
    ]
    return [
        "## How much does the learning rate matter?",
        f"Final validation {escaped(metric)}, by which the rate of each method was chosen: its mean and "
        "standard deviation over the grid, and the range of rates around the best one that come within "
        f"{NEAR} of it. The smaller the spread and the wider the range, the less tuning a method needs.",
        f"![Validation {escaped(metric)} against learning rate](rates.png)",
        table(header, rows),
    ]


def cost(record: Record, compared: Sequence[Method], metric: str) -> list[str]:
    """What the methods cost."""
    target, sign = common_target(record, compared, metric), record.sign(metric)
    unit = "reference seconds" if record.runs[0].budget is not None else "updates"
    header = ["method", "forward passes / update", "compilation, s", "temporary MB"]
    reached = decimal(sign * target) if math.isfinite(target) else "that all reach"
    header += [f"{unit} to {escaped(metric)} {reached}"]
    if record.price:
        header.append(f"{escaped(record.price['currency'])} / run")
    if record.energy:
        header.append("J / run, estimated" if record.energy["meter"]["source"] == "estimate" else "J / run")
    rows = []
    for method in compared:
        spent = method.time_to(record, metric, target) if math.isfinite(target) else math.inf
        temporary = method.runs[0].temporary_bytes
        compilations = [run.compile_seconds for run in method.runs if run.compile_seconds is not None]
        rows.append(
            [
                escaped(method.name),
                measured(method.forwards_per_step(), ".2f"),
                measured(max(compilations, default=None), ".1f"),
                "not known" if temporary is None else f"{temporary / 1e6:.3g}",
                f"{spent:.3g}" if math.isfinite(spent) else "never",
            ]
        )
        if record.price:
            rents = [rent for run in method.runs if (rent := record.rent(run)) is not None]
            rows[-1].append(measured(sum(rents) / len(rents) if rents else None, ".3g"))
        if record.energy:
            rows[-1].append(_joules(record, method))
    means = [text(record) for text, given in ((_price, record.price), (_energy, record.energy)) if given]
    return [
        "## What did it cost?",
        "Work is counted in forward passes. A backward pass counts 2, so a plain update counts 3; further "
        "evaluations by the optimizer are added. Temporary memory is what the compiler plans for a training "
        "step in addition to parameters, state and batch. The last column shows when an evaluation of each "
        "method first reached the validation level that every run reaches in the end (median over seeds). The "
        "schedules were made for whole runs; stopping earlier would need a different one.",
        *means,
        *[f"![Test {escaped(metric)} against the cost of a run](cost.png)"] * (len(compared) > 1),
        table(header, rows),
    ]


def by_class(record: Record, compared: Sequence[Method]) -> list[str]:
    """What the best method gets right in each class, if its run has a confusion matrix."""
    best, _ = leader(compared)
    confusion = best.runs[0].extra.get("confusion")
    if not confusion:
        return []
    names, matrix = [escaped(name) for name in confusion["classes"]], np.array(confusion["matrix"])
    rows = []
    for i, name in enumerate(names):
        right, examples, said = matrix[i, i], matrix[i].sum(), matrix[:, i].sum()
        others = np.where(np.arange(len(names)) == i, 0, matrix[i])
        worst = others.argmax()
        shares = [right / said if said else None, right / examples if examples else None]
        shares.append(2 * right / (said + examples) if said + examples else None)
        mistaken = f"{names[worst]} ({others[worst]})" if others[worst] else ""
        rows.append([name, f"{examples}", *("" if x is None else decimal(x) for x in shares), mistaken])
    header = ["class", "examples", "precision ↑", "recall ↑", "F1 ↑", "most often mistaken for"]
    found = [
        "## Which classes are told apart?",
        f"Test examples of each class, as {escaped(best.name)} classifies them.",
        table(header, rows),
    ]
    if len(names) > MATRIX:
        return found
    cells = [[name, *map(str, row)] for name, row in zip(names, matrix.tolist(), strict=True)]
    return [
        *found,
        "The classes of the examples in rows, and what they were classified as in columns:",
        table(["", *names], cells),
    ]


def kept(record: Record) -> list[str]:
    """Which parameters were tested, if they are not those after the last update."""
    lines = []
    for run in record.runs:
        if not (of := run.extra.get("kept")):
            continue
        line = (
            f"- {_arm(run)}, seed {run.seed}: after {of['steps']} updates, with the best validation "
            f"{escaped(of['metric'])}, {of['value']:.4g}. "
        )
        if of["stopped_early"]:
            line += (
                f"The run ended early, after {run.steps} of {of['of_steps']} updates, as {of['patience']} "
                "evaluations in a row were no better; a rate that decays over all of them had not decayed to 0."
            )
        else:
            line += f"The run went on to {run.steps} updates."
        lines.append(line)
    if not lines:
        return []
    introduction = "Those of the best evaluation of a run, not its last ones."
    return ["## Which parameters were tested?", introduction, "\n".join(lines)]


def _price(record: Record) -> str:
    """What the money of a run is computed from."""
    price = record.price
    time = "its own time" if record.runs[0].budget is None else "reference time"
    return (
        f"The price of a run is that of {price['devices']} device(s) at {price['per_device_hour']:g} "
        f"{escaped(price['currency'])} an hour ({escaped(price['what'])}), for {time} without compilation and "
        "evaluation."
    )


def _joules(record: Record, method: Method) -> str:
    """The mean energy of the runs of a method, with its standard uncertainty."""
    energies = [record.joules(run) for run in method.runs]
    known = [energy for energy in energies if energy is not None]
    if len(known) < len(energies):
        return "not known"
    joules, uncertainty = (sum(numbers) / len(known) for numbers in zip(*known, strict=True))
    return f"{joules:.4g} ± {uncertainty:.2g}"


def _energy(record: Record) -> str:
    """What the energy of a run is computed from."""
    meter = record.energy["meter"]
    if meter["source"] == "estimate":
        return (
            f"Energy was not measured: it is the time of the work at a stated power of {meter['watts']:g} W "
            f"({escaped(meter['what'])}), and orders runs as time does."
        )
    per_unit = record.energy["per_unit"]
    units = ", ".join(f"{escaped(name)} {one['joules']:.3g} J" for name, one in per_unit.items())
    return (
        f"Energy is that of the work of a run on the reference, by {escaped(meter['source'])} ({units}): "
        "gross, with the power at rest and with all else that ran; without fans, power supply and network. ± "
        "is the standard uncertainty from that of a unit, which is the same in all runs."
    )


def beginning(record: Record) -> list[str]:
    """How the runs started."""
    ginis = [gini for run in record.runs if (gini := run.heterogeneity.get("gini_norm")) is not None]
    if not ginis:
        return []
    spans = " to ".join(sorted({f"{gini:.2f}" for gini in (min(ginis), max(ginis))}))
    begun = {(run.seed, run.fingerprint) for run in record.runs}
    alike = len(begun) == len({run.seed for run in record.runs})
    return [
        "## How did they start?",
        "For each seed, the SHA-256 of initial parameters, random key and first batches is "
        f"{'the same' if alike else '**not** the same'} in every run. The norms of the first gradient over the "
        f"parameter tensors have a Gini coefficient of {spans} (0: all are equal; near 1: one is much larger "
        "than the others). If it is high, a single learning rate suits few of the tensors.",
    ]


def noise(record: Record, compared: Sequence[Method]) -> list[str]:
    """How noisy the gradients were."""
    rows = []
    for method in compared:
        found = [_noise_rows(run) for run in method.runs]
        halves = [
            [one for measured in found for one in half(measured)]
            for half in (lambda x: x[: len(x) // 2], lambda x: x[len(x) // 2 :])
        ]
        if not all(any(math.isfinite(one["trace"]) for one in half) for half in halves):
            continue
        early, late = map(diagnostics.noise_level, halves)
        rows.append([escaped(method.name), f"{late.batch_size:g}", _level(early), _level(late)])
    if not rows:
        return []
    return [
        "## How noisy are the gradients?",
        "The simple noise scale, in examples: the trace of the covariance of an example's gradient over the "
        "squared norm of its mean, each averaged over the seeds and over the earlier or the later half of the "
        "measurements, with a 95 % interval where there are enough. It is a guide to the critical batch "
        "size. Below it, a batch twice as large nearly halves the steps; far above it, hardly any are saved. "
        "At a batch of that size, both steps and examples are about twice their least, if the loss is curved "
        "alike in all directions and the optimizer is SGD. Where no gradient shows above the noise, it is "
        "hidden.",
        table(["method", "batch size", "noise scale, earlier", "noise scale, later"], rows),
        *_tails(compared),
    ]


def _noise_rows(run: Run) -> list[dict[str, Any]]:
    """The measurements of the noise in a run, in order of their steps."""
    rows = [row for row in run.rows if "noise" in row]
    return [row["noise"] for row in sorted(rows, key=lambda row: row["step"])]


def _level(level: diagnostics.NoiseLevel) -> str:
    low, scale, high = (
        f"{x:.3g}" if math.isfinite(x) else "hidden" for x in (level.low, level.scale, level.high)
    )
    return f"{scale} ({low} to {high})" if level.low > 0 else scale


def _tails(compared: Sequence[Method]) -> list[str]:
    """How heavy the tails of the noise are, if that was measured."""
    rows = []
    for method in compared:
        last = [_noise_rows(run)[-1:] for run in method.runs]
        found = [one["tails"] for measured in last for one in measured if "tails" in one]
        if found:
            shown = [f"{np.mean([tails[name] for tails in found]):.3g}" for name in diagnostics.Tails._fields]
            rows.append([escaped(method.name), *shown])
    if not rows:
        return []
    header = [
        "method",
        "excess kurtosis",
        "share above 10",
        "tail index, 1 %",
        "0.1 %",
        "99th percentile / median",
    ]
    return [
        "The tails of that noise at the last measurement, over batches, for up to 1,000 entries of the "
        "gradient, each standardised by its own median: the median of their excess kurtosis (0 for a "
        "Gaussian) and the share of them above 10, the tail index from the largest 1 % and 0.1 % (heavy if "
        "both are below 4; a Gaussian has about 9 and 13), and the distance of a batch's gradient from the "
        "mean. Means over seeds.",
        table(header, rows),
    ]


def health(record: Record) -> list[str]:
    """What went wrong."""
    lines: dict[str, list[str]] = {}
    for run in record.runs:
        for finding in diagnostics.health(run.rows):
            where = f"{_arm(run)}, seed {run.seed}: {escaped(finding.evidence)}"
            lines.setdefault(f"**{finding.name.replace('_', ' ')}** — {finding.remedy}", []).append(where)
    if not lines:
        return []
    texts = [f"{remedy}\n\n" + "\n".join(f"- {where}" for where in places) for remedy, places in lines.items()]
    introduction = "Problems found in the metrics of single runs, each with a suggestion."
    return ["## What went wrong", introduction, *texts]


def samples(record: Record) -> list[str]:
    """What the models write."""
    written = [f"{escaped(name)}:\n\n{fenced(lines)}" for name, lines in record.samples.items()]
    return ["## What the models write", *written] if written else []


def pictures(record: Record) -> list[str]:
    """The pictures that the record names."""
    shown = [f"![{escaped(caption)}]({name})" for name, caption in record.pictures.items()]
    return ["## Pictures", *shown] if shown else []


def all_runs(record: Record, metric: str) -> list[str]:
    """Every run, if methods have more than one."""
    if len(record.runs) == len({run.optimizer for run in record.runs}):
        return []
    what = record.directed(metric)
    header = ["run", "seed", f"validation {what}", f"test {what}", "updates", "diverged at", "began with"]
    rows = []
    for run in record.runs:
        validation, test = (
            record.sign(metric) * record.scores([run], metric, part)[0] for part in ("validation", "test")
        )
        diverged = "" if run.diverged_at is None else f"{run.diverged_at}"
        rows.append(
            [
                _arm(run),
                f"{run.seed}",
                decimal(validation),
                decimal(test),
                f"{run.steps}",
                diverged,
                code(run.fingerprint[:12]) if run.fingerprint else "",
            ]
        )
    return ["## All runs", table(header, rows)]


def _arm(run: Run) -> str:
    name = escaped(run.optimizer)
    return name if run.learning_rate is None else f"{name} {run.learning_rate:g}"
