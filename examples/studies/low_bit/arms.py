"""The arms of the low-bit study: an optimizer, its rate, and the form of its state and of the parameters."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import optimiz
from examples.shared import optimizers
from optimiz import groups, schedules

FLOAT32 = "float32"
_HEAD_RATE, _WEIGHT_DECAY, _WARMUP = 50.0, 0.01, 0.1


@dataclasses.dataclass(frozen=True)
class Form:
    """How state and parameters are kept.

    Attributes:
        wrap: optimizer → one that keeps its state so, and rounds the parameters so.
        dtype: of the parameters between two updates.
        target: percent that the loss may be above that in float32; None where nothing is promised.
    """

    wrap: Callable[[optax.GradientTransformation], optax.GradientTransformation] = lambda tx: tx
    dtype: Any = jnp.float32
    target: float | None = None


def _eight_bits(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    return optimiz.low_bit(tx, optimiz.Int8())


def _rounded(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    return optax.chain(tx, optimiz.stochastic_rounding(0))


FORMS = {
    FLOAT32: Form(),
    "int8": Form(_eight_bits, target=0.3),
    "bf16": Form(dtype=jnp.bfloat16),
    "bf16 stochastic": Form(_rounded, jnp.bfloat16, target=0.5),
    "bf16 kahan": Form(lambda tx: optax.chain(tx, optimiz.kahan()), jnp.bfloat16, target=0.5),
    "int8 bf16 stochastic": Form(lambda tx: _rounded(_eight_bits(tx)), jnp.bfloat16),
}
_LOW_RATE_FORMS = (FLOAT32, "bf16", "bf16 stochastic", "bf16 kahan")


class Arm(NamedTuple):
    """What is run from each seed."""

    optimizer: str
    learning_rate: float  # peak
    form: str

    @property
    def base(self) -> "Arm":
        """The same in float32."""
        return self._replace(form=FLOAT32)


def arms(names: Sequence[str], low_rate: float, *, from_nothing: bool) -> list[Arm]:
    """Every arm, each optimizer's own in float32 first.

    AdamW, whose steps are of the size of its rate, has the arms with bfloat16 parameters too, at its own rate
    and at a low one.

    Args:
        names: names of optimizers.
        low_rate: peak.
        from_nothing: train a model, and do not fine-tune one with a new head.

    Raises:
        ValueError: an optimizer is unknown, finds its rate itself, or has no rate that a run has chosen.
    """
    found = []
    for name in names:
        choice = optimizers.choose(name, from_scratch=from_nothing)
        if choice.searches:
            raise ValueError(f"optimizer {name!r} finds its rate itself; this study is of those that take one")
        if choice.learning_rate is None:
            raise ValueError(
                f"optimizer {name!r} has no learning rate that a run has chosen, which this study takes"
            )
        own = choice.learning_rate
        forms = FORMS if name == "adamw" else (FLOAT32, "int8")
        found += [Arm(name, own, form) for form in forms]
        if name == "adamw":
            found += [Arm(name, low_rate, form) for form in _LOW_RATE_FORMS]
    return found


def optimizer(
    name: str, form: str, rate: float | jax.Array, steps: int, *, from_nothing: bool
) -> optax.GradientTransformation:
    """The optimizer in a form; its rate warms up over a tenth of the steps, and falls to zero.

    Args:
        name: of the optimizer.
        form: one of ``FORMS``.
        rate: the peak; an argument of a compiled step may be one.
        steps: of the run.
        from_nothing: all parameters have one rate; else that of a new head is higher.
    """
    shape = schedules.over_steps(schedules.warm_up(schedules.linear(1.0), _WARMUP), steps)
    multipliers = optimizers.one_rate if from_nothing else optimizers.head_multipliers(_HEAD_RATE)
    make = optimizers.choose(name).make
    tx = make(lambda count: rate * shape(count), _WEIGHT_DECAY, groups.no_decay(), multipliers)
    return FORMS[form].wrap(tx)
