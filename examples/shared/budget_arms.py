"""The arms of a comparison on fine-tuning: optimizers at peak rates that decay to zero as a budget is spent."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import optax

from examples.shared import optimizers
from optimiz import compare, groups, schedules

WEIGHT_DECAY, WARMUP = 0.01, 0.1
HEAD_RATE, _MULTIPLES = 50.0, (1, 3)  # a grid goes on from there


def arms(
    names: Sequence[str],
    rates: Sequence[float] | None,
    choose: Callable[[str], optimizers.Choice],
    weight_decays: Sequence[float] | None = None,
    warmups: Sequence[float] | None = None,
    multipliers: Callable[[Any], Any] | None = None,
) -> list[compare.Arm]:
    """Every optimizer at every rate, or once if a line search finds the rate; and at every value of other axes.

    Args:
        names: names of the optimizers.
        rates: peak rates; None for each optimizer's default and three times it.
        choose: name → optimizer, with its default rate.
        weight_decays: decoupled weight decays; None for WEIGHT_DECAY, which is then no axis of the grid.
        warmups: shares of the budget over which a rate rises from 0; likewise for WARMUP. A line search, which
            finds its rate, has none.
        multipliers: multipliers of the rate, by parameter; None for those of a new head on an encoder.

    Raises:
        ValueError: there is no such optimizer, or no rate is given and the optimizer has no default.
    """
    found = []
    for name in names:
        choice = choose(name)
        if choice.searches:
            grid = [None]
        elif rates is None:
            own = choice.peak(None, "--learning_rates")
            grid = [float(f"{own * multiple:.3g}") for multiple in _MULTIPLES]
        else:
            grid = rates
        make = functools.partial(
            _make, choice, multipliers=multipliers
        )  # one for all rates, which then share a compiled step
        axes = {"weight_decay": weight_decays, "warmup": None if choice.searches else warmups}
        given = {axis: values for axis, values in axes.items() if values is not None}
        points = [dict(zip(given, values, strict=True)) for values in itertools.product(*given.values())]
        found += [compare.Arm(choice.name, rate, make, axes=point) for point in points for rate in grid]
    return found


def head_alone(arm: compare.Arm, classes: int) -> compare.Arm:
    """An arm that trains only the new head, and leaves the encoder as it is.

    Args:
        arm: one of `arms`.
        classes: number of classes of the logits.
    """
    make = functools.partial(_make, optimizers.choose(arm.name, classes=classes), encoder=0.0)
    return dataclasses.replace(arm, make=make)


def _make(
    choice: optimizers.Choice,
    rate: jax.typing.ArrayLike | None = None,
    *,
    encoder: float = 1.0,
    multipliers: Callable[[Any], Any] | None = None,
    weight_decay: float = WEIGHT_DECAY,
    warmup: float = WARMUP,
) -> optax.GradientTransformation:
    shape = schedules.linear(1.0) if rate is None else schedules.warm_up(schedules.linear(rate), warmup)
    multipliers = optimizers.head_multipliers(HEAD_RATE, encoder) if multipliers is None else multipliers
    schedule = schedules.over_budget(shape)
    return choice.make(schedule, weight_decay, groups.no_decay(), multipliers)
