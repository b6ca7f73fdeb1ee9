"""The noise of the gradient at a moment of a run, measured between its steps and not charged to its budget."""

import functools
import logging
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from optimiz import diagnostics, training
from optimiz.training.task import batch_size, losses_and_state, mean_loss, untrained_arguments

TAILS_FROM = 50
"""The number of batches from which the tails of the noise are measured too."""

_ENTRIES = 1000  # of the gradient

_log = logging.getLogger(__name__)


def noise_row(
    task: training.Task, params: Any, model_state: Any, frozen: Any, *, batches: int, step: int
) -> dict[str, Any]:
    """A row of a run's history with the noise of its gradient, as ``diagnostics.health`` reads it.

    Args:
        task: task of the run.
        params: parameters at that moment.
        model_state: model state; None for a task without one.
        frozen: frozen arrays; None for a task without them.
        batches: number of batches to measure on, ≥ 2: the first ones of the task. From ``TAILS_FROM`` of them
            on, the row has the tails of the noise too, see ``diagnostics.gradient_tails``.
        step: index of the step before or after which it is measured.
    """
    drawn = [dict(task.batches(i)) for i in range(batches)]
    stacked = jax.tree.map(lambda *parts: np.stack(parts), *drawn)
    size, entries = batch_size(drawn[0]), _ENTRIES if batches >= TAILS_FROM else 0
    measured = _measure(task.loss, size, entries)(params, stacked, model_state, frozen)
    found = {
        "trace": float(jnp.sum(measured.trace)),
        "squared_norm": float(jnp.sum(measured.squared_norm)),
        "batch_size": size,
        "batches": batches,
    }
    return {"step": step, "noise": found | _tails(measured.entries)}


def _tails(entries: Any) -> dict[str, Any]:
    """The tails, if there are entries that differ from batch to batch."""
    if entries is None:
        return {}
    try:
        return {"tails": diagnostics.gradient_tails(np.asarray(entries))._asdict()}
    except ValueError as error:  # one of them is not finite, or none differ
        _log.warning("no tails of the gradient: %s", error)
        return {}


# As in training.step: the seeds share it, and it keeps alive the data that the loss refers to.
@functools.lru_cache(maxsize=1)
def _measure(loss: Any, size: int, entries: int) -> Callable[..., diagnostics.GradientNoise]:
    @jax.jit
    def measured(params: Any, batches: Any, model_state: Any, frozen: Any) -> diagnostics.GradientNoise:
        def mean(params: Any, batch: Any) -> jax.Array:
            returned = loss(params, batch, None, **untrained_arguments(model_state, frozen))
            return mean_loss(losses_and_state(returned, model_state)[0], batch)

        return diagnostics.gradient_noise(mean, params, batches, batch_size=size, entries=entries)

    return measured
