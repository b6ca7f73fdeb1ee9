"""The arms of the study on a language model: optimizers on schedules that decay fully, at their peak rates."""

import dataclasses
import functools
from collections.abc import Callable

import optax

import optimiz
from optimiz import compare, groups, methods, schedules

WEIGHT_DECAY, WARMUP, CLIP = 0.1, 0.1, 1.0
GRIDS = {
    "adamw": (1e-3, 3.16e-3, 1e-2),
    "lion": (3.16e-4, 1e-3, 3.16e-3),
    "adam_mini": (1e-3, 3.16e-3, 1e-2),
    "sgd_sai": (3.16e-3, 1e-2, 3.16e-2),
    "sqrt_size_sgd": (3.16e-3, 1e-2, 3.16e-2),
    "schedule_free_adamw": (1e-3, 3.16e-3, 1e-2),
    "prodigy": (0.316, 1.0, 3.16),
    "muon": (1e-3, 3.16e-3, 1e-2),
    "normuon": (1e-3, 3.16e-3, 1e-2),
    "soap_one_sided": (1e-3, 3.16e-3, 1e-2),
    "soap": (1e-3, 3.16e-3, 1e-2),
}
"""Peak rates with which a grid begins, in half decades; of Prodigy, factors of the rate that it estimates."""


# Optimizers with settings that are not their defaults. One-sided, SOAP rotates the sides that have the width of
# the model; else both sides of all matrices but embeddings, as in the paper, where vocabularies are too large.
_OF = {"soap_one_sided": ("soap", {"max_precond_dim": 512}), "soap": ("soap", {"max_precond_dim": 2048})}


def arm(name: str, rate: float, steps: int, budget: str) -> compare.Arm:
    """An optimizer at a peak rate, for a run of a number of updates.

    Args:
        name: one of ``GRIDS``.
        rate: the peak rate.
        steps: number of updates.
        budget: what the number makes equal: ``"steps"`` or ``"time"``.
    """
    return compare.Arm(name, rate, _maker(name, steps), extra={"budget": budget})


@functools.cache
def _maker(name: str, steps: int) -> Callable[[float], optax.GradientTransformation]:
    """Peak rate → optimizer; one function for all rates, so that they share a compiled step."""
    known, settings = _OF.get(name, (name, {}))
    method = methods.find(known)
    method = dataclasses.replace(method, settings={**method.settings, **settings})

    def make(rate: float) -> optax.GradientTransformation:
        after = schedules.constant if method.constant_rate else schedules.cosine
        schedule = schedules.over_steps(schedules.warm_up(after(rate), WARMUP), steps)
        tx = method.build(schedule, weight_decay=WEIGHT_DECAY, mask=groups.no_decay())
        return optax.chain(optimiz.clip_by_global_norm(CLIP), tx)

    return make
