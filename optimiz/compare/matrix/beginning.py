"""How a run begins: a fingerprint of it, and the heterogeneity of its first gradient."""

import functools
import hashlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from optimiz import diagnostics, training
from optimiz.training.task import losses_and_state, mean_loss, untrained_arguments
from optimiz.training.train_state import keys

_FINGERPRINTED = 3  # batches, enough to tell two orders of the data apart


def untrained(task: training.Task, seed: int) -> tuple[Any, Any, Any]:
    """The initial parameters, model state and frozen arrays; None for what the task does not have."""
    key = keys(seed)[0]
    model_state, frozen = (None if make is None else make(key) for make in (task.model_state, task.frozen))
    return task.init(key), model_state, frozen


def beginning(task: training.Task, seed: int) -> tuple[str, dict[str, float]]:
    """A fingerprint of the start of a run, and the heterogeneity of its first gradient.

    The fingerprint is the SHA-256 of the initial parameters, the dropout key, the first batches, and the model
    state and the frozen arrays, if there are any; heterogeneity is measured without dropout.
    """
    params, model_state, frozen = untrained(task, seed)
    run_key = keys(seed)[1]
    batches = [dict(task.batches(step)) for step in range(_FINGERPRINTED)]
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves((params, jax.random.key_data(run_key), batches, model_state, frozen)):
        digest.update(np.asarray(leaf).tobytes())
    first = jax.device_put(batches[0])
    measured = _first_heterogeneity(task.loss)(params, first, model_state, frozen)._asdict()
    statistics = {name: float(x) for name, x in measured.items() if name not in ("norm", "rms")}
    return digest.hexdigest(), statistics


# As in training.step: the seeds share it, and it keeps alive the data that the loss refers to.
@functools.lru_cache(maxsize=1)
def _first_heterogeneity(loss: Any) -> Callable[..., diagnostics.Heterogeneity]:
    def measured(params: Any, batch: Any, model_state: Any, frozen: Any) -> diagnostics.Heterogeneity:
        def mean(params: Any) -> jax.Array:
            returned = loss(params, batch, None, **untrained_arguments(model_state, frozen))
            return mean_loss(losses_and_state(returned, model_state)[0], batch)

        return diagnostics.heterogeneity(jax.grad(mean)(params))

    return jax.jit(measured)
