"""Sections on single runs: their parameters, classes, problems, samples and pictures, and a table of all."""

from collections.abc import Sequence

import numpy as np

from optimiz import diagnostics
from optimiz.compare.markdown import code, decimal, escaped, fenced, table
from optimiz.compare.methods import Method, leader
from optimiz.compare.record import Record
from optimiz.compare.sections.named import arm_of

MATRIX = 12  # classes of a confusion matrix that is shown whole


def kept(record: Record) -> list[str]:
    """Which parameters were tested, if they are not those after the last update."""
    lines = []
    for run in record.runs:
        if not (of := run.extra.get("kept")):
            continue
        line = (
            f"- {arm_of(run)}, seed {run.seed}: after {of['steps']} updates, with the best validation "
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


def health(record: Record) -> list[str]:
    """What went wrong."""
    lines: dict[str, list[str]] = {}
    for run in record.runs:
        for finding in diagnostics.health(run.rows):
            where = f"{arm_of(run)}, seed {run.seed}: {escaped(finding.evidence)}"
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
                arm_of(run),
                f"{run.seed}",
                decimal(validation),
                decimal(test),
                f"{run.steps}",
                diverged,
                code(run.fingerprint[:12]) if run.fingerprint else "",
            ]
        )
    return ["## All runs", table(header, rows)]
