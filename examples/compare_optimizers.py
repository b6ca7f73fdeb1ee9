"""Compare optimizers under one budget: methods × learning rates × seeds on one task, and the report.

    python -m examples.compare_optimizers --output=runs/compare
    python -m examples.compare_optimizers --task=train.tsv --optimizers=adamw,lion --output=runs/mine
    python -m examples.compare_optimizers --task="finetune_image --model=vit" --output=runs/digits

By default a pretrained encoder learns to tell sentences of Python's own documentation from the same words in
a random order, see ``examples.data.word_order``: what a bag of words, and the encoder as it is, cannot tell.
Every run has the same budget of reference time and decays fully at its end. An optimizer is charged what its
own step costs, and its extra work. For each seed, all runs begin with the same parameters and see the same
batches. The grid of an optimizer goes on while its best rate is the lowest or the highest, by up to
``--extensions`` rates. The same command with ``--resume`` continues a comparison that was stopped. For recipes
for pre-training, see ``examples.studies.pretraining.study``.
"""

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path

from examples.compared import own, texts, trainers
from examples.compared.setting import Setting
from examples.data import data_flags
from examples.shared import command, devices, optimizers, prices, program_flags, terminal
from examples.shared.budget_arms import WARMUP, WEIGHT_DECAY, arms
from optimiz import compare, training

FLAGS = program_flags.Flags()
_TASK = FLAGS.DEFINE_path(
    "task",
    texts.NAME,
    f'"{texts.NAME}", or a .tsv, .csv, .jsonl, .json or .parquet of examples, shards, or folders of classes; a '
    'trainer and flags of its data and model, as "finetune_lm --data=a.jsonl"; or module:function of your own.',
)
_MODEL = FLAGS.DEFINE_path("model", None, "Directory or Hub id of a BERT, MiniLM or RoBERTa encoder.")
_OPTIMIZERS = FLAGS.DEFINE_list("optimizers", ["adamw", "sgd_sai", "salsa"], optimizers.listed())
_LEARNING_RATES = FLAGS.DEFINE_list(
    "learning_rates", None, "Peak rates to begin with; default: each optimizer's own and three times it."
)
_WEIGHT_DECAYS = FLAGS.DEFINE_list("weight_decays", None, f"Decoupled weight decays; default: {WEIGHT_DECAY}.")
_WARMUPS = FLAGS.DEFINE_list("warmups", None, f"Shares of the budget of the warm-up; default: {WARMUP}.")
_HALVING = FLAGS.DEFINE_list(
    "halving", None, "Shares of the budget, such as 0.25,0.5, after which only the best of each grid go on."
)
_EXTENSIONS = FLAGS.DEFINE_integer(
    "extensions",
    4,
    "Maximum points, along each axis, by which a grid goes on while its best is at an edge; 0 for none.",
    lower_bound=0,
)
_BUDGET = FLAGS.DEFINE_float("budget", 4.0, "Budget of each run, in seconds of reference time.")
_SEEDS = FLAGS.DEFINE_integer("seeds", 5, "Runs of each optimizer at each rate.", lower_bound=1)
_FILES = data_flags.DataFlags(FLAGS)
_CONTROLS = FLAGS.DEFINE_bool(
    "controls", True, "Also train the first optimizer on half of the data, and with a frozen encoder."
)
_NOISE = FLAGS.DEFINE_integer(
    "noise_batches", 0, "Batches on which gradient noise is measured, before and after a run.", lower_bound=0
)
_REFERENCE = FLAGS.DEFINE_path(
    "reference", None, "JSON file of prices for all optimizers; default: each one's, measured on this machine."
)
_PRICE = FLAGS.DEFINE_float("price_per_device_hour", None, "Price of an hour of the reference device.")
_ENERGY = FLAGS.DEFINE_string(
    "energy", None, 'Also measure joules: "rapl" (processor), "nvml" (NVIDIA GPU), or a stated power in watts.'
)
_CURRENCY = FLAGS.DEFINE_string("currency", "USD", "Its currency.")
_METRIC = FLAGS.DEFINE_string(
    "metric", None, "Metric that ranks; default: accuracy, or bits_per_byte of a text."
)
_BATCH_SIZE = FLAGS.DEFINE_integer("batch_size", 16, "Examples per update.", lower_bound=1)
_LENGTH = FLAGS.DEFINE_integer(
    "length",
    None,
    "Tokens per example; longer ones are cut. Default: what those of a file need, and 16 for word_order.",
    lower_bound=1,
)
_RESUME = FLAGS.DEFINE_bool("resume", False, "Continue the comparison in --output.")
_OUTPUT = FLAGS.DEFINE_path("output", None, "Directory of the report and the runs.", required=True)

_DECISIVE = (_TASK, _BUDGET, _BATCH_SIZE, _LENGTH)
_choose = functools.partial(optimizers.choose, classes=2)
_TIMED = 30  # steps of each optimizer, whose times give the prices

program_flags.check(lambda n: n != 1, "must be 0, or at least 2", _NOISE)
program_flags.check_each(_choose, _OPTIMIZERS)
program_flags.check_rates(_LEARNING_RATES)
program_flags.check_together(
    lambda x: x["energy"] is None or x["reference"] is None,
    "go with prices that are measured here; those of a file have their own energy, or none",
    FLAGS,
    _ENERGY,
    _REFERENCE,
)
program_flags.check_numbers(lambda x: 0 <= x <= 1e30, "in [0, 1e30]", _WEIGHT_DECAYS)
program_flags.check_numbers(lambda x: 0 <= x < 1, "in [0, 1)", _WARMUPS)
program_flags.check_numbers(lambda x: 0 < x < 1, "in (0, 1)", _HALVING)
program_flags.check(lambda x: sorted(x, key=float) == x, "must ascend", _HALVING)
program_flags.check(lambda x: 1e-9 <= x <= 1e9, "must be in [1e-9, 1e9]", _BUDGET)
program_flags.check_together(
    lambda x: [arm.optimizer() for arm in arms(x["optimizers"], x["learning_rates"] and [1.0], _choose)],
    "must be optimizers that can be built",
    FLAGS,
    _OPTIMIZERS,
    _LEARNING_RATES,
)


def read_setting() -> Setting:
    """The setting that ``--task`` names."""
    task, size = _TASK.value, _BATCH_SIZE.value
    if texts.exists(task):
        given = {"length": _LENGTH.value, "trained_controls": _CONTROLS.value}
        return texts.setting(task, _FILES, model=_MODEL.value, batch_size=size, **given)
    if not trainers.names(task) and ":" not in task:
        known = ", ".join(trainers.TRAINERS)
        raise ValueError(
            f'--task={task}: no such file; a task without a file is "{texts.NAME}", {known} or module:function'
        )
    _FILES.refuse_without("--task")
    for flag in (_MODEL, _LENGTH):
        if flag.value is not None:
            raise ValueError(f"--{flag.name} is of text; a trainer's is written in --task, after its name")
    if trainers.names(task):
        return trainers.setting(task, batch_size=size, output=Path(_OUTPUT.value))
    if FLAGS["batch_size"].present:
        raise ValueError(f"--batch_size={size}: {task} decides that")
    return own.setting(task)


def price() -> dict[str, object]:
    """The price for the report; empty if none is given."""
    if _PRICE.value is None:
        return {}
    what = "as given by --price_per_device_hour"
    return {"per_device_hour": _PRICE.value, "currency": _CURRENCY.value, "devices": 1, "what": what}


def applying(settings: Mapping[str, object]) -> dict[str, object]:
    """The settings without those that do not apply, which are None or empty."""
    return {name: value for name, value in settings.items() if value not in (None, [])}


def main() -> None:
    """Run what is missing, then write the report."""
    given = prices.given(_REFERENCE.value)
    rates = None if _LEARNING_RATES.value is None else [float(rate) for rate in _LEARNING_RATES.value]
    settings = training.Settings(budget=_BUDGET.value, log_every=5, evaluate_at=(1 / 3, 2 / 3))
    devices.refuse()
    setting = read_setting()
    metric = setting.metric(_METRIC.value)
    decays, warmups = (flag.value and [float(x) for x in flag.value] for flag in (_WEIGHT_DECAYS, _WARMUPS))
    shares = [float(share) for share in _HALVING.value or []]
    grid = arms(_OPTIMIZERS.value, rates, setting.choose, decays, warmups, setting.multipliers)
    seeds = range(_SEEDS.value)
    setting.show()
    decisive = {flag.name: flag.value for flag in _DECISIVE} | dict(setting.decisive)
    identity = decisive | dict(setting.identity)
    identity |= {"figure": metric}  # by this name, directories of earlier versions resume
    output = Path(_OUTPUT.value)
    meter = prices.energy_meter(_ENERGY.value)  # before anything is trained, as it may be refused

    def prices_of(arm: compare.Arm) -> training.Reference:
        about = {"task": _TASK.value, "batch_size": _BATCH_SIZE.value, "optimizer": arm.name}
        metered = meter if arm.name == grid[0].name else None
        return training.calibrate(setting.task_of(0), arm.optimizer(), about=about, n=_TIMED, meter=metered)

    names = dict.fromkeys(arm.name for arm in grid)
    of_name = {arm.name: arm for arm in reversed(grid)}
    measure = {name: functools.partial(prices_of, of_name[name]) for name in names}
    with training.claimed(output, identity, _RESUME.value), terminal.matrix_bar() as progress:
        left_out: dict[str, str] = {}
        baselines = setting.baselines(left_out)  # first, as it can fail
        reference = (
            prices.of_each(measure, output / "reference.json") if given is None else dict.fromkeys(names, given)
        )
        first = reference[grid[0].name]
        record = compare.Record(
            title=f"{', '.join(names)} on one budget: {setting.title}",
            command=command.typed("compare_optimizers"),
            task=setting.about,
            settings=applying(
                decisive
                | {"metric": metric, "reference": first.prices()}
                | {
                    f"reference of {name}": own.prices()
                    for name, own in reference.items()
                    if own.times != first.times
                }
                | {"extensions": _EXTENSIONS.value, "halving": shares}
                | {"warmup": warmups or WARMUP, "weight_decay": decays or WEIGHT_DECAY}
            ),
            baselines=baselines,
            test_examples=setting.test_examples,
            runs=[],
            price=price(),
            energy=prices.energy_of(first, _ENERGY.value),
            left_out=left_out,
        )
        compare.check_report(record, output, metric=metric)

        def run_matrix(
            arms: list[compare.Arm], *, task_of=setting.task_of, directory="runs", **more
        ) -> list[compare.Run]:
            return compare.run_matrix(
                arms,
                seeds,
                task_of,
                settings,
                output / directory,
                identity=identity,
                metric=metric,
                reference=reference,
                test=setting.test,
                progress=progress,
                **more,
            )

        only_here = {"extensions": _EXTENSIONS.value, "halving": shares, "noise_batches": _NOISE.value}
        record = dataclasses.replace(record, runs=run_matrix(grid, **only_here))
        baseline = compare.by_method(record, metric)[0]
        best = dataclasses.replace(grid[0], learning_rate=baseline.rate, axes=baseline.values)
        those = setting.controls(setting, best, run_matrix, left_out, seeds)
        record = dataclasses.replace(record, controls=those)
        report = compare.write_report(record, output, metric=metric)
    terminal.show(compare.summary(record, metric=metric))
    print(f"\nreport: {report}")


if __name__ == "__main__":
    command.run(main, FLAGS)
