"""An optimizer made from a learning rate, so that runs at different rates share one compiled step.

The function is called again while the step is traced, with the rate as an argument of the compiled program:
weakly typed, as a Python float is, so that the data types of what is computed from it are the same.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax

from optimiz import checks, schedules

Factory = Callable[[Any], optax.GradientTransformation]


@dataclasses.dataclass(frozen=True)
class AtRate:
    """An optimizer, with the function and the learning rate that it was made from.

    Args:
        make: learning rate → optimizer.
        learning_rate: of this run.
        tx: ``make(learning_rate)``.
        schedules: bound to steps while it was made.
    """

    make: Factory
    learning_rate: float
    tx: optax.GradientTransformation
    schedules: Sequence[Any]

    @classmethod
    def of(cls, make: Any, learning_rate: Any) -> "AtRate":
        """Make the optimizer.

        Args:
            make: learning rate → optimizer.
            learning_rate: ≥ 0.

        Raises:
            TypeError: an argument is not of its kind, or ``make`` does not return an optimizer.
            ValueError: the learning rate is negative or not finite.
        """
        checks.number("learning_rate", learning_rate, ge=0)
        asked_for = "a function that makes an optimizer of a learning rate, such as optimiz.adamw"
        checks.kinds({"tx, given a learning_rate,": (make, Callable, asked_for)})
        with schedules.made() as made:
            tx = make(float(learning_rate))
        checks.transformation(f"what tx makes of the learning rate {learning_rate}", tx)
        return cls(make, float(learning_rate), tx, made)

    @property
    def argument(self) -> jax.Array:
        """The rate as the argument of a compiled step."""
        return jnp.asarray(self.learning_rate)


def traced_rate() -> jax.ShapeDtypeStruct:
    """What a step is traced with in place of a rate: weakly typed, as the Python float is."""
    return jax.ShapeDtypeStruct((), jnp.result_type(float), weak_type=True)
