"""Compare line searches, which need no learning rate, with Adam at the best rate of a grid, by amount of data.

    python -m examples.studies.line_search.study --output=runs/line_search
    python -m examples.studies.line_search.study --data=a.tsv --validation=b.tsv --test=c.tsv --output=runs/mine

A pretrained encoder is fine-tuned on few examples for a few epochs, with every number of examples in turn. The
searches need no rate. ``adam_head`` and ``salsa_head`` are Adam and SaLSa whose new head learns faster than
the encoder, by a factor that is one more number to choose.

Plan, which was written before the first run:

- Adam's rates are chosen for each number of examples from seeds 0 and 1 by the mean validation metric, on a
  grid of half decades that goes on while its best rate is at an edge. Nothing else is chosen. What SaLSa's
  defaults are was decided beforehand, by the validation part of the docstrings.
- What is compared are runs from further seeds, on the test part, which decided nothing.
- SaLSa keeps up with Adam where its mean is at most a standard error of the paired difference behind. The
  report has intervals of 95 % too; those of one number of examples hold together (Bonferroni).
- The number of seeds is fixed. Every run that was made is in the record.

For each seed, all runs start with the same parameters and see the same batches with the same dropout. Adam
warms up over a tenth of the updates and decays to zero along a cosine; the share of SaLSa's step that is taken
decays to zero along a line. The same command continues a study that was stopped.
"""

import functools
from pathlib import Path
from typing import Any

from examples.data import data_flags, docstrings, text
from examples.models import pretrained
from examples.shared import command, pictures, program_flags, terminal
from examples.studies.line_search import report
from examples.studies.line_search.arms import GRIDS, METHODS, arm
from examples.studies.tuned import HEAD_RATE, chosen, run_matrix
from examples.tasks.text_classification import TextClassification
from optimiz import compare, training

FLAGS = program_flags.Flags()
_MODEL = FLAGS.DEFINE_path("model", None, "Directory or Hub id of a BERT, MiniLM or RoBERTa encoder.")
_DATA = FLAGS.DEFINE_path("data", None, "Training examples: .tsv, .csv or .jsonl; default: Python's own.")
_VALIDATION = FLAGS.DEFINE_path("validation", None, "Validation examples, needed with --data.")
_TEST = FLAGS.DEFINE_path("test", None, "Test examples, needed with --data.")
_FILES = data_flags.DataFlags(FLAGS)
_METRIC = FLAGS.DEFINE_enum("metric", "accuracy", ["accuracy", "macro_f1", "mcc"], "Metric that ranks.")
_METHODS = FLAGS.DEFINE_list("methods", list(METHODS[:4]), "Methods, in turn; adam among them.")
_ROWS = FLAGS.DEFINE_list("rows", ["100", "250", "500", "1000"], "Numbers of training examples, in turn.")
_HELD_OUT = FLAGS.DEFINE_integer(
    "held_out", 1000, "Maximum examples of the validation and of the test part.", lower_bound=1
)
_EPOCHS = FLAGS.DEFINE_integer("epochs", 5, "Epochs.", lower_bound=1)
_BATCH_SIZE = FLAGS.DEFINE_integer("batch_size", 32, "Examples per update.", lower_bound=1)
_LENGTH = FLAGS.DEFINE_integer("length", 24, "Tokens per example; longer ones are cut.", lower_bound=1)
_SEEDS = FLAGS.DEFINE_integer(
    "seeds", 5, "Runs of each method that are compared, beyond those that choose a rate.", lower_bound=2
)
_EXTENSIONS = FLAGS.DEFINE_integer("extensions", 4, "Maximum rates by which a grid goes on.", lower_bound=0)
_OUTPUT = FLAGS.DEFINE_path("output", None, "Directory of the report and the runs.", required=True)
program_flags.check_among(METHODS, _METHODS)
program_flags.check(lambda names: "adam" in names, "must hold adam", _METHODS)
program_flags.check_numbers(lambda n: n > 0 and n == int(n), "that are whole and above 0", _ROWS)

_DECISIVE = (_METRIC, _HELD_OUT, _EPOCHS, _BATCH_SIZE, _LENGTH)


def read_data() -> dict[str, text.TextExamples]:
    """The parts "train", "validation" and "test"."""
    if _DATA.value is None:
        _FILES.refuse_without("--data")
        parts = dict(docstrings.load_split())
    elif _VALIDATION.value is None or _TEST.value is None:
        raise ValueError("--data needs --validation and --test")
    else:
        parts = {"train": _FILES.read(_DATA.value)}
        others = {"validation": _VALIDATION.value, "test": _TEST.value}
        parts |= {name: _FILES.read(path, parts["train"].label_names) for name, path in others.items()}
    most = max(map(int, _ROWS.value))
    if (found := len(parts["train"].texts)) < most:
        raise ValueError(f"--rows={most}: there are only {found} training examples")
    return parts | {name: text.sample(parts[name], _HELD_OUT.value) for name in ("validation", "test")}


def runs_of(
    rows: int, problem: TextClassification, settings: dict[str, Any], output: Path
) -> list[compare.Run]:
    """The runs that choose Adam's rates for a number of examples, and those that are compared."""
    steps = -(-_EPOCHS.value * rows // _BATCH_SIZE.value)
    run = functools.partial(
        run_matrix,
        task_of=lambda seed: problem.task(_BATCH_SIZE.value, seed),
        settings=training.Settings(steps=steps),
        directory=output / "runs" / f"{rows}_rows",
        identity=settings | {"rows": rows},
        metric=_METRIC.value,
        columns=report.COLUMNS,
        test=problem.evaluation("test"),
    )
    tuned = [name for name in _METHODS.value if name in GRIDS]
    grid = [arm(rows, name, rate, steps) for name in tuned for rate in GRIDS[name]]
    chosen_by = run(grid, range(report.CHOOSING), extensions=_EXTENSIONS.value)
    best = chosen(chosen_by)
    final = [arm(rows, name, best.get(name), steps) for name in _METHODS.value]
    return chosen_by + run(final, range(report.CHOOSING, report.CHOOSING + _SEEDS.value))


def main() -> None:
    """Make the missing runs, then write the report."""
    output, parts, model = Path(_OUTPUT.value), read_data(), pretrained.find(_MODEL.value)
    problems = {
        rows: TextClassification(
            parts | {"train": text.sample(parts["train"], rows)},
            model,
            length=_LENGTH.value,
            dropout=0.1,
            pooling="mean",
        )
        for rows in map(int, _ROWS.value)
    }
    first = next(iter(problems.values()))
    first.summary.show()
    settings: dict[str, Any] = {flag.name: flag.value for flag in _DECISIVE}
    settings |= {"head_rate": HEAD_RATE, "data": parts["train"].source}
    settings |= {f"{name}_examples": len(parts[name].texts) for name in ("validation", "test")}
    settings |= {"fingerprint": first.fingerprint()}
    with training.claimed(output, settings, resume=True):
        runs = [run for rows, problem in problems.items() for run in runs_of(rows, problem, settings, output)]
        record = compare.Record(
            title="Line searches compared with Adam at the best rate of a grid",
            command=command.typed("studies.line_search.study"),
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
