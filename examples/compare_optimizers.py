"""Compare optimizers under one budget: methods × learning rates × seeds on one task, and the report.

    python -m examples.compare_optimizers --output=runs/compare
    python -m examples.compare_optimizers --task=train.tsv --optimizers=adamw,lion --output=runs/mine
    python -m examples.compare_optimizers --task=pretrain --length=32 --output=runs/ways

The task ``text`` is the topic of sentences from Python's own documentation, told by a pretrained encoder. Every
run spends the same budget of reference time and decays fully at its end; what an optimizer computes beyond a
step is charged. For one seed all begin with the same parameters and see the same batches. The task ``pretrain``
is the judgement of ways to pre-train, optimizers and methods that are said to save time: see
``examples.studies.pretraining.study``. The same command with ``--resume`` goes on where it was stopped.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any

from examples import irreducible_losses
from examples.data import baseline, docstrings, text
from examples.models import pretrained
from examples.shared import command, data_flags, optimizers, program_flags, terminal
from examples.shared.budget_arms import WARMUP, WEIGHT_DECAY, arms
from examples.shared.prices import given_or_measured
from examples.shared.train_each import made_or_left_out
from examples.studies.pretraining import recipes, study
from examples.tasks.text_classification import TextClassification
from optimiz import compare, training

FLAGS = program_flags.Flags()
_TASK = FLAGS.DEFINE_path(
    "task", "text", '"text", a .tsv, .csv, .jsonl or .json file of examples, or "pretrain".'
)
_MODEL = FLAGS.DEFINE_path("model", None, "Directory or Hub id of a BERT, MiniLM or RoBERTa encoder.")
_OPTIMIZERS = FLAGS.DEFINE_list(
    "optimizers", None, "In turn; default: adamw, lion, sgd_sai and salsa, or all ways to pre-train."
)
_LEARNING_RATES = FLAGS.DEFINE_list(
    "learning_rates", None, "Peak rates; default: each optimizer's own, a third of it and three times it."
)
_BUDGET = FLAGS.DEFINE_float("budget", 8.0, "Of each run, in seconds of reference time.")
_SEEDS = FLAGS.DEFINE_integer("seeds", 3, "Runs of each optimizer at each rate.", lower_bound=1)
_FILES = data_flags.DataFlags(FLAGS)
_REFERENCE = FLAGS.DEFINE_path("reference", None, "Prices, a JSON file; default: measured here.")
_FIGURE = FLAGS.DEFINE_enum("figure", "accuracy", ["accuracy", "macro_f1", "mcc", "loss"], "What ranks.")
_BATCH_SIZE = FLAGS.DEFINE_integer("batch_size", 16, "Examples per update.", lower_bound=1)
_LENGTH = FLAGS.DEFINE_integer(
    "length",
    None,
    "Tokens per example; longer ones are cut. Default: as long as they need in a file; else 16.",
    lower_bound=1,
)
_DATA = FLAGS.DEFINE_path("data", None, "For pretrain: text file or folder; default: Python's library.")
_VOCAB_SIZE = FLAGS.DEFINE_integer(
    "vocab_size", 512, "For pretrain: of the WordPiece that is learned.", lower_bound=1
)
_LAYERS = FLAGS.DEFINE_integer("layers", 4, "For pretrain: of the model.", lower_bound=1)
_HIDDEN_SIZE = FLAGS.DEFINE_integer("hidden_size", 64, "For pretrain: width of the model.", lower_bound=1)
_IRREDUCIBLE = FLAGS.DEFINE_path("irreducible", None, "For rho_loss: directory of examples.irreducible_losses.")
_RESUME = FLAGS.DEFINE_bool("resume", False, "Go on with the comparison in --output.")
_OUTPUT = FLAGS.DEFINE_path("output", None, "Directory of the report and the runs.", required=True)

_DECISIVE = (_TASK, _BUDGET, _BATCH_SIZE, _LENGTH, _FIGURE)
_PRETRAIN = (_DATA, _VOCAB_SIZE, _LAYERS, _HIDDEN_SIZE, _LENGTH)
_DEFAULT = ("adamw", "lion", "sgd_sai", "salsa")
_DROPOUT = 0.1
_OWN_LENGTH = 16
_TIMED = 20  # steps, to measure the prices


def _are_known(asked: dict[str, Any]) -> bool:
    among = recipes.WAYS if asked["task"] == "pretrain" else optimizers.OPTIMIZERS
    return all(optimizers.choose(name, among) for name in asked["optimizers"] or ())


program_flags.check_rates(_LEARNING_RATES)
program_flags.check(lambda x: 1e-9 <= x <= 1e9, "must be in [1e-9, 1e9]", _BUDGET)
program_flags.check_together(_are_known, "must be known", FLAGS, _OPTIMIZERS, _TASK)
program_flags.check_together(
    lambda x: x["task"] == "pretrain" or not (x["data"] or x["irreducible"]),
    "--data and --irreducible go with --task=pretrain; a file of examples is the --task itself",
    FLAGS,
    _TASK,
    _DATA,
    _IRREDUCIBLE,
)


def read_data() -> dict[str, text.TextExamples]:
    """The parts "train", "validation" and "test"; an evaluation is to cost no more than a few steps."""
    if _TASK.value == "text":
        _FILES.refuse_without("--task")
    elif not Path(_TASK.value).exists():
        raise ValueError(f'--task={_TASK.value}: no such file; without one, it is "text" or "pretrain"')
    examples = docstrings.load() if _TASK.value == "text" else _FILES.read(_TASK.value)
    return text.split(examples, {"train": 0.78, "validation": 0.11, "test": 0.11})


def length() -> int | None:
    """The flag's; by default that of the records, and for a file of examples what they need."""
    own = _TASK.value in ("text", "pretrain")
    return _OWN_LENGTH if own and _LENGTH.value is None else _LENGTH.value


def rates() -> list[float] | None:
    """The rates of the flag."""
    return None if _LEARNING_RATES.value is None else [float(rate) for rate in _LEARNING_RATES.value]


def fine_tune(given: training.Reference | None) -> None:
    """Compare optimizers on a text classification, by prices that are given or measured."""
    asked = arms(_OPTIMIZERS.value or _DEFAULT, rates())
    settings = training.Settings(budget=_BUDGET.value, log_every=5, evaluate_at=(0.25, 0.5, 0.75))
    parts, model = read_data(), pretrained.find(_MODEL.value)
    problem = TextClassification(parts, model, length=length(), dropout=_DROPOUT, pooling="mean")
    problem.summary.show()
    task_of = lambda seed: problem.task(_BATCH_SIZE.value, seed)  # noqa: E731
    decisive = {flag.name: flag.value for flag in _DECISIVE} | {"length": problem.length}
    identity = decisive | {"model_and_data": problem.fingerprint()}
    output, model_name = Path(_OUTPUT.value), pretrained.described(_MODEL.value, model)
    # The optimizer counts for little in a step, and all are charged the same; the first one stands for all.
    about = {"task": _TASK.value, "batch_size": _BATCH_SIZE.value, "optimizer": asked[0].name}
    measure = lambda: training.calibrate(task_of(0), asked[0].make(), about=about, n=_TIMED)  # noqa: E731
    with training.claimed(output, identity, _RESUME.value), terminal.matrix_bar() as progress:
        left_out: dict[str, str] = {}
        print("computing the baseline, without any optimizer", flush=True)
        compute = functools.partial(baseline.tfidf_baseline, **parts)
        baselines = made_or_left_out("TF-IDF baseline", left_out, compute)  # first, as it can fail
        reference = given_or_measured(given, measure, output / "reference.json")
        names = dict.fromkeys(arm.name for arm in asked)
        record = compare.Record(
            title=f"{', '.join(names)} on one budget: fine-tuning {model_name}",
            command=command.typed("compare_optimizers"),
            task={
                "model": model_name,
                **problem.summary.rows(),
            },
            settings=decisive
            | {"reference": reference.prices(), "warmup": WARMUP, "weight_decay": WEIGHT_DECAY},
            baselines=baselines or {},
            test_examples=len(parts["test"].texts),
            runs=[],
            left_out=left_out,
        )
        compare.check_report(record, output, figure=_FIGURE.value)
        runs = compare.run_matrix(
            asked,
            range(_SEEDS.value),
            task_of,
            settings,
            output / "runs",
            identity=identity,
            figure=_FIGURE.value,
            reference=reference,
            test=problem.evaluation("test"),
            progress=progress,
        )
        record = dataclasses.replace(record, runs=runs)
        report = compare.write_report(record, output, figure=_FIGURE.value)
    terminal.show(compare.summary(record, figure=_FIGURE.value))
    print(f"\nreport: {report}")


def pretrain(given: training.Reference | None) -> None:
    """Judge the ways to pre-train, by prices that are given or measured."""
    _FILES.refuse_without("--task")
    if _FIGURE.value != "accuracy":
        raise ValueError(f"--task=pretrain ranks by the validation loss, got --figure={_FIGURE.value}")
    sizes = {flag.name: flag.value for flag in _PRETRAIN} | {"length": length()}
    output = Path(_OUTPUT.value)
    beside = output if _IRREDUCIBLE.value is None else Path(_IRREDUCIBLE.value)
    problem = irreducible_losses.problem(beside / irreducible_losses.TOKENIZER, *sizes.values())
    losses = None if _IRREDUCIBLE.value is None else irreducible_losses.read(beside, problem.fingerprint())
    setting = recipes.Setting(problem, _BATCH_SIZE.value, losses)
    result = study.judge(
        setting,
        recipes.grid(setting, _OPTIMIZERS.value or list(recipes.WAYS), rates()),
        sizes=sizes,
        budget=_BUDGET.value,
        seeds=_SEEDS.value,
        given=given,
        output=output,
        resume=_RESUME.value,
        asked=command.typed("compare_optimizers"),
    )
    terminal.show(result)
    print(f"\nreport: {output / 'report.md'}")


def main() -> None:
    """Run what is missing, then write the report."""
    given = None if _REFERENCE.value is None else training.Reference.read(_REFERENCE.value)
    compare_on = pretrain if _TASK.value == "pretrain" else fine_tune
    compare_on(given)


if __name__ == "__main__":
    command.run(main, FLAGS)
