"""What do eight-bit state and bfloat16 parameters cost? Each optimizer with both, beside itself in float32.

    python -m examples.studies.low_bit.study --output=runs/topics
    python -m examples.studies.low_bit.study --task=file --data=train.tsv --validation=dev.tsv --output=runs/x
    python -m examples.studies.low_bit.study --task=language --steps=2000 --length=64 --output=runs/y

A pretrained encoder is fine-tuned to classify Python's own sentences or examples from a file; or a small GPT-2
learns a text from nothing, by default the sources of Python's library. For each seed all arms begin with the
same parameters and see the same batches under the same dropout. The model computes in float32; gradients come
in the dtype of the parameters, as they do to whoever trains so. At the low rate AdamW's steps are about 2⁻¹⁵,
half the distance of neighbours in bfloat16 from 2⁻⁷ up to 2⁻⁶: rounded to the nearest, what is larger than a
hundredth stands still. What has been computed is kept in ``rows.jsonl``: the same command goes on where it was
stopped.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from examples.data import corpus, docstrings, text, tokenization
from examples.models import pretrained
from examples.shared import command, data_flags, program_flags, terminal
from examples.shared.rows import Rows
from examples.studies.low_bit import arms as low_bit_arms
from examples.studies.low_bit import report
from examples.tasks.objectives import Size, causal
from examples.tasks.pretraining import Pretraining
from examples.tasks.text_classification import TextClassification
from optimiz import training

FLAGS = program_flags.Flags()
_TASK = FLAGS.DEFINE_enum("task", "topics", ["topics", "file", "language"], "What is learned.")
_MODEL = FLAGS.DEFINE_path("model", None, "Directory or Hub id of a BERT, MiniLM or RoBERTa encoder.")
_DATA = FLAGS.DEFINE_path("data", None, "For file, training examples; for language, a text or folder.")
_VALIDATION = FLAGS.DEFINE_path("validation", None, "Validation examples for file.")
_FILES = data_flags.DataFlags(FLAGS)
_ROWS = FLAGS.DEFINE_integer("rows", 2000, "Examples of a part, at the most.", lower_bound=1)
_STEPS = FLAGS.DEFINE_integer("steps", 150, "Updates.", lower_bound=10)
_BATCH_SIZE = FLAGS.DEFINE_integer("batch_size", 32, "Examples per update.", lower_bound=1)
_LENGTH = FLAGS.DEFINE_integer("length", 24, "Tokens per example.", lower_bound=8)
_WIDTH = FLAGS.DEFINE_integer(
    "width", 64, "Hidden size of the GPT-2, which has two layers of two heads.", lower_bound=2
)
_SEEDS = FLAGS.DEFINE_integer("seeds", 3, "Runs of each arm.", lower_bound=2)
_OPTIMIZERS = FLAGS.DEFINE_list("optimizers", ["adamw", "sgd_sai", "lion"], "Optimizers, in turn.")
_LOW_RATE = FLAGS.DEFINE_float("low_rate", 3e-5, "Peak rate at which plain bfloat16 is to stall.")
_OUTPUT = FLAGS.DEFINE_path("output", None, "Directory of the rows and the report.", required=True)

_VOCABULARY = 1024  # at the most, of byte pairs
program_flags.check(lambda x: x > 0, "must be above 0", _LOW_RATE)
program_flags.check(lambda x: x % 2 == 0, "must be even", _WIDTH)
program_flags.check_each(lambda name: low_bit_arms.arms([name], 1.0, from_nothing=False), _OPTIMIZERS)


class Study:
    """A problem, and the compiled step of each optimizer and form, which all rates and seeds share."""

    def __init__(self, problem: TextClassification | Pretraining):
        self.problem = problem
        self.from_nothing = isinstance(problem, Pretraining)

    @functools.cache  # noqa: B019
    def compiled(self, optimizer: str, form: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """The optimizer's start; and its step: parameters, state, batch, key, rate → the next, and the loss."""
        loss = self.problem.task(_BATCH_SIZE.value, 0).loss
        make = functools.partial(
            low_bit_arms.optimizer, optimizer, form, steps=_STEPS.value, from_nothing=self.from_nothing
        )

        @functools.partial(jax.jit, donate_argnums=(0, 1))
        def step(params, state, batch, key, rate):
            value_fn = lambda params: training.mean_loss(loss(_wide(params), batch, key), batch)  # noqa: E731
            value, grad = jax.value_and_grad(value_fn)(params)
            updates, state = make(rate=rate).update(grad, state, params)
            return optax.apply_updates(params, updates), state, value

        return jax.jit(make(rate=1.0).init), step

    @functools.lru_cache(maxsize=1)  # noqa: B019
    def start(self, seed: int) -> tuple[training.Task, Any]:
        """The task, and the parameters with which all arms of a seed begin."""
        task = self.problem.task(_BATCH_SIZE.value, seed)
        return task, jax.device_get(task.init(jax.random.key(seed)))

    def run(self, arm: low_bit_arms.Arm, seed: int) -> dict[str, Any]:
        """One run: its losses, the figures of the trained model, the size of what it kept, and what moved."""
        init, step = self.compiled(arm.optimizer, arm.form)
        task, start = self.start(seed)
        params = jax.tree.map(lambda p: jnp.array(p, low_bit_arms.FORMS[arm.form].dtype), start)
        start, state, losses = jax.device_get(params), init(params), []
        for i in range(_STEPS.value):
            batch, key = jax.device_put(task.batches(i)), jax.random.fold_in(jax.random.key(seed), i)
            params, state, loss = step(params, state, batch, key, jnp.float32(arm.learning_rate))
            losses.append(loss)
        sizes = [leaf.nbytes for leaf in jax.tree.leaves((params, state))]
        moved = [np.sum(p != s) for p, s in zip(*map(jax.tree.leaves, (params, start)), strict=True)]
        count = sum(p.size for p in jax.tree.leaves(params))
        return {
            "loss": np.stack(jax.device_get(losses)).astype(float).round(6).tolist(),
            "held_out": task.evaluate(_wide(params)),
            "bytes_per_parameter": sum(sizes) / count,
            "moved": int(sum(moved)) / count,
        }


def _wide(params: Any) -> Any:
    return jax.tree.map(lambda p: p.astype(jnp.float32), params)


def read_problem() -> tuple[TextClassification | Pretraining, str]:
    """The problem of the flags, and where its data come from."""
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
        return Pretraining(parts, vocabulary, causal(vocabulary, size)), source.source
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
    return problem, parts["train"].source


def main() -> None:
    """Run what is missing, then write the report."""
    output = Path(_OUTPUT.value)
    problem, source = read_problem()
    study = Study(problem)
    arms = low_bit_arms.arms(_OPTIMIZERS.value, _LOW_RATE.value, from_nothing=study.from_nothing)
    settings = {f.name: f.value for f in (_TASK, _STEPS, _BATCH_SIZE, _LENGTH)}
    settings |= {"width": _WIDTH.value} if study.from_nothing else {"rows": _ROWS.value}
    settings |= {"data": source if _DATA.value is None else Path(_DATA.value).name}
    settings |= {"fingerprint": problem.fingerprint()}
    output.mkdir(parents=True, exist_ok=True)
    with Rows(output / "rows.jsonl", settings, lambda row: report.FIELDS) as rows:
        for seed in range(_SEEDS.value):
            for arm in arms:
                if not rows.has(**arm._asdict(), seed=seed):
                    rows.add(arm._asdict() | {"seed": seed} | study.run(arm, seed))
                    print(f"seed {seed}", *arm, f"{rows.rows[-1]['held_out']['loss']:.4f}", flush=True)
        asked = command.typed("studies.low_bit.study")
        terminal.show(rows.reported(lambda rows: report.write(rows, output, asked)))


if __name__ == "__main__":
    command.run(main, FLAGS)
