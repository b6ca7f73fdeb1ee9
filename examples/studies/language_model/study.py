"""Compare optimizers that pre-train a language model, at equal numbers of updates and in equal time.

    python -m examples.studies.language_model.study --output=runs/language_model
    python -m examples.studies.language_model.study --data=books/ --optimizers=adamw,muon --output=runs/mine

A GPT-2 of about ten million parameters learns the next token of Python's standard library, or of other text,
from random parameters. All optimizers have the same initial parameters, rows, warm-up, clip and weight decay,
and a rate that decays to zero; Schedule-Free, which averages in place of that, keeps it constant.

Plan, which was written before the first run:

- Rates are chosen from seed 0 by the validation loss after all updates, on a grid of half decades that goes on
  while its best rate is at an edge. Nothing else is chosen.
- What is compared are runs from further seeds at the chosen rates, by their loss on a test part that decided
  nothing: after equal numbers of updates, and in the time that these take AdamW.
- The time of a step of each optimizer is measured once. One whose step takes longer than AdamW's, or less, by
  more than 3 % has a second run for each seed, of as many updates as fit, whose rate decays fully as well.
- Differences from AdamW are paired by seed. Their intervals hold together for all optimizers with 95 %
  (Bonferroni).
- The number of seeds is fixed. Every run that was made is in the record.

The same command continues a study that was stopped.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from examples.data import corpus, tokenization
from examples.shared import command, pictures, program_flags, terminal
from examples.shared.study_record import measured_once
from examples.studies.language_model import report
from examples.studies.language_model.arms import CLIP, GRIDS, WARMUP, WEIGHT_DECAY, arm
from examples.studies.tuned import chosen, run_matrix
from examples.tasks.objectives import Size, causal
from examples.tasks.pretraining import EVALUATION_ROWS, Pretraining
from optimiz import compare, training

FLAGS = program_flags.Flags()
_DATA = FLAGS.DEFINE_path("data", None, "Text file, or folder of them; default: Python's library.")
_OPTIMIZERS = FLAGS.DEFINE_list("optimizers", list(GRIDS), "Optimizers, in turn; adamw among them.")
_VOCAB_SIZE = FLAGS.DEFINE_integer("vocab_size", 4096, "Size of the vocabulary of byte pairs.", lower_bound=1)
_LAYERS = FLAGS.DEFINE_integer("layers", 6, "Layers of the model.", lower_bound=1)
_HIDDEN_SIZE = FLAGS.DEFINE_integer("hidden_size", 320, "Width of the model.", lower_bound=1)
_HEADS = FLAGS.DEFINE_integer("heads", 5, "Attention heads.", lower_bound=1)
_LENGTH = FLAGS.DEFINE_integer("length", 64, "Tokens of a row.", lower_bound=8)
_BATCH_SIZE = FLAGS.DEFINE_integer("batch_size", 8, "Rows per update.", lower_bound=1)
_STEPS = FLAGS.DEFINE_integer("steps", 200, "Updates.", lower_bound=10)
_SEEDS = FLAGS.DEFINE_integer(
    "seeds", 3, "Runs of each optimizer at its rate, beyond those that choose it.", lower_bound=2
)
_EXTENSIONS = FLAGS.DEFINE_integer("extensions", 4, "Maximum rates by which a grid goes on.", lower_bound=0)
_OUTPUT = FLAGS.DEFINE_path("output", None, "Directory of the report and the runs.", required=True)
program_flags.check_among(GRIDS, _OPTIMIZERS)
program_flags.check(lambda names: report.BASELINE in names, f"must hold {report.BASELINE}", _OPTIMIZERS)
program_flags.check_together(
    lambda x: x["hidden_size"] % x["heads"] == 0,
    "--heads must divide --hidden_size",
    FLAGS,
    _HIDDEN_SIZE,
    _HEADS,
)

_DECISIVE = (_VOCAB_SIZE, _LAYERS, _HIDDEN_SIZE, _HEADS, _LENGTH, _BATCH_SIZE, _STEPS)
_SHARES = {"train": 0.9, "validation": 0.05, "test": 0.05}
_TIMED = 30  # steps of each optimizer


def read_problem(tokenizer: Path) -> Pretraining:
    """The text, packed, and the model.

    Args:
        tokenizer: where the tokenizer of the study is kept.
    """
    text = corpus.standard_library() if _DATA.value is None else corpus.read(_DATA.value)
    parts = corpus.split(text, _SHARES)
    corpus.summary(text, parts, _SHARES).show()
    sample = parts["train"].sample
    vocabulary = tokenization.choose(tokenization.BPE, "causal", _VOCAB_SIZE.value, sample, tokenizer)
    size = Size(_LAYERS.value, _HIDDEN_SIZE.value, _HEADS.value, _LENGTH.value, dropout=0.0)
    return Pretraining(parts, vocabulary, causal(vocabulary, size))


def prices(task: training.Task, arms: Sequence[compare.Arm]) -> dict[str, dict[str, float]]:
    """Seconds of a step by optimizer, its interquartile range, and how often it was measured."""
    found = {}
    for one in arms:
        reference = training.calibrate(task, one.optimizer(), about={}, n=_TIMED)
        (timing,) = (timing for work, timing in reference.times.items() if work.name == "step")
        found[one.name] = timing._asdict()
    return found


def runs_of(problem: Pretraining, settings: dict[str, Any], output: Path) -> tuple[list[compare.Run], Any]:
    """Every run, and the seconds of a step by optimizer."""

    def run(arms: list[compare.Arm], seeds: range, steps: int, extensions: int = 0) -> list[compare.Run]:
        return run_matrix(
            arms,
            seeds,
            lambda seed: problem.task(_BATCH_SIZE.value, seed),
            training.Settings(steps=steps),
            output / "runs" / f"{steps}_steps",
            identity=settings,
            metric="loss",
            columns=["loss"],
            extensions=extensions,
            test=problem.evaluation("test"),
        )

    names, steps = _OPTIMIZERS.value, _STEPS.value
    grid = [arm(name, rate, steps, "steps") for name in names for rate in GRIDS[name]]
    runs = run(grid, range(report.CHOOSING), steps, _EXTENSIONS.value)
    best = chosen(runs, sign=-1)
    final = [arm(name, best[name], steps, "steps") for name in names]
    seeds = range(report.CHOOSING, report.CHOOSING + _SEEDS.value)
    runs += run(final, seeds, steps)
    task = problem.task(_BATCH_SIZE.value, 0)
    seconds = measured_once(output / "prices.json", lambda: prices(task, final))
    for name, fewer in report.in_equal_time(seconds, steps).items():
        if fewer != steps:
            runs += run([arm(name, best[name], fewer, "time")], seeds, fewer)
    return runs, seconds


def main() -> None:
    """Make the missing runs, then write the report."""
    output = Path(_OUTPUT.value)
    problem = read_problem(output / "tokenizer.json")
    settings: dict[str, Any] = {flag.name: flag.value for flag in _DECISIVE}
    settings |= {"weight_decay": WEIGHT_DECAY, "warmup": WARMUP, "clip": CLIP, "data": problem.source}
    settings |= {"fingerprint": problem.fingerprint()}
    with training.claimed(output, settings, resume=True):
        tokenizer = problem.vocabulary.tokenizer.to_str(pretty=True)
        training.write_whole(output / "tokenizer.json", tokenizer)
        runs, seconds = runs_of(problem, settings, output)
        record = compare.Record(
            title="Optimizers that pre-train a language model",
            command=command.typed("studies.language_model.study"),
            task={},
            settings=settings,
            baselines={},
            test_examples=min(len(problem.rows["test"]), EVALUATION_ROWS),
            runs=runs,
            extra={"seconds": seconds, "frequencies": problem.frequencies()["test"]},
        )
        summary = pictures.write_study(report, record, output)
    terminal.show(summary)


if __name__ == "__main__":
    command.run(main, FLAGS)
