"""Compare recipes for pre-training with a fully decayed AdamW, on the same budget of reference time.

    python -m examples.irreducible_losses --output=runs/irreducible
    python -m examples.studies.pretraining.study --irreducible=runs/irreducible --output=runs/pretrain
    python -m examples.studies.pretraining.study --recipes=lion,layer_drop --budget=60 --output=runs/mine

A recipe is an optimizer, or a method on top of AdamW that claims to save time. Each is tuned over a grid of
rates, with one run per rate from seed 0 on the whole budget; the rate with the lowest final validation loss
is then run from the other seeds. All schedules have fully decayed when the budget is spent, except that of
the unfair baseline. Every model is then fine-tuned to classify the topics of sentences from Python's own
documentation. The same command with ``--resume`` continues a study that was stopped.
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from examples import irreducible_losses
from examples.shared import command, optimizers, pictures, prices, program_flags, terminal
from examples.studies.pretraining import recipes, report
from examples.studies.pretraining.downstream import Downstream
from examples.studies.pretraining.recipes import BASELINE, RECIPES, Setting, half_way
from examples.studies.pretraining.report import UNTRAINED
from optimiz import compare, training

FLAGS = program_flags.Flags()
_RECIPES = FLAGS.DEFINE_list("recipes", list(RECIPES), "Recipes, in turn; adamw is always one of them.")
_LEARNING_RATES = FLAGS.DEFINE_list(
    "learning_rates", None, "Peak rates; default: each recipe's own, a third of it and three times it."
)
_BUDGET = FLAGS.DEFINE_float("budget", 26.0, "Budget of each run, in seconds of reference time.")
_SEEDS = FLAGS.DEFINE_integer("seeds", 3, "Runs of each recipe at its best rate.", lower_bound=1)
_REFERENCE = FLAGS.DEFINE_path("reference", None, "JSON file of prices; default: measured on this machine.")
_DATA = FLAGS.DEFINE_path("data", None, "Text file, or folder of them; default: Python's library.")
_VOCAB_SIZE = FLAGS.DEFINE_integer("vocab_size", 512, "Size of the WordPiece vocabulary.", lower_bound=1)
_LAYERS = FLAGS.DEFINE_integer("layers", 4, "Layers of the model.", lower_bound=1)
_HIDDEN_SIZE = FLAGS.DEFINE_integer("hidden_size", 64, "Width of the model.", lower_bound=1)
_LENGTH = FLAGS.DEFINE_integer("length", 32, "Tokens per row.", lower_bound=1)
_BATCH_SIZE = FLAGS.DEFINE_integer("batch_size", 16, "Rows per update.", lower_bound=1)
_IRREDUCIBLE = FLAGS.DEFINE_path("irreducible", None, "For rho_loss: directory of examples.irreducible_losses.")
_RESUME = FLAGS.DEFINE_bool("resume", False, "Continue the study in --output.")
_OUTPUT = FLAGS.DEFINE_path("output", None, "Directory of the report and the runs.", required=True)

_SIZES = (_DATA, _VOCAB_SIZE, _LAYERS, _HIDDEN_SIZE, _LENGTH)
_EVALUATE_AT = (0.125, 0.25, 0.5, 0.75)  # shares of the budget

program_flags.check_each(lambda name: optimizers.among(name, RECIPES), _RECIPES)
program_flags.check_rates(_LEARNING_RATES)
program_flags.check(lambda x: 1e-9 <= x <= 1e9, "must be in [1e-9, 1e9]", _BUDGET)


def read_setting() -> Setting:
    """The task, with the tokenizer and the losses of ``--irreducible`` if they are given."""
    directory = Path(_OUTPUT.value if _IRREDUCIBLE.value is None else _IRREDUCIBLE.value)
    sizes = [flag.value for flag in _SIZES]
    problem = irreducible_losses.problem(directory / irreducible_losses.TOKENIZER, *sizes)
    losses = None
    if _IRREDUCIBLE.value is not None:
        losses = irreducible_losses.read(directory, problem.fingerprint())
    return Setting(problem, _BATCH_SIZE.value, losses)


def run(setting: Setting, grid: Sequence[compare.Arm], given: training.Reference | None, output: Path) -> str:
    """Make the missing runs, write the report, and return the part with the result.

    Args:
        setting: setting of all recipes.
        grid: every recipe at every rate, the baseline among them.
        given: prices; None to measure them.
        output: directory of the study.

    Raises:
        RunError: a run can neither start nor continue.
        ValueError: a recipe cannot be run.
    """
    sizes = {flag.name: flag.value for flag in _SIZES}
    identity = sizes | setting.identity()
    tokenizer = setting.problem.vocabulary.tokenizer.to_str(pretty=True)
    training.write_whole(output / irreducible_losses.TOKENIZER, tokenizer)
    about = sizes | {"batch_size": setting.batch_size}
    measure = functools.partial(recipes.prices, setting, about)
    reference = prices.given_or_measured(given, measure, output / "reference.json")
    downstream, pretrained = Downstream(setting.problem, output / "encoder"), setting.problem.evaluation("test")

    def test(params: Any) -> dict[str, float]:
        return {"loss": pretrained(params)["loss"], "accuracy": downstream(params)["accuracy"]}

    with terminal.matrix_bar() as progress:
        run_matrix = functools.partial(
            compare.run_matrix,
            task_of=setting.task,
            settings=training.Settings(budget=_BUDGET.value, log_every=20, evaluate_at=_EVALUATE_AT),
            directory=output / "runs",
            identity=identity,
            metric="loss",
            reference=reference,
            test=test,
            progress=progress,
        )
        tuned = [report.kept(run, tested=False) for run in run_matrix(grid, [0])]
        best: dict[str, compare.Arm] = {}
        for arm, _ in sorted(zip(grid, tuned, strict=True), key=lambda pair: report.final_loss(pair[1])):
            best.setdefault(arm.name, arm)
        unfair = half_way(setting, best[BASELINE].learning_rate)
        chosen = [arm for arm in grid if arm is best[arm.name]]
        final = [report.kept(run, tested=True) for run in run_matrix([*chosen, unfair], range(_SEEDS.value))]
    starts = (setting.problem.start(jax.random.key(seed)) for seed in range(_SEEDS.value))
    rates = {arm.name: arm.learning_rate for arm in chosen}
    record = compare.Record(
        title="Recipes for pre-training on the same budget of reference time",
        command=command.typed("studies.pretraining.study"),
        task={},
        settings=identity
        | {"budget": _BUDGET.value, "reference": reference.prices(), "reference_date": reference.date},
        baselines={},
        test_examples=downstream.examples,
        runs=[*final, *(run for run in tuned if run.learning_rate != rates[run.optimizer])],
        extra={UNTRAINED: [test(start) for start in starts]},
    )
    return pictures.write_study(report, record, output)


def main() -> None:
    """Compare the recipes, with prices that are given or measured."""
    given = prices.given(_REFERENCE.value)
    rates = None if _LEARNING_RATES.value is None else [float(rate) for rate in _LEARNING_RATES.value]
    setting, output = read_setting(), Path(_OUTPUT.value)
    grid = recipes.grid(setting, _RECIPES.value, rates)
    identity = {flag.name: flag.value for flag in _SIZES} | setting.identity()
    with training.claimed(output, identity | {"budget": _BUDGET.value}, _RESUME.value):
        summary = run(setting, grid, given, output)
    terminal.show(summary)
    print(f"\nreport: {output / 'report.md'}")


if __name__ == "__main__":
    command.run(main, FLAGS)
