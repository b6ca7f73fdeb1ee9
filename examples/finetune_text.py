"""Fine-tune a pretrained encoder on text classification, with one optimizer or several, and report.

    python -m examples.finetune_text --output=runs/topics
    python -m examples.finetune_text --data=train.tsv --test=dev.tsv --optimizer=lion --output=runs/mine

Without ``--data`` the task is the topic of sentences from Python's own documentation. What is to be known of
the data, with a warning where something is bad, is shown before anything is trained, and stands in the report.
Each optimizer runs with the same initial parameters, batches and dropout, at its own default rate unless one is
given. Python's sentences are cut to 24 tokens by default, as in the committed record, which cuts 9 % of them;
``--length=32`` cuts 3.5 %, ``--length=48`` 0.6 %.

``docs/fine_tuning.md`` says more, and ``docs/devices.md`` has the flags of devices and processes.
"""

import dataclasses
import functools

from examples.data import data_flags, docstrings, targets, text, text_baselines
from examples.data.summary import Summary
from examples.models import pretrained
from examples.models.remat import REMAT
from examples.shared import command, devices, optimizers, program_flags, training_flags
from examples.shared.train_each import Plan
from examples.tasks.text_classification import TextClassification
from examples.tasks.text_flags import BatchFlags
from examples.tasks.text_targets import METRICS
from optimiz import training

FLAGS = program_flags.Flags()
_MODEL = FLAGS.DEFINE_path("model", None, "Directory or Hub id of a BERT, MiniLM or RoBERTa encoder.")
_POOLING = FLAGS.DEFINE_enum("pooling", "mean", ["mean", "first"], "How tokens become one vector.")
_DATA = FLAGS.DEFINE_path(
    "data",
    None,
    "Training examples: .tsv, .csv, .jsonl, .json, .parquet, shards of such, or folders of classes.",
)
_VALIDATION = FLAGS.DEFINE_path("validation", None, "Validation examples; default: a part of --data.")
_TEST = FLAGS.DEFINE_path("test", None, "Test examples; default: a part of --data.")
_FILES = data_flags.TargetFlags(FLAGS)
_HEAD_RATE = FLAGS.DEFINE_float("head_rate", 50.0, "Rate of the new head, in multiples of the encoder's.")
_LENGTH = FLAGS.DEFINE_integer(
    "length",
    None,
    "Tokens per example; longer ones are cut, or divided with --stride. Default: as long as they need; 24 "
    "without --data.",
    lower_bound=1,
)
_DROPOUT = FLAGS.DEFINE_float("dropout", 0.1, "Rate of dropout, everywhere.")
_REMAT = FLAGS.DEFINE_enum("remat", "none", [*REMAT], "What the backward pass computes again.")
training_flags.define_parts(FLAGS)
training_flags.define(
    FLAGS,
    lambda name: optimizers.choose(name, classes=2),
    optimizer=["adamw", "sgd_sai"],
    listed=optimizers.listed(),
    metrics=("loss", *METRICS),
    examples="examples",
    weight_decay=0.01,
    steps=150,
    batch_size=32,
    schedule="linear",
    evaluate_every=50,
    seed_of="data order and dropout",
)

_BATCHES = BatchFlags(FLAGS)
_DECISIVE = (_LENGTH, _POOLING, _DROPOUT, _HEAD_RATE, _REMAT)
_OWN_LENGTH = 24
program_flags.check(lambda x: x < 1, "must be in [0, 1)", _DROPOUT)
program_flags.check(lambda x: x > 0, "must be above 0, or the new head would not be trained", _HEAD_RATE)


def read_data() -> dict[str, text.TextExamples]:
    """The parts "train", "validation" and "test", as the flags say."""
    if _DATA.value is None:
        _FILES.refuse_without("--data")
        for flag in (_VALIDATION, _TEST):
            if flag.value is not None:
                raise ValueError(f"--{flag.name} goes with the training examples of --data")
        return docstrings.load_split()
    train = _FILES.read(_DATA.value)
    given = {"validation": _VALIDATION.value, "test": _TEST.value}
    parts = {name: _FILES.read(path, train.label_names) for name, path in given.items() if path is not None}
    train = text.apart(train, parts)
    shares = {name: 0.1 for name in given if name not in parts}
    return text.split(train, {"train": 1 - 0.1 * len(shares)} | shares) | parts


def asked_length() -> int | None:
    """Tokens of an example, of Python's own sentences as in the record; None for what the examples need."""
    return _OWN_LENGTH if _LENGTH.value is None and _DATA.value is None else _LENGTH.value


def check(positions: int) -> None:
    """Refuse what flags and data say, before there is the model that they are to fine-tune.

    Args:
        positions: tokens that the model reads, at the most.

    Raises:
        OSError: a file cannot be read.
        ValueError: flags or data are refused.
    """
    length = asked_length()
    if length is not None and length > positions:
        raise ValueError(f"--length={length}: the model reads at most {positions} tokens")
    Plan.of(FLAGS, _BATCHES.epoch(len(read_data()["train"].texts)), log_every=5)


def read_problem() -> tuple[dict[str, text.TextExamples], TextClassification, str]:
    """The data and the problem that the flags ask for, and the name of the model."""
    parts, model = read_data(), pretrained.find(_MODEL.value)
    options = {"dropout": _DROPOUT.value, "pooling": _POOLING.value, "remat": _REMAT.value}
    found = TextClassification(parts, model, length=asked_length(), **options, **_BATCHES.given)
    return parts, found, pretrained.described(_MODEL.value, model)


def main() -> None:
    """Run every optimizer, then write the report."""
    layout = devices.layout()  # first of all: once there are arrays, JAX joins no other process
    parts, problem, model_name = read_problem()
    train = parts["train"]
    plan = Plan.of(FLAGS, _BATCHES.epoch(problem.rows), log_every=5)
    classes = len(train.label_names) if train.problem == targets.CLASS else None
    choices = [optimizers.choose(name, classes=classes) for name in FLAGS.optimizer]
    multipliers = optimizers.head_multipliers(_HEAD_RATE.value)
    chosen = plan.optimizers(choices, multipliers)
    task = problem.task(FLAGS.batch_size, FLAGS.seed, devices.share(layout))
    summary = problem.summary | Summary(plan.parts(task, multipliers))
    if training.is_first():
        summary.show()
    decisive = plan.decisive | {flag.name: flag.value for flag in _DECISIVE} | {"length": problem.length}
    decisive |= _BATCHES.decisive
    identity = decisive | {"model_and_data": problem.fingerprint()} | problem.meaning
    task, identity = plan.begun(task, identity, choices)
    rates = {name: rate for name, (_, rate) in chosen.items()}

    with training.claimed(plan.output, identity | {"learning_rates": rates}, plan.resume):
        record = None
        if training.is_first():  # before anything is trained, as it can fail
            record = plan.new_record(
                "finetune_text",
                f"Fine-tuning {model_name} with {', '.join(chosen)}",
                task={"model": model_name, **summary.rows()},
                settings=decisive,
                baseline="TF-IDF baseline",
                compute=functools.partial(text_baselines.tfidf, **parts),
                test_examples=len(parts["test"].texts),
                metric=problem.target.ranked_by,
            )
        save = problem.save
        each = plan.train_each(
            chosen, task, problem.evaluation("test"), identity, layout, save, problem.details
        )
        runs = [run for _, _, run in each]
        if record is not None:
            plan.report(dataclasses.replace(record, runs=runs), metric=problem.target.ranked_by)


if __name__ == "__main__":
    command.run(main, FLAGS)
