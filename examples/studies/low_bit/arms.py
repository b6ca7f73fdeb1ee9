"""The arms of the low-bit study: an optimizer, its rate, and the form of its state, parameters and products."""

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
    """How state and parameters are stored, and products computed.

    Attributes:
        wrap: optimizer → optimizer that stores its state and rounds the parameters in this form.
        dtype: dtype of the parameters between updates.
        compute: dtype of the model's products.
        target: percent by which the loss may exceed the loss in float32; None if there is no target.
    """

    wrap: Callable[[optax.GradientTransformation], optax.GradientTransformation] = lambda tx: tx
    dtype: Any = jnp.float32
    compute: Any = jnp.float32
    target: float | None = None


def _eight_bits(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    return optimiz.low_bit(tx, optimiz.Int8())


def _four_bits(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    return optimiz.low_bit(tx, optimiz.Int4())


def _rounded(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    return optax.chain(tx, optimiz.stochastic_rounding(0))


FORMS = {
    FLOAT32: Form(),
    "int8": Form(_eight_bits, target=0.3),
    "int4": Form(_four_bits, target=0.5),
    "bf16": Form(dtype=jnp.bfloat16),
    "bf16 stochastic": Form(_rounded, jnp.bfloat16, target=0.5),
    "bf16 kahan": Form(lambda tx: optax.chain(tx, optimiz.kahan()), jnp.bfloat16, target=0.5),
    "int8 bf16 stochastic": Form(lambda tx: _rounded(_eight_bits(tx)), jnp.bfloat16),
    "int4 bf16 stochastic": Form(lambda tx: _rounded(_four_bits(tx)), jnp.bfloat16),
    "mixed": Form(compute=jnp.bfloat16, target=0.5),  # --precision of the trainers
    "bfloat16": Form(_rounded, jnp.bfloat16, jnp.bfloat16, target=0.5),  # likewise
}
_LOW_RATE_FORMS = (FLOAT32, "bf16", "bf16 stochastic", "bf16 kahan")


class Arm(NamedTuple):
    """An optimizer at a peak rate, in a form."""

    optimizer: str
    learning_rate: float
    form: str

    @property
    def base(self) -> "Arm":
        """The same arm in float32."""
        return self._replace(form=FLOAT32)


def arms(names: Sequence[str], low_rate: float, *, from_scratch: bool) -> list[Arm]:
    """Every arm, float32 first for each optimizer.

    AdamW, whose steps are as large as its rate, also has arms with bfloat16 parameters, at its default rate and
    at a low one.

    Args:
        names: names of the optimizers.
        low_rate: the low peak rate.
        from_scratch: whether a model is trained from scratch, rather than fine-tuned with a new head.

    Raises:
        ValueError: an optimizer is unknown, needs no rate, or has no default rate.
    """
    found = []
    for name in names:
        choice = optimizers.choose(name, from_scratch=from_scratch)
        if choice.searches:
            raise ValueError(f"optimizer {name!r} needs no learning rate; this study needs one that does")
        if choice.learning_rate is None:
            raise ValueError(f"optimizer {name!r} has no default learning rate, which this study needs")
        own = choice.learning_rate
        forms = FORMS if name == "adamw" else (FLOAT32, "int8", "int4")
        found += [Arm(name, own, form) for form in forms]
        if name == "adamw":
            found += [Arm(name, low_rate, form) for form in _LOW_RATE_FORMS]
    return found


def optimizer(
    name: str, form: str, rate: float | jax.Array, steps: int, *, from_scratch: bool
) -> optax.GradientTransformation:
    """An optimizer in a form; its rate warms up over a tenth of the steps, and then decays to zero.

    Args:
        name: name of the optimizer.
        form: one of ``FORMS``.
        rate: peak rate, which may be traced.
        steps: number of updates of the run.
        from_scratch: whether all parameters have the same rate; otherwise a new head has a higher one.
    """
    shape = schedules.over_steps(schedules.warm_up(schedules.linear(1.0), _WARMUP), steps)
    multipliers = optimizers.one_rate if from_scratch else optimizers.head_multipliers(_HEAD_RATE)
    make = optimizers.choose(name).make
    tx = make(lambda count: rate * shape(count), _WEIGHT_DECAY, groups.no_decay(), multipliers)
    return FORMS[form].wrap(tx)
