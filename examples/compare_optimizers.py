"""Compare optimizers under one budget: methods × learning rates × seeds on one task, and the report.

    python -m examples.compare_optimizers --output=runs/compare
    python -m examples.compare_optimizers --task=train.tsv --optimizers=adamw,lion --output=runs/mine

The task ``text`` is the topic of sentences from Python's own documentation, told by a pretrained encoder. Every
run spends the same budget of reference time and decays fully at its end; what an optimizer computes beyond a
step is charged. For one seed all begin with the same parameters and see the same batches. The same command with
``--resume`` goes on where it was stopped.
"""

import contextlib
import functools
import math
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import optax
import rich.console
import rich.progress

from examples import command, optimizers
from examples.data import baseline, docstrings, text
from examples.models import pretrained
from examples.text_classification import TextClassification
from optimiz import compare, groups, schedules, training

FLAGS = command.Flags()
_TASK = FLAGS.DEFINE_string("task", "text", '"text", or a .tsv, .csv or .jsonl file of examples.')
_MODEL = FLAGS.DEFINE_string("model", None, "Directory or Hub id of a BERT, MiniLM or RoBERTa encoder.")
_OPTIMIZERS = FLAGS.DEFINE_list("optimizers", ["adamw", "lion", "sgd_sai", "salsa"], "Optimizers, in turn.")
_LEARNING_RATES = FLAGS.DEFINE_list(
    "learning_rates", None, "Peak rates; default: each optimizer's own, a third of it and three times it."
)
_BUDGET = FLAGS.DEFINE_float("budget", 8.0, "Of each run, in seconds of reference time.")
_SEEDS = FLAGS.DEFINE_integer("seeds", 3, "Runs of each optimizer at each rate.", lower_bound=1)
_REFERENCE = FLAGS.DEFINE_string("reference", None, "Prices, a JSON file; default: measured here.")
_FIGURE = FLAGS.DEFINE_enum("figure", "accuracy", ["accuracy", "macro_f1", "mcc", "loss"], "What ranks.")
_BATCH_SIZE = FLAGS.DEFINE_integer("batch_size", 16, "Examples per update.", lower_bound=1)
_LENGTH = FLAGS.DEFINE_integer("length", 16, "Tokens per example; longer ones are cut.")
_RESUME = FLAGS.DEFINE_bool("resume", False, "Go on with the comparison in --output.")
_OUTPUT = FLAGS.DEFINE_string("output", None, "Directory of the report and the runs.", required=True)

_DECISIVE = (_TASK, _BUDGET, _BATCH_SIZE, _LENGTH, _FIGURE)
_HEAD_RATE, _WEIGHT_DECAY, _WARMUP, _DROPOUT = 50.0, 0.01, 0.1, 0.1
_TIMED = 20  # steps, to measure the prices


def _is_rate(value: str) -> bool:
    try:
        return 0 < float(value) < math.inf
    except ValueError:
        return False


command.check(lambda rates: all(map(_is_rate, rates)), "must be positive numbers", _LEARNING_RATES)


def read_data() -> dict[str, text.TextExamples]:
    """The parts "train", "validation" and "test"; an evaluation is to cost no more than a few steps."""
    examples = docstrings.load() if _TASK.value == "text" else text.read(_TASK.value)
    return text.split(examples, {"train": 0.78, "validation": 0.11, "test": 0.11})


def arms() -> list[compare.Arm]:
    """Every optimizer at every rate; once, where a line search finds the rate."""
    found = []
    for name in _OPTIMIZERS.value:
        own = optimizers.choose(name).learning_rate
        if own is None:
            rates = [None]
        elif _LEARNING_RATES.value is None:
            rates = [float(f"{own * multiple:.3g}") for multiple in (1 / 3, 1, 3)]
        else:
            rates = [float(rate) for rate in _LEARNING_RATES.value]
        found += [compare.Arm(name, rate, functools.partial(_make, name, rate)) for rate in rates]
    return found


def _make(name: str, rate: float | None) -> optax.GradientTransformation:
    """The optimizer on a schedule that decays to zero as the budget is spent."""
    shape = schedules.linear(1.0) if rate is None else schedules.warm_up(schedules.linear(rate), _WARMUP)
    multipliers = optimizers.head_multipliers(_HEAD_RATE)
    return optimizers.choose(name).make(
        schedules.over_budget(shape), _WEIGHT_DECAY, groups.no_decay(), multipliers
    )


def measured(task: training.Task, asked: list[compare.Arm], path: Path) -> training.Reference:
    """The prices: those in the file, or those of this machine, which then are in the file."""
    if not path.exists():
        # The optimizer counts for little in a step, and all are charged the same; the first one stands for all.
        about = {"task": _TASK.value, "batch_size": _BATCH_SIZE.value, "optimizer": asked[0].name}
        training.calibrate(task, asked[0].make(), about=about, n=_TIMED).write(path)
    return training.Reference.read(path)


@contextlib.contextmanager
def bar() -> Iterator[Callable[[compare.MatrixProgress], None]]:
    """Show how far the matrix is, a bar on a terminal, else a line at every look; and each run's troubles."""
    console, told = rich.console.Console(), {}

    def tell(progress: compare.MatrixProgress) -> None:
        run = f"{progress.arm}, seed {progress.seed}"
        if run not in told:
            told.clear()  # the run before is over
            told[run] = command.troubles(console, run)
        told[run](progress.within)

    if not console.is_terminal:
        yield lambda progress: (tell(progress), console.print(str(progress), soft_wrap=True))
        return
    with rich.progress.Progress("{task.description}", rich.progress.BarColumn(), console=console) as display:
        task = display.add_task("measuring prices", total=1.0)

        def update(progress: compare.MatrixProgress) -> None:
            tell(progress)  # above the bar
            display.update(task, completed=progress.share, description=str(progress))

        yield update


def main() -> None:
    """Run what is missing, then write the report."""
    asked = arms()
    settings = training.Settings(budget=_BUDGET.value, log_every=5, evaluate_at=(0.25, 0.5, 0.75))
    parts = read_data()
    problem = TextClassification(
        parts, pretrained.find(_MODEL.value), length=_LENGTH.value, dropout=_DROPOUT, pooling="mean"
    )
    task_of = lambda seed: problem.task(_BATCH_SIZE.value, seed)  # noqa: E731
    decisive = {flag.name: flag.value for flag in _DECISIVE}
    identity = decisive | {"model_and_data": problem.fingerprint()}
    output = Path(_OUTPUT.value)
    given = None if _REFERENCE.value is None else training.Reference.read(_REFERENCE.value)
    with training.claimed(output, identity, _RESUME.value), bar() as progress:
        prices = given or measured(task_of(0), asked, output / "reference.json")
        runs = compare.run_matrix(
            asked,
            range(_SEEDS.value),
            task_of,
            settings,
            output / "runs",
            identity=identity,
            figure=_FIGURE.value,
            reference=prices,
            test=problem.evaluation("test"),
            progress=progress,
        )
        model = _MODEL.value or pretrained.DEFAULT
        record = compare.Record(
            title=f"{', '.join(_OPTIMIZERS.value)} on one budget: fine-tuning {model}",
            command=shlex.join(["python", "-m", "examples.compare_optimizers", *sys.argv[1:]]),
            task={
                "model": model,
                "data": parts["train"].source,
                "classes": len(parts["train"].label_names),
                "examples": ", ".join(f"{len(part.texts)} {name}" for name, part in parts.items()),
            },
            settings=decisive
            | {"reference": prices.prices(), "warmup": _WARMUP, "weight_decay": _WEIGHT_DECAY},
            baselines={"TF-IDF + logistic regression": baseline.tfidf_baseline(**parts)},
            test_examples=len(parts["test"].texts),
            runs=runs,
        )
        report = compare.write_report(record, output, figure=_FIGURE.value)
    command.show(compare.summary(record, figure=_FIGURE.value))
    print(f"\nreport: {report}")


if __name__ == "__main__":
    command.run(main, FLAGS)
