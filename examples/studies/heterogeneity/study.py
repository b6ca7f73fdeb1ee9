"""Gradient heterogeneity and the lead of Adam: does the one predict the other, and LayerNorm's place the one.

    python -m examples.studies.heterogeneity.study --output=runs/heterogeneity

A Post-LN Transformer, the same with Pre-LN, and a convolutional network learn digits from scratch, with five
optimizers. Each has the rate of a decade grid at which the run from seed 0 ends with the least training loss,
and then as many seeds as asked; for one seed all see the same batches. The gradient is clipped, and the rate
decays linearly to zero. Beside these stands a quadratic of two blocks. What has been computed is kept in
``rows.jsonl``: the same command goes on where it was stopped.

Departures from arXiv 2502.00213, which fine-tunes RoBERTa, ViT and ResNet18: models are small and are not
pretrained, and the place of LayerNorm is all that the two Transformers differ in.
"""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from examples.shared import command, program_flags, terminal
from examples.shared.rows import Rows
from examples.studies.heterogeneity import report, two_blocks
from examples.studies.heterogeneity import rows as heterogeneity_rows
from examples.studies.heterogeneity.measures import CLIP, MODELS, OPTIMIZERS, Study
from examples.studies.heterogeneity.rows import Results

FLAGS = program_flags.Flags()
_MODELS = FLAGS.DEFINE_list("models", list(MODELS), "Models, in turn.")
_OPTIMIZERS = FLAGS.DEFINE_list("optimizers", list(OPTIMIZERS), "Optimizers, in turn; sgd and adam among them.")
_RATES = FLAGS.DEFINE_list("learning_rates", None, "The grid; default: five decades, by optimizer.")
_EPOCHS = FLAGS.DEFINE_integer("epochs", 8, "Times that each example is seen.", lower_bound=1)
_BATCH_SIZE = FLAGS.DEFINE_integer("batch_size", 32, "Examples per update.", lower_bound=1)
_SEEDS = FLAGS.DEFINE_integer("seeds", 5, "Runs of each optimizer at its rate.", lower_bound=2)
_ITERATIONS = FLAGS.DEFINE_integer("iterations", 20, "Of power iteration, at the most.", lower_bound=1)
_CURVATURES = FLAGS.DEFINE_integer("curvatures", 2, "Seeds of which curvatures are measured.", lower_bound=0)
_OUTPUT = FLAGS.DEFINE_path("output", None, "Directory of the rows and the report.", required=True)

program_flags.check_among(MODELS, _MODELS)
program_flags.check_among(OPTIMIZERS, _OPTIMIZERS)
program_flags.check(lambda names: {"adam", "sgd"} <= {*names}, "must hold adam and sgd", _OPTIMIZERS)
program_flags.check_rates(_RATES)

GRIDS = dict.fromkeys(("sgd", "momentum"), (1e-3, 1e-2, 1e-1, 1.0, 10.0))
GRIDS |= dict.fromkeys(("sign_sgd", "signum", "adam"), (1e-5, 1e-4, 1e-3, 1e-2, 1e-1))


def fill(rows: Rows, study: Study) -> None:
    """Run what is missing: the quadratic, then the grid from seed 0, the other seeds, and the curvatures."""
    for norm, curvature in itertools.product((0.1, 1.0, 10.0, 100.0), (1.0, 10.0, 100.0)):
        ensure(rows, two_blocks.measure, kind="two_blocks", norm=norm, curvature=curvature)
    for model, optimizer in itertools.product(_MODELS.value, _OPTIMIZERS.value):
        arm = {"kind": "run", "model": model, "optimizer": optimizer}
        for rate in map(float, _RATES.value or GRIDS[optimizer]):
            ensure(rows, study.run, **arm, learning_rate=rate, seed=0)
        best = Results(rows.rows).best_rate(model, optimizer)
        for seed in range(1, _SEEDS.value):
            ensure(rows, study.run, **arm, learning_rate=best, seed=seed)
    for model, seed in itertools.product(_MODELS.value, range(_CURVATURES.value)):
        ensure(rows, study.curvature, kind="curvature", model=model, seed=seed)


def ensure(rows: Rows, measure: Callable[..., dict[str, Any]], kind: str, **of: Any) -> None:
    """Measure what there is no row of, and say so."""
    if not rows.has(kind=kind, **of):
        rows.add({"kind": kind} | of | measure(**of))
        print(kind, *of.values(), flush=True)


def main() -> None:
    """Run what is missing, then write the report."""
    output = Path(_OUTPUT.value)
    output.mkdir(parents=True, exist_ok=True)
    study = Study(_EPOCHS.value, _BATCH_SIZE.value, _ITERATIONS.value)
    settings = {flag.name: flag.value for flag in (_EPOCHS, _BATCH_SIZE, _ITERATIONS)}
    settings |= {"updates": study.steps, "clip": CLIP, "data": "scikit-learn's digits"}
    settings |= {"train_examples": len(study.train["label"]), "test_examples": len(study.test["label"])}
    with Rows(output / "rows.jsonl", settings, heterogeneity_rows.fields) as rows:
        fill(rows, study)
        asked = command.typed("studies.heterogeneity.study")
        terminal.show(rows.reported(lambda rows: report.write(rows, output, asked)))


if __name__ == "__main__":
    command.run(main, FLAGS)
