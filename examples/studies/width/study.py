"""Find the best rate of a language model at several widths, with μP and without.

    python -m examples.studies.width.study --output=runs/width
    python -m examples.studies.width.study --widths=64,128,256,512,1024 --steps=500 --output=runs/wide

What is claimed, arXiv 2203.03466: with μP the best learning rate of a narrow model is that of a wide one, and
without it the best rate falls with the width. A decoder of the Llama kind, whose heads have one size, learns
the next token of Python's standard library with AdamW and with Muon. The narrowest is the base of μP.

Plan, which was written before the first run:

- At every width, with the standard parametrization and with μP, the validation loss is measured on a grid of
  half decades of the rate that goes on while its best rate is at an edge. The base, where both are the same,
  is measured once.
- What counts is what the base's best rate loses at another width to the best rate there. Nothing is chosen.
- Every run that was made is in the record.

The same command continues a study that was stopped.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax

from examples.data import corpus, tokenization
from examples.models import llama_files
from examples.models.llama import LlamaConfig
from examples.shared import command, pictures, program_flags, terminal
from examples.studies.tuned import run_matrix
from examples.studies.width import report
from examples.studies.width.arms import GRIDS, WARMUP, arm
from examples.tasks.objectives import next_token
from examples.tasks.pretraining import EVALUATION_ROWS, Pretraining
from optimiz import compare, groups, training

FLAGS = program_flags.Flags()
_WIDTHS = FLAGS.DEFINE_list("widths", [32, 64, 128, 256], "Widths, ascending; the first is the base.")
_OPTIMIZERS = FLAGS.DEFINE_list("optimizers", list(GRIDS), "Optimizers, in turn.")
_LAYERS = FLAGS.DEFINE_integer("layers", 2, "Layers of the model.", lower_bound=1)
_VOCAB_SIZE = FLAGS.DEFINE_integer("vocab_size", 1024, "Size of the vocabulary of byte pairs.", lower_bound=300)
_LENGTH = FLAGS.DEFINE_integer("length", 64, "Tokens of a row.", lower_bound=8)
_BATCH_SIZE = FLAGS.DEFINE_integer("batch_size", 8, "Rows per update.", lower_bound=1)
_STEPS = FLAGS.DEFINE_integer("steps", 200, "Updates.", lower_bound=10)
_SEEDS = FLAGS.DEFINE_integer("seeds", 2, "Runs at each rate.", lower_bound=1)
_EXTENSIONS = FLAGS.DEFINE_integer("extensions", 4, "Maximum rates by which a grid goes on.", lower_bound=0)
_OUTPUT = FLAGS.DEFINE_path("output", None, "Directory of the report and the runs.", required=True)
_HEAD_SIZE = 16
program_flags.check_among(GRIDS, _OPTIMIZERS)
program_flags.check_numbers(lambda x: x > 0 and x % _HEAD_SIZE == 0, f"multiples of {_HEAD_SIZE}", _WIDTHS)
program_flags.check(
    lambda x: len(x) > 1 and sorted({*map(int, x)}) == [*map(int, x)], "must be several, and ascend", _WIDTHS
)

_DECISIVE = (_LAYERS, _VOCAB_SIZE, _LENGTH, _BATCH_SIZE, _STEPS)


def problems(widths: list[int]) -> dict[int, Pretraining]:
    """The text, packed, and the model, by width."""
    parts = corpus.split(corpus.standard_library(), {"train": 0.9, "validation": 0.1})
    sample = parts["train"].sample
    vocabulary = tokenization.choose(tokenization.BPE, "causal", _VOCAB_SIZE.value, sample, kept=None)
    found = {}
    for width in widths:
        heads = width // _HEAD_SIZE
        config = LlamaConfig(
            vocabulary.size, width, _LAYERS.value, heads, heads, _HEAD_SIZE, 4 * width, _LENGTH.value
        )
        found[width] = Pretraining(parts, vocabulary, next_token(config, llama_files.LLAMA))
    return found


def runs_of(by_width: dict[int, Pretraining], settings: dict[str, Any], output: Path) -> list[compare.Run]:
    """The runs at every width, in the standard parametrization and with μP."""
    base, runs = next(iter(by_width.values())), []
    narrow = groups.mup(jax.eval_shape(base.start, jax.random.key(0)))
    for width, problem in by_width.items():
        for mup in (None, narrow) if problem is not base else (None,):

            def task_of(
                seed: int, problem: Pretraining = problem, scaled: bool = mup is not None
            ) -> training.Task:
                task = problem.task(_BATCH_SIZE.value, seed)
                rescaled = lambda key: groups.mup(base.start(key)).rescaled(problem.start(key))  # noqa: E731
                return dataclasses.replace(task, init=rescaled) if scaled else task

            rates = [(name, rate) for name in _OPTIMIZERS.value for rate in GRIDS[name]]
            runs += run_matrix(
                [arm(name, rate, _STEPS.value, width, mup) for name, rate in rates],
                range(_SEEDS.value),
                task_of,
                training.Settings(steps=_STEPS.value),
                output / "runs" / f"{width}{'_mup' if mup else ''}",
                identity=settings,
                metric="loss",
                extensions=_EXTENSIONS.value,
            )
    return runs


def main() -> None:
    """Make the missing runs, then write the report."""
    output, widths = Path(_OUTPUT.value), [int(width) for width in _WIDTHS.value]
    by_width = problems(widths)
    base = by_width[widths[0]]
    settings: dict[str, Any] = {flag.name: flag.value for flag in _DECISIVE} | {"base": widths[0]}
    settings |= {"warmup": WARMUP, "data": base.source, "fingerprint": base.fingerprint()}
    with training.claimed(output, settings, resume=True):
        record = compare.Record(
            title="The best learning rate by the width of a model",
            command=command.typed("studies.width.study"),
            task={},
            settings=settings,
            baselines={},
            test_examples=min(len(base.rows["validation"]), EVALUATION_ROWS),
            runs=runs_of(by_width, settings, output),
        )
        summary = pictures.write_study(report, record, output)
    terminal.show(summary)


if __name__ == "__main__":
    command.run(main, FLAGS)
