"""An optimizer made from a learning rate, so that runs at different rates share one compiled step.

The function is called again while the step is traced, with the rate as an argument of the compiled program. The
rate is weakly typed, as a Python float is, so values computed from it have the same dtypes.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
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
        learning_rate: the learning rate of this run.
        tx: ``make(learning_rate)``.
        schedules: the schedules that were bound to steps while the optimizer was made.
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
        asked_for = "a function from a learning rate to an optimizer, such as optimiz.adamw"
        checks.kinds({"tx, given a learning_rate,": (make, Callable, asked_for)})
        with schedules.made() as made:
            tx = make(float(learning_rate))
        checks.transformation(f"tx({learning_rate})", tx)
        return cls(make, float(learning_rate), tx, made)

    @property
    def argument(self) -> jax.Array:
        """The rate as the argument of a compiled step."""
        return jnp.asarray(self.learning_rate)


def traced_rate() -> jax.ShapeDtypeStruct:
    """The stand-in for a rate while a step is traced: weakly typed, as a Python float is."""
    return jax.ShapeDtypeStruct((), jnp.result_type(float), weak_type=True)


@contextlib.contextmanager
def explained(*rate: Any) -> Iterator[None]:
    """Within it, an error of a factory that needs the value of a traced rate says what to do.

    Args:
        *rate: the rate that the factory is given; nothing if there is no factory.
    """
    try:
        yield
    except (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError) as error:
        if rate:
            error.add_note(
                "tx was called with a traced learning rate, so that runs at other rates can share the compiled "
                "step. If it needs a concrete number, pass tx(learning_rate) instead, without learning_rate"
            )
        raise
