"""Measure the learning rate at which the trainers run each optimizer by default.

    python -m examples.studies.default_rates.study --output=runs/fine_tuning_rates
    python -m examples.studies.default_rates.study --setting=from_scratch --output=runs/scratch_rates

Plan, which was written before the first run:

- Every optimizer of the suite that takes a rate is run as a trainer runs it, with its weight decay, warm-up,
  schedule and multipliers, on short runs of a small task that every installation has.
- Its rates are a grid of half decades, which goes on while its best rate is at an edge. The best rate has the
  lowest mean of the last validation loss over all seeds. It is one of the rates, not one between two of them.
- No optimizers are compared: runs are too short and too few for that. What is wanted is each one's own scale.

The same command continues a study that was stopped.
"""

from pathlib import Path
from typing import Any

from examples.shared import command, pictures, program_flags, terminal
from examples.studies.default_rates import report
from examples.studies.default_rates.report import METRIC
from examples.studies.default_rates.settings import SETTINGS
from examples.studies.tuned import run_matrix
from optimiz import compare, training

FLAGS = program_flags.Flags()
_SETTING = FLAGS.DEFINE_enum("setting", "fine_tuning", list(SETTINGS), "What is trained.")
_OPTIMIZERS = FLAGS.DEFINE_list("optimizers", None, "Optimizers, in turn; default: all of the setting.")
_SEEDS = FLAGS.DEFINE_integer("seeds", 1, "Runs of each optimizer at each rate.", lower_bound=1)
_EXTENSIONS = FLAGS.DEFINE_integer("extensions", 4, "Maximum rates by which a grid goes on.", lower_bound=0)
_OUTPUT = FLAGS.DEFINE_path("output", None, "Directory of the report and the runs.", required=True)
program_flags.check_among(SETTINGS["from_scratch"].names, _OPTIMIZERS)


def main() -> None:
    """Make the missing runs, then write the report."""
    output, setting = Path(_OUTPUT.value), SETTINGS[_SETTING.value]
    problem, validated_on = setting.problem()
    identity: dict[str, Any] = {"setting": _SETTING.value, "fingerprint": problem.fingerprint()}
    identity |= {name: value for name, value in setting.plan.decisive.items() if name != "seed"}
    with training.claimed(output, identity, resume=True):
        runs = run_matrix(
            [arm for name in _OPTIMIZERS.value or setting.names for arm in setting.arms(name)],
            range(_SEEDS.value),
            lambda seed: problem.task(setting.plan.batch_size, seed),
            setting.plan.settings,
            output / "runs",
            identity=identity,
            metric=METRIC,
            extensions=_EXTENSIONS.value,
        )
        record = compare.Record(
            title=f"Default rates: {setting.what}",
            command=command.typed("studies.default_rates.study"),
            task={},
            settings=identity,
            baselines={},
            test_examples=validated_on,
            runs=runs,
        )
        summary = pictures.write_study(report, record, output)
    terminal.show(summary)


if __name__ == "__main__":
    command.run(main, FLAGS)
