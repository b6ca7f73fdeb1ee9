"""Tasks of a user's own, for test_compare_optimizers.py."""

import jax.numpy as jnp
import numpy as np

from optimiz import training

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 3)).astype(np.float32)
Y = X @ np.float32([1, -2, 3])


def _loss(params, batch, key):
    return jnp.square(batch["x"] @ params["w"] - batch["y"])


def _errors(part):
    def metrics(params):
        found = jnp.abs(X[part] @ params["w"] - Y[part])
        return {"mae": float(found.mean()), "worst": float(found.max())}

    return metrics


def alone(seed):
    """A task without its test."""
    batches = training.shuffled({"x": X[:40], "y": Y[:40]}, 8, seed)
    return training.Task(lambda key: {"w": jnp.zeros(3)}, _loss, batches, _errors(slice(40, 50)))


def line(seed):
    """A line through points."""
    return alone(seed), _errors(slice(50, 60)), 10


def untested(seed):
    """A task with a test of no examples."""
    return *line(seed)[:2], 0
