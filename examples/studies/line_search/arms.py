"""The arms of the study on line searches: Adam at a peak rate, and searches that take none."""

import functools
from collections.abc import Callable

import optax

import optimiz
from examples.shared import optimizers
from examples.studies.tuned import HEAD_RATE
from optimiz import compare, groups, schedules

_WARMUP = 0.1
GRIDS = dict.fromkeys(("adam", "adam_head"), (0.0001, 0.000316, 0.001))
"""Peak rates with which a grid begins, in half decades."""


def _adam(steps: int) -> Callable[[float], optax.GradientTransformation]:
    shape = lambda rate: schedules.warm_up(schedules.cosine(rate), _WARMUP)  # noqa: E731
    return lambda rate: optimiz.adam(schedules.over_steps(shape(rate), steps))


def _adam_head(steps: int) -> Callable[[float], optax.GradientTransformation]:
    adam, faster = _adam(steps), optimiz.scale_by_groups(optimizers.head_multipliers(HEAD_RATE))
    return lambda rate: optax.chain(adam(rate), faster)


def _decay(steps: int) -> optax.Schedule:
    return schedules.over_steps(schedules.linear(1.0), steps)


_MAKERS: dict[str, Callable[[int], Callable[..., optax.GradientTransformation]]] = {
    "adam": _adam,
    "adam_head": _adam_head,
    "salsa": lambda steps: lambda: optimiz.salsa(_decay(steps)),
    "salsa_head": lambda steps: (
        lambda: optimiz.salsa(_decay(steps), multipliers=optimizers.head_multipliers(HEAD_RATE))
    ),
    "adam_sls": lambda steps: optimiz.adam_sls,
    "pla_sls": lambda steps: lambda: optimiz.pla_sls(groups.search_units()),
}
METHODS = tuple(_MAKERS)


def arm(rows: int, name: str, rate: float | None, steps: int) -> compare.Arm:
    """A method, at a peak rate if it takes one, for a run of a number of updates on a number of rows."""
    return compare.Arm(name, rate, _maker(name, steps), extra={"rows": rows})


@functools.cache
def _maker(name: str, steps: int) -> Callable[..., optax.GradientTransformation]:
    """The function that builds a method; one for all rates, so that they share a compiled step."""
    return _MAKERS[name](steps)
