"""Sections on single runs: their parameters, classes, problems, samples and pictures, and a table of all."""

from collections.abc import Sequence

import numpy as np

from optimiz import diagnostics
from optimiz.compare.markdown import code, decimal, escaped, fenced, table
from optimiz.compare.methods import Method, leader
from optimiz.compare.record import Record
from optimiz.compare.sections.named import arm_of

MATRIX = 12  # classes of a confusion matrix that is shown whole
LABELS = 100  # rows of a table of labels


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
        examples = matrix[i].sum()
        shares = _shares(matrix[i, i], matrix[:, i].sum(), examples)
        others = np.where(np.arange(len(names)) == i, 0, matrix[i])
        worst = others.argmax()
        mistaken = f"{names[worst]} ({others[worst]})" if others[worst] else ""
        rows.append([name, f"{examples}", *shares, mistaken])
    header = ["class", *_SHARES, "most often mistaken for"]
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


def by_label(record: Record, compared: Sequence[Method]) -> list[str]:
    """How well the best method finds each label, if an example may have several."""
    best, _ = leader(compared)
    if not (of := best.runs[0].extra.get("labels")):
        return []
    counts = list(zip(of["names"], of["examples"], of["predicted"], of["right"], strict=True))
    most = counts if len(counts) <= LABELS else sorted(counts, key=lambda row: -row[1])[:LABELS]
    rows = [
        [escaped(name), f"{examples}", *_shares(right, said, examples)] for name, examples, said, right in most
    ]
    which = "each label" if most is counts else f"the {LABELS} most frequent of {len(counts)} labels"
    given = f"every label whose probability is above {of['threshold']:g}"
    introduction = f"Test examples of {which}. {escaped(best.name)} gives an example {given}."
    return ["## Which labels are found?", introduction, table(["label", *_SHARES], rows)]


_SHARES = ("examples", "precision ↑", "recall ↑", "F1 ↑")


def _shares(right: int, said: int, examples: int) -> list[str]:
    """Precision, recall and F1: right predictions among all, among examples, and both; empty without any."""
    shares = (right, said), (right, examples), (2 * right, said + examples)
    return [decimal(part / of) if of else "" for part, of in shares]


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
