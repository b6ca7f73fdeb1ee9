"""Compare the fine-tuning of texts with `transformers.Trainer`: the same encoder, rows and epochs.

    pip install torch transformers accelerate
    python -m examples.benchmarks.beside_torch.trainer --output=runs/trainer
    python -m examples.benchmarks.beside_torch.trainer --task=mine --data=a.tsv --test=b.tsv --output=...

What is compared, decided before the first run: the test accuracy of `finetune_text --optimizer=adamw` and
that of a `Trainer` around `AutoModelForSequenceClassification`, each with its own defaults, except for the
number of epochs. Ours should be within one point of the `Trainer`, and at least that of TF-IDF + logistic
regression.

Without --data, the task is the topics of Python's docstrings. Every part is cut to at most --rows, the same
for all sides. Of a training file, a tenth is for validation, by which only TF-IDF chooses. A call adds one
task to the record of --output, and keeps the runs that are already there.
"""

import datetime
import functools
import hashlib
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from examples.benchmarks import programs
from examples.benchmarks.beside_torch import peers, trainer_report
from examples.data import baseline, data_flags, docstrings, text, text_baselines
from examples.models import pretrained
from examples.shared import command, markdown, program_flags, terminal
from optimiz import compare

Parts = Mapping[str, text.TextExamples]

FLAGS = program_flags.Flags()
_TASK = FLAGS.DEFINE_string("task", "topics", "Name of the task in the record.")
_MODEL = FLAGS.DEFINE_path("model", None, "Directory of a BERT, MiniLM or RoBERTa encoder.")
_DATA = FLAGS.DEFINE_path("data", None, "Training examples: .tsv, .csv or .jsonl; default: Python's own.")
_TEST = FLAGS.DEFINE_path("test", None, "Test examples, needed with --data.")
_FILES = data_flags.DataFlags(FLAGS)
_ROWS = FLAGS.DEFINE_integer("rows", 2000, "Maximum rows of a part, drawn at random.", lower_bound=20)
_EPOCHS = FLAGS.DEFINE_integer(
    "epochs", 3, "Epochs of each run, as many as the Trainer's default.", lower_bound=1
)
_SEEDS = FLAGS.DEFINE_integer("seeds", 3, "Runs of each side.", lower_bound=1)
_OUTPUT = FLAGS.DEFINE_path("output", None, "Directory of the record and the report.", required=True)


def read_data() -> dict[str, text.TextExamples]:
    """The parts "train", "validation" and "test", each cut to a random sample."""
    if _DATA.value is None:
        _FILES.refuse_without("--data")
        return {name: text.sample(part, _ROWS.value) for name, part in docstrings.load_split().items()}
    if _TEST.value is None:
        raise ValueError("--data needs --test")
    train = _FILES.read(_DATA.value)
    test = text.sample(_FILES.read(_TEST.value, train.label_names), _ROWS.value)
    return text.split(text.sample(train, _ROWS.value), {"train": 0.9, "validation": 0.1}) | {"test": test}


def columns(part: text.TextExamples) -> dict[str, list[str]]:
    """The texts and the labels of a part, by the names of columns that `text_files` knows."""
    found = {"label": [part.label_names[label] for label in part.labels]}
    if part.pairs is None:
        return {"sentence": [*part.texts]} | found
    return {"sentence1": [*part.texts], "sentence2": [*part.pairs]} | found


def ours(parts: Parts, seed: int) -> dict[str, float]:
    """The test metrics of `finetune_text` with its defaults, run by its command."""
    with tempfile.TemporaryDirectory() as folder:
        argv = ["examples.finetune_text", "--optimizer=adamw", f"--epochs={_EPOCHS.value}"]
        argv += [f"--seed={seed}", f"--output={folder}/run"]
        argv += [] if _MODEL.value is None else [f"--model={_MODEL.value}"]
        for flag, name in {"data": "train", "validation": "validation", "test": "test"}.items():
            rows = columns(parts[name])
            lines = [json.dumps(dict(zip(rows, row, strict=True))) for row in zip(*rows.values(), strict=True)]
            path = Path(folder) / f"{name}.jsonl"
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")
            argv.append(f"--{flag}={path}")
        programs.run(_TASK.value, argv)
        (run,) = compare.Record.read(Path(folder) / "run/record.json").runs
    return {name: run.test[name] for name in baseline.METRICS}


def trainers(parts: Parts, seed: int) -> dict[str, float]:
    """The test metrics of `transformers.Trainer` with its defaults.

    Only what does not decide a result is set: no checkpoints, no trackers, no bar.
    """
    import transformers

    directory, train = pretrained.find(_MODEL.value), parts["train"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(directory)

    def encoded(part: text.TextExamples) -> list[dict[str, Any]]:
        tokens = tokenizer([*part.texts], None if part.pairs is None else [*part.pairs], truncation=True)
        rows = (dict(zip(tokens, row, strict=True)) for row in zip(*tokens.values(), strict=True))
        return [row | {"labels": int(label)} for row, label in zip(rows, part.labels, strict=True)]

    def model() -> Any:
        make = transformers.AutoModelForSequenceClassification.from_pretrained
        return make(directory, num_labels=len(train.label_names))

    with tempfile.TemporaryDirectory() as folder:
        quiet = {"save_strategy": "no", "report_to": "none", "disable_tqdm": True}
        trainer = transformers.Trainer(
            model_init=model,  # called after the seed is set
            args=transformers.TrainingArguments(folder, num_train_epochs=_EPOCHS.value, seed=seed, **quiet),
            train_dataset=encoded(train),
            data_collator=transformers.DataCollatorWithPadding(tokenizer),
        )
        trainer.train()
        logits = trainer.predict(encoded(parts["test"])).predictions
    return baseline.metrics(parts["test"].labels, logits.argmax(-1))


def linear(parts: Parts) -> dict[str, float]:
    """The test metrics of TF-IDF + logistic regression."""
    (found,) = text_baselines.tfidf(**parts).values()
    return found["test"]


def sides(parts: Parts) -> dict[tuple[str, int], Callable[[], dict[str, float]]]:
    """(Side, seed) → the function that measures it."""
    found: dict[tuple[str, int], Callable[[], dict[str, float]]] = {
        (trainer_report.LINEAR, 0): functools.partial(linear, parts)
    }
    for seed in range(_SEEDS.value):
        found[trainer_report.OURS, seed] = functools.partial(ours, parts, seed)
        found[trainer_report.THEIRS, seed] = functools.partial(trainers, parts, seed)
    return found


def described(parts: Parts) -> dict[str, Any]:
    """What all runs of a task share, for its rows."""
    content = json.dumps({name: columns(part) for name, part in parts.items()}, sort_keys=True)
    return {
        "task": _TASK.value,
        "epochs": _EPOCHS.value,
        "classes": len(parts["train"].label_names),
        "examples": {name: len(part.texts) for name, part in parts.items()},
        "data_sha256": hashlib.sha256(content.encode()).hexdigest(),
    }


def main() -> None:
    """Measure what is missing of the task, and write the record and the report."""
    needed = peers.versions("torch", "transformers", "accelerate")
    path, parts = Path(_OUTPUT.value) / "record.json", read_data()
    about = described(parts)
    record: dict[str, Any] = {"environment": compare.environment() | {"peers": needed}, "rows": []}
    if path.exists():
        record = markdown.read_record(path, trainer_report.report)
    known = [row for row in record["rows"] if row["task"] == about["task"]]
    if any(row[name] != value for row in known for name, value in about.items()):
        raise ValueError(f"--task={_TASK.value}: {path} has runs of other data or epochs under this name")
    there = {(row["side"], row["seed"]) for row in known}
    for (side, seed), measure in sides(parts).items():
        if (side, seed) not in there:
            date = {"date": str(datetime.date.today())}
            record["rows"].append(about | {"side": side, "seed": seed, "test": measure()} | date)
            markdown.write_record(record, path, trainer_report.report)
    terminal.show(trainer_report.summary(record))


if __name__ == "__main__":
    command.run(main, FLAGS)
