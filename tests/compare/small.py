"""A classification that takes milliseconds, and a matrix on it; as a program, one that dies in its second run.

python -m tests.compare.small DIRECTORY
"""

import os
import signal
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optimiz
from optimiz import compare, schedules, training
from tests.training.counting import counting

SEEDS = (0, 1)
_X = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
ARRAYS = {"x": _X, "label": np.argmax(_X[:, :3] + 0.5 * _X[:, 1:], axis=1)}


def logits(params, batch, key):
    x = batch["x"]
    if key is not None:  # dropout
        x = jnp.where(jax.random.bernoulli(key, 0.9, x.shape), x / 0.9, 0)
    return x @ params["w"] + params["b"]


def loss(params, batch, key):
    return optax.softmax_cross_entropy_with_integer_labels(logits(params, batch, key), batch["label"])


def evaluate(params):
    scores = logits(params, ARRAYS, None)
    accuracy = jnp.mean(jnp.argmax(scores, axis=1) == ARRAYS["label"])
    return {"loss": jnp.mean(loss(params, ARRAYS, None)), "accuracy": accuracy}


def task_of(seed):
    return training.Task(
        init=lambda key: {"w": jax.random.normal(key, (4, 3)), "b": jnp.zeros(3)},
        loss=loss,
        batches=training.shuffled(ARRAYS, 8, seed),
        evaluate=evaluate,
    )


def prices(**seconds):
    times = {training.Work(name, batch=8): training.Timing(price, 0.0, 1) for name, price in seconds.items()}
    return training.Reference(times=times, about={}, date="2026-01-01T00:00:00+00:00", environment={})


PRICES = prices(step=0.1, forward=0.1, hessian=0.1)  # one object, so that runs share a compiled step


def grid(name, rates, make):
    """An optimizer at some rates, or at none."""
    on_schedule = lambda rate=1.0: make(schedules.over_budget(schedules.linear(rate)))  # noqa: E731
    return [compare.Arm(name, rate, on_schedule) for rate in rates]


def arms():
    """Two rates of one optimizer, the higher of which diverges, and one that pays for evaluations."""
    search = grid("search", [None], lambda rate: counting(rate, evaluations=lambda count: 3))
    return [*grid("sgd", (0.5, 1e38), optimiz.sgd), *search]


def run(directory, chosen=None, **changes):
    arguments = {
        "seeds": SEEDS,
        "task_of": task_of,
        "settings": training.Settings(budget=1.0, log_every=3, evaluate_at=(0.5,), save_every=4),
        "identity": {"data": "small"},
        "metric": "accuracy",
        "reference": PRICES,
    }
    chosen = arms() if chosen is None else chosen
    return compare.run_matrix(chosen, directory=directory, **arguments | changes)


SEARCH = counting(schedules.over_budget(schedules.linear(0.3)), evaluations=lambda count: 3)
ONE = [compare.Arm("search", None, lambda: SEARCH)]
"""One arm, whose runs share a compiled step wherever they are."""


def record(runs):
    return compare.Record(
        title="A small comparison",
        command="python -m tests.compare.small",
        task={"data": "small"},
        settings={"budget": 1.0},
        baselines={},
        test_examples=64,
        runs=runs,
        date="2026-01-01T00:00:00+00:00",
    )


if __name__ == "__main__":

    def die(progress):
        if progress.run == 2 and progress.within.steps == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    run(sys.argv[1], ONE, progress=die)
