"""The arms of a comparison on fine-tuning: optimizers at peak rates that decay to zero as a budget is spent."""

import functools
from collections.abc import Sequence

import optax

from examples.shared import optimizers
from optimiz import compare, groups, schedules

WEIGHT_DECAY, WARMUP = 0.01, 0.1
_HEAD_RATE, _MULTIPLES = 50.0, (1 / 3, 1, 3)


def arms(names: Sequence[str], rates: Sequence[float] | None) -> list[compare.Arm]:
    """Every optimizer at every rate; once, where a line search finds the rate.

    Args:
        names: of the optimizers.
        rates: peaks; None for each optimizer's own, a third of it and three times it.

    Raises:
        ValueError: there is no such optimizer.
    """
    found = []
    for name in names:
        own = optimizers.choose(name).learning_rate
        if own is None:
            grid = [None]
        elif rates is None:
            grid = [float(f"{own * multiple:.3g}") for multiple in _MULTIPLES]
        else:
            grid = rates
        found += [compare.Arm(name, rate, functools.partial(_make, name, rate)) for rate in grid]
    return found


def _make(name: str, rate: float | None) -> optax.GradientTransformation:
    shape = schedules.linear(1.0) if rate is None else schedules.warm_up(schedules.linear(rate), WARMUP)
    multipliers = optimizers.head_multipliers(_HEAD_RATE)
    schedule = schedules.over_budget(shape)
    return optimizers.choose(name).make(schedule, WEIGHT_DECAY, groups.no_decay(), multipliers)
