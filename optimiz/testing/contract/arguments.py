"""Promises about the arguments that an optimizer refuses."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from optimiz.testing.promise import promise
from optimiz.testing.subject import RATE, Subject

_OUT_OF_RANGE = (float("nan"), float("inf"), -0.1, np.float32("nan"), jnp.float32(-1))
_NO_NUMBERS = ("0.1", [0.1], True)


def _refused(
    subject: Subject, error: type[Exception] | tuple[type[Exception], ...], *args: Any, **kwargs: Any
) -> str:
    shown = ", ".join([*map(repr, args), *(f"{name}={value!r}" for name, value in kwargs.items())])
    try:
        subject.make(*args, **kwargs)
    except error as refusal:
        return str(refusal)
    raise AssertionError(f"{subject}({shown}) is accepted")


@promise("refuses a bad learning rate by name", convention=True)
def refuses_a_bad_rate(subject: Subject) -> None:
    """A learning rate that is NaN or negative can waste hours of training before anyone notices."""
    for rate in _OUT_OF_RANGE:
        message = _refused(subject, ValueError, rate)
        assert f"{subject.learning_rate_name} must be in" in message, (
            f"the message names no argument: {message}"
        )


@promise("refuses a learning rate that is not a number", convention=True)
def refuses_a_rate_that_is_not_a_number(subject: Subject) -> None:
    """A string from a configuration file should fail where it is read, not in the first compiled step."""
    for rate in _NO_NUMBERS:
        message = _refused(subject, TypeError, rate)
        assert f"{subject.learning_rate_name} must be a number" in message, (
            f"the message names no argument: {message}"
        )


@promise(
    "refuses every other bad argument",
    convention=True,
    applies_to=lambda subject: None if subject.bad else "no bad arguments are given",
)
def refuses_bad_arguments(subject: Subject) -> None:
    """With b1 = 1 the moment never changes, and with a negative weight decay the parameters grow."""
    for name, value in subject.bad.items():
        _refused(subject, (ValueError, TypeError), RATE, **{name: value})


@promise("refuses an argument that it does not know")
def refuses_unknown_arguments(subject: Subject) -> None:
    """If a misspelled argument is ignored, the default silently stays in place."""
    _refused(subject, TypeError, RATE, learning_rat=RATE)
