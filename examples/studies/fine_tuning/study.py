"""Test on a pretrained encoder what is said of Adam's lead: over whom, at which rates, and where it comes from.

    python -m examples.studies.fine_tuning.study --output=runs/fine_tuning
    python -m examples.studies.fine_tuning.study --data=a.tsv --validation=b.tsv --test=c.tsv --output=runs/mine

What is claimed, arXiv 2502.00213: where gradient norms differ between blocks, Adam is ahead of SGD, sign
methods share its lead, and Transformers with Post-LN have more of it than others. A small data set is learned
by the pretrained encoder (Post-LN), and by two controls of the same size with new parameters, with Post-LN and
with Pre-LN. All parameters, the new head too, have one learning rate, as in the source; an optimizer whose name
ends in ``_head`` has a faster head, as in practice.

Plan, which was written before the first run:

- Rates are chosen from seeds 0 and 1 by the mean validation accuracy, on a grid of half decades that goes on
  while its best rate is at an edge. Nothing else is chosen.
- What is compared are runs from further seeds at the chosen rates, on the test part, which decided nothing.
- Adam is ahead of another optimizer where the interval of the paired difference of test accuracy excludes zero;
  where both have a faster head, too. The intervals of a start hold together with 95 % (Bonferroni).
- The number of seeds is fixed. Every run that was made is in the record.

The gradient is clipped to norm 1 as in the source, except in ``sgd_unclipped``; the rate warms up over a tenth
of the updates and decays linearly to zero. ``sgd_sai`` is momentum SGD with one scale per block, from the first
gradient. The same command continues a study that was stopped.

Departures from the source: one encoder of 22 million parameters, small data, and no convolutional control,
which ``examples.studies.heterogeneity`` has.
"""

import functools
from pathlib import Path
from typing import Any

from examples.data import data_flags, docstrings, text
from examples.models import pretrained
from examples.shared import command, pictures, program_flags, terminal
from examples.studies.fine_tuning import report
from examples.studies.fine_tuning.arms import GRIDS, STARTS, arm
from examples.studies.tuned import chosen, run_matrix
from examples.tasks.text_classification import TextClassification
from optimiz import compare, training

FLAGS = program_flags.Flags()
_MODEL = FLAGS.DEFINE_path("model", None, "Directory or Hub id of a BERT, MiniLM or RoBERTa encoder.")
_DATA = FLAGS.DEFINE_path("data", None, "Training examples: .tsv, .csv or .jsonl; default: Python's own.")
_VALIDATION = FLAGS.DEFINE_path("validation", None, "Validation examples, needed with --data.")
_TEST = FLAGS.DEFINE_path("test", None, "Test examples, needed with --data.")
_FILES = data_flags.DataFlags(FLAGS)
_STARTS = FLAGS.DEFINE_list("starts", list(STARTS), "Where training begins, in turn.")
_OPTIMIZERS = FLAGS.DEFINE_list("optimizers", list(GRIDS), "Optimizers, in turn; adam among them.")
_ROWS = FLAGS.DEFINE_integer("rows", 1000, "Maximum examples of a part, drawn at random.", lower_bound=1)
_STEPS = FLAGS.DEFINE_integer("steps", 100, "Updates.", lower_bound=10)
_BATCH_SIZE = FLAGS.DEFINE_integer("batch_size", 16, "Examples per update.", lower_bound=1)
_LENGTH = FLAGS.DEFINE_integer("length", 16, "Tokens per example; longer ones are cut.", lower_bound=1)
_SEEDS = FLAGS.DEFINE_integer(
    "seeds", 5, "Runs of each optimizer at its rate, beyond those that choose it.", lower_bound=2
)
_EXTENSIONS = FLAGS.DEFINE_integer("extensions", 4, "Maximum rates by which a grid goes on.", lower_bound=0)
_OUTPUT = FLAGS.DEFINE_path("output", None, "Directory of the report and the runs.", required=True)
program_flags.check_among(STARTS, _STARTS)
program_flags.check_among(GRIDS, _OPTIMIZERS)
program_flags.check(
    lambda names: {*map(report.baseline, names)} <= {*names},
    "must hold adam, and adam_head if another has a faster head",
    _OPTIMIZERS,
)

_DECISIVE = (_ROWS, _STEPS, _BATCH_SIZE, _LENGTH)


def read_data() -> dict[str, text.TextExamples]:
    """The parts "train", "validation" and "test", each cut to a random sample."""
    if _DATA.value is None:
        _FILES.refuse_without("--data")
        parts = docstrings.load_split()
    elif _VALIDATION.value is None or _TEST.value is None:
        raise ValueError("--data needs --validation and --test")
    else:
        train = _FILES.read(_DATA.value)
        others = {"validation": _VALIDATION.value, "test": _TEST.value}
        parts = {"train": train} | {name: _FILES.read(path, train.label_names) for name, path in others.items()}
    return {name: text.sample(part, _ROWS.value) for name, part in parts.items()}


def runs_of(
    start: str, problem: TextClassification, settings: dict[str, Any], output: Path
) -> list[compare.Run]:
    """The runs that choose the rates of all optimizers, and those that are compared."""
    run = functools.partial(
        run_matrix,
        task_of=lambda seed: problem.task(_BATCH_SIZE.value, seed),
        settings=training.Settings(steps=_STEPS.value),
        directory=output / "runs" / start,
        identity=settings | {"start": start},
        metric="accuracy",
        columns=["loss"],
        test=problem.evaluation("test"),
    )
    grid = [arm(start, name, rate, _STEPS.value) for name in _OPTIMIZERS.value for rate in GRIDS[name]]
    chosen_by = run(grid, range(report.CHOOSING), extensions=_EXTENSIONS.value)
    best = chosen(chosen_by)
    final = [arm(start, name, best[name], _STEPS.value) for name in _OPTIMIZERS.value]
    return chosen_by + run(final, range(report.CHOOSING, report.CHOOSING + _SEEDS.value))


def main() -> None:
    """Make the missing runs, then write the report."""
    output, parts, model = Path(_OUTPUT.value), read_data(), pretrained.find(_MODEL.value)
    problems = {
        start: TextClassification(parts, model, length=_LENGTH.value, dropout=0.1, pooling="mean", start=start)
        for start in _STARTS.value
    }
    first = problems[_STARTS.value[0]]
    first.summary.show()
    settings = {flag.name: flag.value for flag in _DECISIVE} | {"data": parts["train"].source}
    settings |= {f"{name}_examples": len(part.texts) for name, part in parts.items()}
    settings |= {"fingerprint": first.fingerprint()}
    with training.claimed(output, settings, resume=True):
        runs = [run for start, problem in problems.items() for run in runs_of(start, problem, settings, output)]
        record = compare.Record(
            title="Adam's lead when a pretrained encoder is fine-tuned",
            command=command.typed("studies.fine_tuning.study"),
            task={},
            settings=settings,
            baselines={},
            test_examples=len(parts["test"].texts),
            runs=runs,
        )
        summary = pictures.write_study(report, record, output)
    terminal.show(summary)


if __name__ == "__main__":
    command.run(main, FLAGS)
