"""Test whether gradient heterogeneity predicts Adam's lead, and whether LayerNorm's placement predicts it.

    python -m examples.studies.heterogeneity.study --output=runs/heterogeneity

A Transformer with Post-LN, the same with Pre-LN, and a convolutional network are trained on digits from
scratch, with five optimizers. Each optimizer uses the rate of a decade grid at which the run from seed 0 ends
with the lowest training loss, and runs from all seeds at this rate; for each seed, all optimizers see the same
batches. The gradient is clipped, and the rate decays linearly to zero. In addition, quadratics of two blocks
are minimized. The same command continues a study that was stopped.

Departures from arXiv 2502.00213, which fine-tunes RoBERTa, ViT and ResNet18: models are small and not
pretrained, and the two Transformers differ only in the placement of LayerNorm.
"""

import itertools
from pathlib import Path

from examples.shared import command, pictures, program_flags, terminal
from examples.shared.study_record import in_columns, measured_once
from examples.studies.heterogeneity import report, two_blocks
from examples.studies.heterogeneity.measures import CLIP, MODELS, OPTIMIZERS, Study
from examples.studies.heterogeneity.results import final_loss
from optimiz import compare, training

FLAGS = program_flags.Flags()
_MODELS = FLAGS.DEFINE_list("models", list(MODELS), "Models, in turn.")
_OPTIMIZERS = FLAGS.DEFINE_list("optimizers", list(OPTIMIZERS), "Optimizers, in turn; sgd and adam among them.")
_RATES = FLAGS.DEFINE_list("learning_rates", None, "The grid; default: five decades, by optimizer.")
_EPOCHS = FLAGS.DEFINE_integer("epochs", 8, "Epochs.", lower_bound=1)
_BATCH_SIZE = FLAGS.DEFINE_integer("batch_size", 32, "Examples per update.", lower_bound=1)
_SEEDS = FLAGS.DEFINE_integer("seeds", 5, "Runs of each optimizer at its rate.", lower_bound=2)
_ITERATIONS = FLAGS.DEFINE_integer("iterations", 20, "Maximum iterations of the power method.", lower_bound=1)
_CURVATURES = FLAGS.DEFINE_integer("curvatures", 2, "Seeds whose curvature is measured.", lower_bound=0)
_OUTPUT = FLAGS.DEFINE_path("output", None, "Directory of the report and the runs.", required=True)

program_flags.check_among(MODELS, _MODELS)
program_flags.check_among(OPTIMIZERS, _OPTIMIZERS)
program_flags.check(lambda names: {"adam", "sgd"} <= {*names}, "must hold adam and sgd", _OPTIMIZERS)
program_flags.check_rates(_RATES)

GRIDS = dict.fromkeys(("sgd", "momentum"), (1e-3, 1e-2, 1e-1, 1.0, 10.0))
GRIDS |= dict.fromkeys(("sign_sgd", "signum", "adam"), (1e-5, 1e-4, 1e-3, 1e-2, 1e-1))


def train(study: Study, model: str, settings: dict[str, object], output: Path) -> list[compare.Run]:
    """Run every optimizer at every rate from seed 0, and at the best one from the other seeds."""
    grid = [
        study.arm(model, optimizer, float(rate))
        for optimizer in _OPTIMIZERS.value
        for rate in _RATES.value or GRIDS[optimizer]
    ]
    with terminal.matrix_bar() as progress:

        def run_matrix(arms: list[compare.Arm], seeds: range) -> list[compare.Run]:
            return compare.run_matrix(
                arms,
                seeds,
                lambda seed: study.task(model, seed),
                training.Settings(steps=study.steps),
                output / "runs" / model,
                identity=settings,
                metric="train_loss",
                lower_is_better=["train_loss"],
                extra=study.by_epoch,
                progress=progress,
            )

        runs = run_matrix(grid, range(1))
        best: dict[str, float] = {}
        for run in sorted(runs, key=final_loss):
            best.setdefault(run.optimizer, run.learning_rate)
        chosen = [arm for arm in grid if arm.learning_rate == best[arm.name]]
        return runs + run_matrix(chosen, range(1, _SEEDS.value))


def main() -> None:
    """Make the missing runs, then write the report."""
    output = Path(_OUTPUT.value)
    study = Study(_EPOCHS.value, _BATCH_SIZE.value, _ITERATIONS.value)
    settings = {flag.name: flag.value for flag in (_EPOCHS, _BATCH_SIZE, _ITERATIONS)}
    settings |= {"updates": study.steps, "clip": CLIP, "data": "scikit-learn's digits"}
    settings |= {"train_examples": len(study.train["label"]), "test_examples": len(study.test["label"])}
    with training.claimed(output, settings, resume=True):
        quadratics = measured_once(
            output / "two_blocks.json", lambda: [two_blocks.measure(*cell) for cell in two_blocks.CELLS]
        )
        runs = [run for model in _MODELS.value for run in train(study, model, settings, output)]
        curvatures = [
            measured_once(
                output / f"curvature_{model}_{seed}.json", lambda m=model, s=seed: study.curvature(m, s)
            )
            for model, seed in itertools.product(_MODELS.value, range(_CURVATURES.value))
        ]
        record = compare.Record(
            title="Gradient heterogeneity and Adam's lead",
            command=command.typed("studies.heterogeneity.study"),
            task={},
            settings=settings,
            baselines={},
            test_examples=settings["test_examples"],
            runs=in_columns(runs),
            extra={"curvature": curvatures, "two_blocks": quadratics},
        )
        summary = pictures.write_study(report, record, output)
    terminal.show(summary)


if __name__ == "__main__":
    command.run(main, FLAGS)
