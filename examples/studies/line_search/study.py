"""Compare line searches, which need no learning rate, with Adam on a grid of rates, for fine-tuning.

    python -m examples.studies.line_search.study --output=runs/line_search
    python -m examples.studies.line_search.study --data=train.tsv --validation=dev.tsv --output=runs/mine

A pretrained encoder is fine-tuned on few examples for a few epochs. For each rate of the grid, Adam warms up
over a tenth of the updates and decays to zero along a cosine. The searches need no rate. ``adam_head`` and
``salsa_head`` are Adam and SaLSa with a larger rate for the new head, which is one more number to tune. For
each seed, all runs start with the same parameters and see the same batches with the same dropout.
The same command continues a study that was stopped.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import optax

import optimiz
from examples.data import data_flags, docstrings, text
from examples.models import pretrained
from examples.shared import command, optimizers, pictures, program_flags, terminal
from examples.shared.study_record import in_columns
from examples.studies.line_search import report
from examples.tasks.text_classification import TextClassification
from optimiz import compare, groups, schedules, training

FLAGS = program_flags.Flags()
_MODEL = FLAGS.DEFINE_path("model", None, "Directory or Hub id of a BERT, MiniLM or RoBERTa encoder.")
_DATA = FLAGS.DEFINE_path("data", None, "Training examples: .tsv, .csv or .jsonl; default: Python's own.")
_VALIDATION = FLAGS.DEFINE_path("validation", None, "Validation examples, needed with --data.")
_FILES = data_flags.DataFlags(FLAGS)
_METRIC = FLAGS.DEFINE_enum("metric", "accuracy", ["accuracy", "macro_f1", "mcc"], "Metric that ranks.")
_ROWS = FLAGS.DEFINE_integer("rows", 500, "Training examples, drawn at random.", lower_bound=1)
_EPOCHS = FLAGS.DEFINE_integer("epochs", 5, "Epochs.", lower_bound=1)
_BATCH_SIZE = FLAGS.DEFINE_integer("batch_size", 32, "Examples per update.", lower_bound=1)
_LENGTH = FLAGS.DEFINE_integer("length", 24, "Tokens per example; longer ones are cut.", lower_bound=1)
_SEEDS = FLAGS.DEFINE_integer("seeds", 5, "Runs of each method.", lower_bound=2)
_METHODS = FLAGS.DEFINE_list("adam", ["adam", "adam_head"], "Variants of Adam to run on the grid.")
_RATES = FLAGS.DEFINE_list("learning_rates", ["2e-5", "5e-5", "1e-4", "2e-4", "5e-4"], "Adam's peak rates.")
_HEAD_RATE = FLAGS.DEFINE_float("head_rate", 50.0, "Rate of the head in *_head, in multiples of the encoder's.")
_OUTPUT = FLAGS.DEFINE_path("output", None, "Directory of the report and the runs.", required=True)
program_flags.check_rates(_RATES)
program_flags.check_among(("adam", "adam_head"), _METHODS)

_DECISIVE = (_ROWS, _EPOCHS, _BATCH_SIZE, _LENGTH, _HEAD_RATE)


def searches(steps: int) -> dict[str, Callable[[], optax.GradientTransformation]]:
    """The line searches for a run of a given number of updates, by name."""
    decay = schedules.over_steps(schedules.linear(1.0), steps)
    return {
        "salsa": lambda: optimiz.salsa(decay),
        "salsa_head": lambda: optimiz.salsa(decay, multipliers=head_multipliers()),
        "adam_sls": lambda: optimiz.adam_sls(),
        "pla_sls": lambda: optimiz.pla_sls(groups.search_units()),
    }


def grids(steps: int) -> dict[str, Callable[[float], optax.GradientTransformation]]:
    """The methods that take a peak rate, for a run of a given number of updates, by name."""

    def adam(rate: float) -> optax.GradientTransformation:
        return optimiz.adam(schedules.over_steps(schedules.warm_up(schedules.cosine(rate), 0.1), steps))

    def adam_head(rate: float) -> optax.GradientTransformation:
        return optax.chain(adam(rate), optimiz.scale_by_groups(head_multipliers()))

    return {"adam": adam, "adam_head": adam_head}


def head_multipliers() -> Callable[[Any], Any]:
    """The multipliers for ``--head_rate``."""
    return optimizers.head_multipliers(_HEAD_RATE.value)


def arms(steps: int) -> list[compare.Arm]:
    """Every search, and every method of the grid at every rate."""
    found = [compare.Arm(name, None, make) for name, make in searches(steps).items()]
    for name in _METHODS.value:
        make = grids(steps)[name]
        found += [compare.Arm(name, float(rate), make) for rate in _RATES.value]
    return found


def read_data() -> dict[str, text.TextExamples]:
    """Return the parts "train", cut to a random sample, and "validation"."""
    if _DATA.value is None:
        _FILES.refuse_without("--data")
        parts = docstrings.load_split()
    elif _VALIDATION.value is None:
        raise ValueError("--data needs --validation")
    else:
        train = _FILES.read(_DATA.value)
        validation = _FILES.read(_VALIDATION.value, train.label_names)
        parts = {"train": train, "validation": validation}
    return {"train": text.sample(parts["train"], _ROWS.value), "validation": parts["validation"]}


def main() -> None:
    """Make the missing runs, then write the report."""
    output, parts = Path(_OUTPUT.value), read_data()
    problem = TextClassification(
        parts, pretrained.find(_MODEL.value), length=_LENGTH.value, dropout=0.1, pooling="mean"
    )
    problem.summary.show()
    steps, examples = -(-_EPOCHS.value * len(parts["train"].texts) // _BATCH_SIZE.value), parts["validation"]
    settings = {flag.name: flag.value for flag in _DECISIVE}
    settings |= {"data": parts["train"].source, "validation_examples": len(examples.texts)}
    settings |= {"updates": steps, "fingerprint": problem.fingerprint()}
    identity = settings | {"figure": _METRIC.value}  # by this name, directories of earlier versions resume
    with training.claimed(output, identity, resume=True), terminal.matrix_bar() as progress:
        runs = compare.run_matrix(
            arms(steps),
            range(_SEEDS.value),
            lambda seed: problem.task(_BATCH_SIZE.value, seed),
            training.Settings(steps=steps),
            output / "runs",
            identity=identity,
            metric=_METRIC.value,
            progress=progress,
        )
        record = compare.Record(
            title="Line searches compared with Adam on a grid of learning rates",
            command=command.typed("studies.line_search.study"),
            task={},
            settings={"metric": _METRIC.value} | settings,
            baselines={},
            test_examples=len(examples.texts),
            runs=in_columns(runs, *report.COLUMNS),
        )
        summary = pictures.write_study(report, record, output)
    terminal.show(summary)


if __name__ == "__main__":
    command.run(main, FLAGS)
