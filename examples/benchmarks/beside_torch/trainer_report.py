"""The report of the fine-tuning next to `transformers.Trainer`, rendered from its record."""

from collections.abc import Mapping
from typing import Any

from examples.shared import markdown
from optimiz import compare

Record = Mapping[str, Any]

OURS, THEIRS, LINEAR = "adamw", "Trainer", "TF-IDF + logistic regression"
MARGIN = 1.0  # points by which ours may be behind the Trainer
LEAST = 3  # seeds, below which nothing is concluded


def scores(record: Record, task: str, side: str, metric: str) -> list[float]:
    """A test metric of a side on a task, in the order of the seeds."""
    rows = [row for row in record["rows"] if (row["task"], row["side"]) == (task, side)]
    return [row["test"][metric] for row in sorted(rows, key=lambda row: row["seed"])]


def points(record: Record, task: str, side: str) -> list[float]:
    """The test accuracies of a side on a task in percent, in the order of the seeds."""
    return [100 * accuracy for accuracy in scores(record, task, side, "accuracy")]


def _correlations(record: Record, task: str) -> str:
    """The mean of Matthews correlation over seeds, side by side."""
    found = [scores(record, task, side, "mcc") for side in (OURS, THEIRS, LINEAR)]
    return ", ".join(f"{compare.estimate(values).mean:.2f}" if values else "" for values in found)


def lead(record: Record, task: str) -> compare.Difference | None:
    """Our lead over the Trainer in points, over the seeds that both have; None if there are none."""
    pairs = [*zip(points(record, task, OURS), points(record, task, THEIRS), strict=False)]
    return compare.paired_difference(*zip(*pairs, strict=True)) if pairs else None


def verdict(record: Record, task: str) -> str:
    """Whether ours keeps up with the Trainer and with the linear model on a task; open for few seeds."""
    found = lead(record, task)
    simple, ours = points(record, task, LINEAR), points(record, task, OURS)
    if found is None or found.n < LEAST or not simple:
        return "open"
    behind = ["the Trainer"] if found.mean < -MARGIN else []
    behind += ["TF-IDF"] if compare.estimate(ours).mean < simple[0] else []
    return f"**behind {compare.joined(behind)}**" if behind else "keeps up"


def _accuracy(found: list[float]) -> str:
    """The mean of accuracies and, of several, its standard error."""
    if not found:
        return ""
    mean, error, n = compare.estimate(found)
    return f"{mean:.1f}" if n == 1 else f"{mean:.1f} ± {error:.1f}"


def _lead(found: compare.Difference | None) -> str:
    if found is None:
        return ""
    return f"{found.mean:+.1f}" if found.n == 1 else markdown.difference(found, ".1f")


def summary(record: Record) -> str:
    """One line per task, followed by when and where it was measured."""
    header = ["task", "classes", "train", "test", "`finetune_text` ↑", "`Trainer` ↑", f"{LINEAR} ↑"]
    header += ["lead over the Trainer", "verdict", "MCC ↑", "seeds"]
    lines = []
    for task in dict.fromkeys(row["task"] for row in record["rows"]):
        row = next(row for row in record["rows"] if row["task"] == task)
        sides = [points(record, task, side) for side in (OURS, THEIRS, LINEAR)]
        cells = [compare.escaped(task), str(row["classes"])]
        cells += [f"{row['examples'][part]:,}" for part in ("train", "test")]
        cells += [*map(_accuracy, sides), _lead(lead(record, task)), verdict(record, task)]
        lines.append([*cells, _correlations(record, task), str(min(map(len, sides[:2])))])
    where = record["environment"]
    versions, dates = where["versions"] | where["peers"], sorted({row["date"] for row in record["rows"]})
    epochs = sorted({row["epochs"] for row in record["rows"]})
    words = (
        f"{' to '.join(dict.fromkeys((dates[0], dates[-1])))}, {where['device']} with {where['cpu_cores']} "
        f"cores, jax {versions['jax']}, torch {versions['torch']}, transformers {versions['transformers']}. "
        f"Test accuracy in percent, and its differences in points, of AdamW for "
        f"{' or '.join(map(str, epochs))} epochs on the same rows; all else is the default of each program. "
        "MCC is Matthews correlation of the three, in the same order. "
        f"To keep up is to be at most {MARGIN:g} point behind the Trainer, and not behind {LINEAR}, in the "
        f"mean; it is open with fewer than {LEAST} seeds. ± is the standard error over seeds, "
        "and the interval of a lead is Student's, of 95 %; neither has the error of the test part, which all "
        "runs share.\n"
    )
    return f"{compare.table(header, lines)}\n\n{words}"


def report(record: Record) -> str:
    """The whole page, in Markdown."""
    return f"# Fine-tuning next to PyTorch's Trainer\n\n{summary(record)}"
