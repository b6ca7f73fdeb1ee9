r"""How far a step along an orthogonal matrix goes, by the matrix's shape.

An orthogonal matrix X of :math:`m \times n` has min(m, n) singular values of 1, so the root mean square of its
entries is :math:`1 / \sqrt{\max(m, n)}`. With m inputs and n outputs:

=================  ================================  =========================================
scale              factor                            root mean square of the step
=================  ================================  =========================================
``keller``         :math:`\sqrt{\max(1, n / m)}`     :math:`1 / \sqrt m` for every shape
``match_adam(r)``  :math:`r \sqrt{\max(m, n)}`       r for every shape, as Adam's
``spectral``       :math:`\sqrt{n / m}`              :math:`1 / \sqrt m` if :math:`n \geq m`, else less
=================  ================================  =========================================

Source: ``keller`` from KellerJordan/Muon; ``match_adam`` from arXiv 2502.16982 (Moonlight); ``spectral`` from
arXiv 2310.17813 (Yang, Simon and Bernstein).
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import optax

from optimiz import checks

__all__ = ["Scale", "keller", "match_adam", "spectral"]  # of optimiz.matrix_scales

Scale = Callable[[int, int], float]
"""A function from a matrix's numbers of inputs and of outputs to the factor of its step."""


def _of_two_sides(scale: Callable[..., float]) -> Callable[..., float]:
    """The same function, which says what is wrong if it is taken for a schedule."""

    @functools.wraps(scale)
    def checked(*sides: Any, **by_name: Any) -> float:
        if any(isinstance(side, jax.Array) for side in sides):
            raise TypeError(
                "a scale takes the inputs and outputs of a matrix, got an array; optax.inject_hyperparams "
                'takes every callable for a schedule of the step count, unless static_args=("scale",) names it'
            )
        return scale(*sides, **by_name)

    return checked


@_of_two_sides
def keller(inputs: int, outputs: int) -> float:
    """Keller Jordan's factor.

    Args:
        inputs: rows of the matrix, over which a layer sums.
        outputs: columns of the matrix.

    Example:
        >>> keller(4, 16), keller(16, 4)
        (2.0, 1.0)
    """
    return math.sqrt(max(1.0, outputs / inputs))


@_of_two_sides
def spectral(inputs: int, outputs: int) -> float:
    """The factor by which the change of a layer's output keeps its size relative to that of its input.

    Args:
        inputs: rows of the matrix, over which a layer sums.
        outputs: columns of the matrix.

    Example:
        >>> spectral(4, 16), spectral(16, 4)
        (2.0, 0.5)
    """
    return math.sqrt(outputs / inputs)


@dataclasses.dataclass(frozen=True)
class MatchAdam:
    """What :func:`match_adam` returns."""

    rms: float

    @_of_two_sides
    def __call__(self, inputs: int, outputs: int) -> float:
        """The factor of a matrix."""
        return self.rms * math.sqrt(max(inputs, outputs))


def match_adam(rms: float = 0.2) -> MatchAdam:
    """Moonlight's factor, by which a step is as large as Adam's, and one learning rate suits all parameters.

    Args:
        rms: root mean square of the step at a learning rate of 1, > 0; Adam's is usually from 0.2 to 0.4.

    Returns:
        A function from a matrix's numbers of inputs and of outputs to its factor.

    Raises:
        TypeError: ``rms`` is not a number.
        ValueError: ``rms`` is not positive.

    Example:
        >>> match_adam()(25, 4), match_adam(0.5)(4, 100)
        (1.0, 5.0)
    """
    checks.number("rms", rms, gt=0)
    return MatchAdam(rms)


def check(scale: Scale | None) -> None:
    """Check the factor of a step by a matrix's shape.

    Args:
        scale: a function of two integers to a number > 0, or None.

    Raises:
        TypeError: it is neither.
        ValueError: the factor of a matrix of 2 × 3 is not positive.
    """
    if scale is None:
        return
    try:
        factor_of(scale, 2, 3)
    except TypeError as error:
        raise TypeError(
            f"scale must be a function of two numbers such as matrix_scales.match_adam(), got {scale!r}"
        ) from error


def factor_of(scale: Scale, inputs: int, outputs: int) -> float:
    """The factor of a step.

    Args:
        scale: what gives it.
        inputs: rows of the matrix.
        outputs: columns of the matrix.

    Raises:
        TypeError: it is not a number.
        ValueError: it is not positive and finite.
    """
    factor = scale(inputs, outputs)
    checks.number(f"scale's factor of a matrix of {inputs} × {outputs}", factor, gt=0)
    return factor


def adam_rate(
    learning_rate: optax.ScalarOrSchedule,
    adam_learning_rate: optax.ScalarOrSchedule | None,
    scale: Scale | None,
) -> optax.ScalarOrSchedule:
    """The learning rate of AdamW beside matrices.

    Args:
        learning_rate: that of the matrices.
        adam_learning_rate: the given one, or None.
        scale: factor of a step of the matrices.

    Raises:
        TypeError: ``adam_learning_rate`` is neither a number nor a schedule.
        ValueError: it is outside its domain, or is None and the scale gives a step another size than AdamW's.
    """
    if adam_learning_rate is not None:
        checks.schedule("adam_learning_rate", adam_learning_rate)
        return adam_learning_rate
    if not isinstance(scale, MatchAdam):
        raise ValueError(
            "adam_learning_rate must be given, as with this scale the learning_rate of matrices does not suit "
            "AdamW; the authors' is 3e-4 beside 0.02. With scale=matrix_scales.match_adam() one rate suits both"
        )
    return learning_rate
