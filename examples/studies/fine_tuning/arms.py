"""The arms of the study on fine-tuning: optimizers with one learning rate, and with a faster head."""

import functools
from collections.abc import Callable

import optax

import optimiz
from examples.shared import optimizers
from examples.studies.tuned import HEAD_RATE
from optimiz import compare, schedules

STARTS = ("pretrained", "post_ln", "pre_ln")
"""Where training begins, as ``TextClassification`` takes it."""

_CLIP, _WARMUP = 1.0, 0.1
_OPTIMIZERS: dict[str, Callable[[optax.Schedule], optax.GradientTransformation]] = {
    "adam": optimiz.adam,
    "sgd": optimiz.sgd,
    "sgd_unclipped": optimiz.sgd,
    "momentum": lambda schedule: optimiz.sgd(schedule, 0.9),
    "sgd_sai": optimiz.sgd_sai,
    "sign_sgd": optimiz.sign_sgd,
    "signum": optimiz.signum,
}
HEAD = "_head"
"""How the name of an optimizer ends whose new head is ``HEAD_RATE`` times as fast."""

GRIDS = {
    "adam": (1e-4, 3.16e-4, 1e-3),
    "sgd": (0.316, 1.0, 3.16),
    "sgd_unclipped": (0.316, 1.0, 3.16),
    "momentum": (0.0316, 0.1, 0.316),
    "sgd_sai": (1e-3, 3.16e-3, 1e-2),
    "sign_sgd": (3.16e-5, 1e-4, 3.16e-4),
    "signum": (3.16e-5, 1e-4, 3.16e-4),
    "adam_head": (3.16e-5, 1e-4, 3.16e-4),
    "momentum_head": (3.16e-3, 1e-2, 3.16e-2),
}
"""Peak rates with which a grid begins, in half decades; of the encoder, where the head is faster."""


def arm(start: str, name: str, rate: float, steps: int) -> compare.Arm:
    """An optimizer at a peak rate, for a run of a number of updates from a start."""
    return compare.Arm(name, rate, _maker(name, steps), extra={"start": start})


@functools.cache
def _maker(name: str, steps: int) -> Callable[[float], optax.GradientTransformation]:
    """Peak rate → optimizer; one function for all rates, so that they share a compiled step."""

    def make(rate: float) -> optax.GradientTransformation:
        schedule = schedules.over_steps(schedules.warm_up(schedules.linear(rate), _WARMUP), steps)
        tx = _OPTIMIZERS[name.removesuffix(HEAD)](schedule)
        if name.endswith(HEAD):
            tx = optax.chain(tx, optimiz.scale_by_groups(optimizers.head_multipliers(HEAD_RATE)))
        return tx if name == "sgd_unclipped" else optax.chain(optax.clip_by_global_norm(_CLIP), tx)

    return make
