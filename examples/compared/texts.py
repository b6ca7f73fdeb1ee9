"""Classification of text: whether words are in their order, the default of a comparison, or of a file."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

from examples.compared.setting import Metrics, RunMatrix, Setting
from examples.data import baseline, data_flags, row_files, targets, text, text_baselines, word_order
from examples.models import pretrained
from examples.shared import optimizers
from examples.shared.budget_arms import HEAD_RATE
from examples.shared.train_each import made_or_left_out
from examples.tasks.text_classification import TextClassification
from examples.tasks.text_controls import controls
from optimiz import compare

NAME = "word_order"
METRICS = ("accuracy", "macro_f1", "mcc", "loss")
_DROPOUT, _LENGTH = 0.1, 16


def setting(
    task: str,
    files: data_flags.DataFlags,
    *,
    model: str | None,
    batch_size: int,
    length: int | None,
    trained_controls: bool,
) -> Setting:
    """The setting of a task.

    Args:
        task: `NAME`, or a file of examples.
        files: the flags that describe files.
        model: directory or Hub id of an encoder; None for the default.
        batch_size: examples per update.
        length: tokens per example; None for what a file needs, or 16.
        trained_controls: whether to train on half of the data, and the head alone, too.

    Raises:
        OSError: a file cannot be read.
        ValueError: data or model are refused.
    """
    if task == NAME:
        files.refuse_without("--task")
        parts = word_order.load_split()
    else:  # an evaluation costs only a few steps
        parts = text.split(files.read(task), {"train": 0.78, "validation": 0.11, "test": 0.11})
    directory = pretrained.find(model)
    length = _LENGTH if task == NAME and length is None else length
    problem = TextClassification(parts, directory, length=length, dropout=_DROPOUT, pooling="mean")

    def of_text(
        setting: Setting,
        best: compare.Arm,
        run_matrix: RunMatrix,
        left_out: dict[str, str],
        seeds: Sequence[int],
    ) -> dict[str, list[Metrics]]:
        given = {"seeds": seeds, "batch_size": batch_size, "trained": trained_controls}
        return controls(problem, best, run_matrix, left_out, **given)

    found = of_problem(parts, problem, pretrained.described(model, directory), batch_size, HEAD_RATE)
    return dataclasses.replace(found, controls=of_text)


def of_problem(
    parts: Mapping[str, text.TextExamples],
    problem: TextClassification,
    name: str,
    batch_size: int,
    head_rate: float,
) -> Setting:
    """The setting of a problem on texts.

    Args:
        parts: "train" and others.
        problem: the problem that they are.
        name: name of the encoder.
        batch_size: examples per update.
        head_rate: rate of the new head, in multiples of the encoder's.
    """
    train, target = parts["train"], problem.target
    classes = len(train.label_names) if train.problem == targets.CLASS else None
    return Setting(
        title=f"fine-tuning {name}",
        about={"model": name, **problem.summary.rows()},
        decisive={"length": problem.length},
        identity={"model_and_data": problem.fingerprint()},
        task_of=lambda seed: problem.task(batch_size, seed),
        test=problem.evaluation("test"),
        test_examples=len(parts["test"].texts),
        metrics=tuple(dict.fromkeys((target.ranked_by, *target.metrics, "loss"))),
        choose=functools.partial(optimizers.choose, classes=classes),
        multipliers=optimizers.head_multipliers(head_rate),
        show=problem.summary.show,
        baselines=functools.partial(baselines, parts),
    )


def baselines(
    parts: Mapping[str, text.TextExamples], left_out: dict[str, str]
) -> dict[str, dict[str, dict[str, float]]]:
    """The most frequent class, if there are classes, and a linear model on TF-IDF.

    Args:
        parts: "train" and others.
        left_out: receives the reason if the second cannot be made.
    """
    print("computing the baseline, without any optimizer", flush=True)
    compute = functools.partial(text_baselines.tfidf, **parts)
    found = baseline.majority_baseline(**parts) if parts["train"].problem == targets.CLASS else {}
    return found | (made_or_left_out("TF-IDF baseline", left_out, compute) or {})


def exists(task: str) -> bool:
    """Whether a value of ``--task`` is `NAME`, or names files."""
    return task == NAME or row_files.exist(Path(task))
