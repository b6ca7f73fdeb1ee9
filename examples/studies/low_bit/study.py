"""Measure what low-bit state, and parameters and products in bfloat16, cost, relative to float32.

    python -m examples.studies.low_bit.study --output=runs/topics
    python -m examples.studies.low_bit.study --task=file --data=train.tsv --validation=dev.tsv --output=runs/x
    python -m examples.studies.low_bit.study --task=language --steps=2000 --length=64 --output=runs/y

Either a pretrained encoder is fine-tuned to classify sentences from Python's own documentation or examples from
a file, or a small GPT-2 is trained from scratch on text, by default the sources of Python's library. For each
seed, all arms start with the same parameters and see the same batches with the same dropout. The model computes
in float32, but in the forms ``mixed`` and ``bfloat16``, which are the trainers' ``--precision``. Gradients have
the dtype of the parameters. At the low rate, AdamW's steps are about 2⁻¹⁵, which is half the distance between
neighbouring bfloat16 numbers from 2⁻⁷ to 2⁻⁶: with rounding to nearest, entries larger than about a hundredth
do not move. The same command continues a study that was stopped. With ``--forms`` only these are run, and
``--keep`` names a record whose runs of the others are kept.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optimiz
from examples.data import corpus, data_flags, docstrings, text, tokenization
from examples.models import pretrained
from examples.shared import command, pictures, program_flags, terminal
from examples.shared.study_record import in_columns
from examples.studies.low_bit import arms as low_bit_arms
from examples.studies.low_bit import report
from examples.studies.low_bit.arms import FORMS
from examples.tasks.objectives import Size, causal
from examples.tasks.pretraining import EVALUATION_ROWS, Pretraining
from examples.tasks.text_classification import TextClassification
from optimiz import compare, training

FLAGS = program_flags.Flags()
_TASK = FLAGS.DEFINE_enum("task", "topics", ["topics", "file", "language"], "The task.")
_MODEL = FLAGS.DEFINE_path("model", None, "Directory or Hub id of a BERT, MiniLM or RoBERTa encoder.")
_DATA = FLAGS.DEFINE_path("data", None, "For file, training examples; for language, a text or folder.")
_VALIDATION = FLAGS.DEFINE_path("validation", None, "Validation examples for file.")
_FILES = data_flags.DataFlags(FLAGS)
_ROWS = FLAGS.DEFINE_integer("rows", 2000, "Maximum examples of a part.", lower_bound=1)
_STEPS = FLAGS.DEFINE_integer("steps", 150, "Updates.", lower_bound=10)
_BATCH_SIZE = FLAGS.DEFINE_integer("batch_size", 32, "Examples per update.", lower_bound=1)
_LENGTH = FLAGS.DEFINE_integer("length", 24, "Tokens per example.", lower_bound=8)
_WIDTH = FLAGS.DEFINE_integer(
    "width", 64, "Hidden size of the GPT-2, which has two layers of two heads.", lower_bound=2
)
_SEEDS = FLAGS.DEFINE_integer("seeds", 3, "Runs of each arm.", lower_bound=2)
_OPTIMIZERS = FLAGS.DEFINE_list("optimizers", ["adamw", "sgd_sai", "lion"], "Optimizers, in turn.")
_FORMS = FLAGS.DEFINE_list("forms", list(FORMS), "Forms to run, see arms.py.")
_KEEP = FLAGS.DEFINE_path("keep", None, "Earlier record by the same code, whose other runs are kept.")
_LOW_RATE = FLAGS.DEFINE_float("low_rate", 3e-5, "Low peak rate, at which plain bfloat16 is expected to stall.")
_OUTPUT = FLAGS.DEFINE_path("output", None, "Directory of the report and the runs.", required=True)

_VOCABULARY = 1024  # maximum number of byte pairs
program_flags.check(lambda x: x > 0, "must be above 0", _LOW_RATE)
program_flags.check(lambda x: x % 2 == 0, "must be even", _WIDTH)
program_flags.check(lambda x: set(x) <= set(FORMS), f"must be some of {', '.join(FORMS)}", _FORMS)
program_flags.check_together(
    lambda x: x["keep"] or low_bit_arms.FLOAT32 in x["forms"],
    "--forms without float32 needs --keep, whose runs in float32 the others are compared with",
    FLAGS,
    _FORMS,
    _KEEP,
)
program_flags.check_each(lambda name: low_bit_arms.arms([name], 1.0, from_scratch=False), _OPTIMIZERS)


class Study:
    """A problem, and its task for each arm.

    Args:
        problem: problem to train on.
    """

    def __init__(self, problem: TextClassification | Pretraining):
        self.problem = problem
        self.from_scratch = isinstance(problem, Pretraining)

    def task(self, seed: int) -> training.Task:
        """The task of a seed; its initial parameters do not depend on the key of a run."""
        start = self.start(seed)
        return dataclasses.replace(self.problem.task(_BATCH_SIZE.value, seed), init=lambda _: start)

    @functools.lru_cache(maxsize=1)  # noqa: B019
    def start(self, seed: int) -> Any:
        """The initial parameters of all arms of a seed."""
        return jax.device_get(self.problem.task(_BATCH_SIZE.value, seed).init(jax.random.key(seed)))

    @functools.cache  # noqa: B019
    def maker(self, optimizer: str, form: str) -> Callable[[float], optax.GradientTransformation]:
        """Peak rate → optimizer in a form; one function for all rates, so that they share a compiled step."""
        steps, from_scratch = _STEPS.value, self.from_scratch
        return lambda rate: low_bit_arms.optimizer(optimizer, form, rate, steps, from_scratch=from_scratch)

    def arm(self, arm: low_bit_arms.Arm) -> compare.Arm:
        """The arm for ``run_matrix``."""
        form = FORMS[arm.form]
        plain = form.dtype == form.compute == jnp.float32
        return compare.Arm(
            f"{arm.optimizer}.{arm.form.replace(' ', '_')}",
            arm.learning_rate,
            self.maker(arm.optimizer, arm.form),
            adapt=None if plain else functools.partial(in_form, form),
            extra={"optimizer": arm.optimizer, "form": arm.form},
        )

    def measure(self, arm: compare.Arm, seed: int, result: training.Result) -> dict[str, float]:
        """The size of parameters and state, and the share of the parameter entries that moved."""
        dtype, params = FORMS[arm.extra["form"]].dtype, jax.tree.leaves(result.params)
        start = jax.tree.leaves(jax.tree.map(lambda p: np.asarray(p, dtype), self.start(seed)))
        moved = sum(int(np.sum(np.asarray(p) != s)) for p, s in zip(params, start, strict=True))
        size = optimiz.state_bytes(arm.optimizer(), result.params).total + sum(p.nbytes for p in params)
        count = sum(p.size for p in params)
        return {"bytes_per_parameter": size / count, "moved": moved / count}


def in_form(form: low_bit_arms.Form, task: training.Task) -> training.Task:
    """A task whose parameters and products have the dtypes of a form."""
    if form.compute != jnp.float32:
        return training.Precision(form.dtype, form.compute).task(task)
    return dataclasses.replace(
        task,
        init=lambda key: jax.tree.map(lambda p: jnp.asarray(p, form.dtype), task.init(key)),
        loss=_widened(task.loss),
        evaluate=lambda params: task.evaluate(_wide(params)),
    )


@functools.cache
def _widened(loss: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """The loss of parameters that are converted to float32; one function per loss, so that it compiles once."""
    return lambda params, batch, key: loss(_wide(params), batch, key)


def _wide(params: Any) -> Any:
    return jax.tree.map(lambda p: p.astype(jnp.float32), params)


def read_problem() -> tuple[TextClassification | Pretraining, str, int]:
    """The problem, the source of its data, and the number of held-out examples."""
    if _TASK.value != "file":
        _FILES.refuse_without("--task=file")
    if _TASK.value == "language":
        source = corpus.standard_library() if _DATA.value is None else corpus.read(_DATA.value)
        shares = {"train": 0.9, "validation": 0.1}
        parts = corpus.split(source, shares)
        corpus.summary(source, parts, shares).show()
        learned = tokenization.train(parts["train"].documents, tokenization.BPE, _VOCABULARY, "causal")
        vocabulary = tokenization.vocabulary(learned, "causal")
        size = Size(layers=2, hidden_size=_WIDTH.value, heads=2, length=_LENGTH.value, dropout=0.0)
        problem = Pretraining(parts, vocabulary, causal(vocabulary, size))
        return problem, source.source, min(len(problem.rows["validation"]), EVALUATION_ROWS)
    if _TASK.value == "topics":
        parts = docstrings.load_split()
    elif _DATA.value is None or _VALIDATION.value is None:
        raise ValueError("--task=file needs --data and --validation")
    else:
        train = _FILES.read(_DATA.value)
        parts = {"train": train, "validation": _FILES.read(_VALIDATION.value, train.label_names)}
    parts = {name: text.sample(parts[name], _ROWS.value) for name in ("train", "validation")}
    model = pretrained.find(_MODEL.value)
    problem = TextClassification(parts, model, length=_LENGTH.value, dropout=0.1, pooling="mean")
    problem.summary.show()
    return problem, parts["train"].source, len(parts["validation"].texts)


def earlier(path: Path, settings: Mapping[str, Any]) -> compare.Record:
    """The record of a study with these settings.

    Raises:
        ValueError: it has others.
    """
    record = compare.Record.read(path)
    if record.settings != settings:
        raise ValueError(f"--keep={path} has the settings {record.settings}, and this study {settings}")
    return record


def in_order(runs: list[compare.Run]) -> list[compare.Run]:
    """Runs by optimizer, rate, form and seed."""
    names = list(dict.fromkeys(_arm(run).optimizer for run in runs))
    forms = list(FORMS)

    def place(run: compare.Run) -> tuple[float, ...]:
        arm = _arm(run)
        return names.index(arm.optimizer), -arm.learning_rate, forms.index(arm.form), run.seed

    return sorted(runs, key=place)


def _arm(run: compare.Run) -> low_bit_arms.Arm:
    return low_bit_arms.Arm(run.extra["optimizer"], run.learning_rate, run.extra["form"])


def main() -> None:
    """Make the missing runs, then write the report."""
    output = Path(_OUTPUT.value)
    problem, source, examples = read_problem()
    study = Study(problem)
    settings = {f.name: f.value for f in (_TASK, _STEPS, _BATCH_SIZE, _LENGTH)}
    settings |= {"width": _WIDTH.value} if study.from_scratch else {"rows": _ROWS.value}
    settings |= {"data": source if _DATA.value is None else Path(_DATA.value).name}
    settings |= {"fingerprint": problem.fingerprint()}
    arms = low_bit_arms.arms(_OPTIMIZERS.value, _LOW_RATE.value, from_scratch=study.from_scratch)
    arms = [arm for arm in arms if arm.form in _FORMS.value]
    before = None if _KEEP.value is None else earlier(Path(_KEEP.value), settings)
    with training.claimed(output, settings, resume=True), terminal.matrix_bar() as progress:
        runs = compare.run_matrix(
            [study.arm(arm) for arm in arms],
            range(_SEEDS.value),
            study.task,
            training.Settings(steps=_STEPS.value),
            output / "runs",
            identity=settings,
            metric="loss",
            extra=study.measure,
            progress=progress,
        )
        runs = in_columns(runs, "loss")
        if before is not None:
            runs = in_order([run for run in before.runs if _arm(run) not in arms] + runs)
        record = compare.Record(
            title="Low-bit state and bfloat16 parameters compared with float32",
            command=command.typed("studies.low_bit.study") if before is None else before.command,
            task={},
            settings=settings,
            baselines={},
            test_examples=examples,
            runs=runs,
        )
        summary = pictures.write_study(report, record, output)
    terminal.show(summary)


if __name__ == "__main__":
    command.run(main, FLAGS)
