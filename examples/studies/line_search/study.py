"""Does a line search free fine-tuning from its learning rate? Adam on a grid of rates, and line searches.

    python -m examples.studies.line_search.study --output=runs/line_search
    python -m examples.studies.line_search.study --data=train.tsv --validation=dev.tsv --output=runs/mine

A pretrained encoder learns from few examples for a few epochs. Adam warms up over a tenth of the updates and
decays to zero along a cosine, once for each rate of the grid. The searches are given no rate. As ``adam_head``
and ``salsa_head`` two of them learn once more with a larger rate for the new head, which is one more number to
tune. For each seed all of them begin with the same parameters and see the same batches under the same dropout.
What has been computed is kept in ``rows.jsonl``: the same command goes on where it was stopped.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optimiz
from examples.data import docstrings, text
from examples.models import pretrained
from examples.shared import command, data_flags, optimizers, program_flags, terminal
from examples.shared.rows import Rows
from examples.studies.line_search import report
from examples.tasks.text_classification import TextClassification
from optimiz import groups, primitives, schedules, training

FLAGS = program_flags.Flags()
_MODEL = FLAGS.DEFINE_path("model", None, "Directory or Hub id of a BERT, MiniLM or RoBERTa encoder.")
_DATA = FLAGS.DEFINE_path("data", None, "Training examples: .tsv, .csv or .jsonl; default: Python's own.")
_VALIDATION = FLAGS.DEFINE_path("validation", None, "Validation examples, needed with --data.")
_FILES = data_flags.DataFlags(FLAGS)
_FIGURE = FLAGS.DEFINE_enum("figure", "accuracy", ["accuracy", "macro_f1", "mcc"], "What ranks the methods.")
_ROWS = FLAGS.DEFINE_integer("rows", 500, "Training examples, drawn at random.", lower_bound=1)
_EPOCHS = FLAGS.DEFINE_integer("epochs", 5, "Times that each example is seen.", lower_bound=1)
_BATCH_SIZE = FLAGS.DEFINE_integer("batch_size", 32, "Examples per update.", lower_bound=1)
_LENGTH = FLAGS.DEFINE_integer("length", 24, "Tokens per example; longer ones are cut.", lower_bound=1)
_SEEDS = FLAGS.DEFINE_integer("seeds", 5, "Runs of each method.", lower_bound=2)
_METHODS = FLAGS.DEFINE_list("adam", ["adam", "adam_head"], "Which of the two to run on the grid.")
_RATES = FLAGS.DEFINE_list("learning_rates", ["2e-5", "5e-5", "1e-4", "2e-4", "5e-4"], "Adam's peak rates.")
_HEAD_RATE = FLAGS.DEFINE_float("head_rate", 50.0, "Rate of the head in *_head, in multiples of the encoder's.")
_OUTPUT = FLAGS.DEFINE_path("output", None, "Directory of the rows and the report.", required=True)
program_flags.check_rates(_RATES)
program_flags.check_among(("adam", "adam_head"), _METHODS)

SEARCHES: dict[str, Callable[[int], optax.GradientTransformation]] = {
    "salsa": lambda steps: salsa(steps),
    "salsa_head": lambda steps: salsa(steps, multipliers=head_multipliers()),
    "adam_sls": lambda steps: optimiz.adam_sls(),
    "pla_sls": lambda steps: optimiz.pla_sls(groups.search_units()),
}
GRIDS: dict[str, Callable[[int], optax.GradientTransformation]] = {
    "adam": lambda steps: adam(steps),
    "adam_head": lambda steps: optax.chain(adam(steps), optimiz.scale_by_groups(head_multipliers())),
}


def salsa(steps: int, **options: Any) -> optax.GradientTransformation:
    """SaLSa, whose step decays to zero."""
    return optimiz.salsa(schedules.over_steps(schedules.linear(1.0), steps), **options)


def adam(steps: int) -> optax.GradientTransformation:
    """Adam at the peak rate 1; a run multiplies its updates by the rate that it is given."""
    return optimiz.adam(schedules.over_steps(schedules.warm_up(schedules.cosine(1.0), 0.1), steps))


def head_multipliers() -> Callable[[Any], Any]:
    """As the flag says."""
    return optimizers.head_multipliers(_HEAD_RATE.value)


class Study:
    """A task, and the compiled step of each method, which all of its rates and seeds share."""

    def __init__(self, parts: dict[str, text.TextExamples], model: Path):
        self.problem = TextClassification(parts, model, length=_LENGTH.value, dropout=0.1, pooling="mean")
        self.problem.summary.show()
        self.steps = -(-_EPOCHS.value * len(parts["train"].texts) // _BATCH_SIZE.value)
        self.evaluate = self.problem.evaluation("validation")

    @functools.cache  # noqa: B019
    def step(self, method: str) -> tuple[optax.GradientTransformation, Callable[..., Any]]:
        """The optimizer of that name, and a step of it: parameters, state, batch, key, rate → the next."""
        tx = optax.with_extra_args_support((SEARCHES | GRIDS)[method](self.steps))
        loss = self.problem.task(_BATCH_SIZE.value, 0).loss

        @functools.partial(jax.jit, donate_argnums=(0, 1))
        def step(params, state, batch, key, rate):
            value_fn = lambda params: training.mean_loss(loss(params, batch, key), batch)  # noqa: E731
            value, grad = jax.value_and_grad(value_fn)(params)
            updates, state = tx.update(grad, state, params, value=value, grad=grad, value_fn=value_fn)
            updates = jax.tree.map(lambda u: rate * u, updates)
            readings = {"loss": value, "evaluations": jnp.int32(0), "step_size": rate[None]}
            search = [s for s in state if isinstance(s, primitives.ScaleByArmijoState)]
            if search:
                readings |= {"evaluations": search[0].evaluations, "step_size": search[0].step_size}
            return optax.apply_updates(params, updates), state, readings

        return tx, step

    def run(self, method: str, rate: float | None, seed: int) -> dict[str, Any]:
        """One run: figures of the trained model, and what happened at each update."""
        tx, step = self.step(method)
        task, key = self.problem.task(_BATCH_SIZE.value, seed), jax.random.key(seed)
        params = jax.tree.map(jnp.array, task.init(key))
        state, readings = jax.jit(tx.init)(params), []
        for i in range(self.steps):
            scale = jnp.float32(1.0 if rate is None else rate)
            batch, step_key = jax.device_put(task.batches(i)), jax.random.fold_in(key, i)
            params, state, reading = step(params, state, batch, step_key, scale)
            readings.append(reading)
        columns = jax.tree.map(lambda *x: np.stack(x).tolist(), *jax.device_get(readings))
        columns["validation"] = self.evaluate(params)
        return {"method": method, "learning_rate": rate, "seed": seed} | columns


def read_data() -> dict[str, text.TextExamples]:
    """The parts "train", cut to a random sample, and "validation"."""
    if _DATA.value is None:
        _FILES.refuse_without("--data")
        parts = docstrings.load_split()
    elif _VALIDATION.value is None:
        raise ValueError("--data needs --validation")
    else:
        train = _FILES.read(_DATA.value)
        validation = _FILES.read(_VALIDATION.value, train.label_names)
        parts = {"train": train, "validation": validation}
    return {"train": text.sample(parts["train"], _ROWS.value), "validation": parts["validation"]}


def main() -> None:
    """Run what is missing, then write the report."""
    output = Path(_OUTPUT.value)
    output.mkdir(parents=True, exist_ok=True)
    parts = read_data()
    study = Study(parts, pretrained.find(_MODEL.value))
    settings = {f.name: f.value for f in (_FIGURE, _ROWS, _EPOCHS, _BATCH_SIZE, _LENGTH)}
    settings |= {"data": parts["train"].source, "validation_examples": len(parts["validation"].texts)}
    settings |= {"updates": study.steps, "fingerprint": study.problem.fingerprint()}
    with Rows(output / "rows.jsonl", settings, lambda row: report.FIELDS) as rows:
        arms = [(name, None) for name in SEARCHES]
        arms += [(name, float(rate)) for name in _METHODS.value for rate in _RATES.value]
        for seed in range(_SEEDS.value):
            for method, rate in arms:
                if not rows.has(method=method, learning_rate=rate, seed=seed):
                    rows.add(study.run(method, rate, seed))
                    score = rows.rows[-1]["validation"][_FIGURE.value]
                    print(f"seed {seed}  {method} {rate or ''}  {score:.3f}", flush=True)
        asked = command.typed("studies.line_search.study")
        terminal.show(rows.reported(lambda rows: report.write(rows, output, asked)))


if __name__ == "__main__":
    command.run(main, FLAGS)
