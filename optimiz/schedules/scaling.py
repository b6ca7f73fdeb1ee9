r"""Scaling rules: the learning rate for another batch size.

.. math::
    \text{linear:}      \quad & \eta = \eta_0\, B / B_0 \\
    \text{square root:} \quad & \eta = \eta_0 \sqrt{B / B_0}
"""

import jax

from optimiz import checks


def linear_scaling(
    base_rate: jax.typing.ArrayLike, base_batch: jax.typing.ArrayLike, batch: jax.typing.ArrayLike
) -> jax.typing.ArrayLike:
    """The learning rate times the ratio of batch sizes, as is usual for SGD after a warm-up.

    Args:
        base_rate: learning rate η₀ ≥ 0 that is known to work.
        base_batch: batch size B₀ > 0 for which it works, in examples or in tokens.
        batch: batch size B > 0 to train with, in the same unit.

    Raises:
        TypeError: an argument is not a number.
        ValueError: one is outside its domain.

    Example:
        >>> linear_scaling(0.1, base_batch=256, batch=1024)
        0.4

    Source:
        arXiv 1706.02677.
    """
    return base_rate * _ratio(base_rate, base_batch, batch)


def sqrt_scaling(
    base_rate: jax.typing.ArrayLike, base_batch: jax.typing.ArrayLike, batch: jax.typing.ArrayLike
) -> jax.typing.ArrayLike:
    """The learning rate times the square root of the ratio of batch sizes, as is usual for Adam.

    Args:
        base_rate: learning rate η₀ ≥ 0 that is known to work.
        base_batch: batch size B₀ > 0 for which it works, in examples or in tokens.
        batch: batch size B > 0 to train with, in the same unit.

    Raises:
        TypeError: an argument is not a number.
        ValueError: one is outside its domain.

    Example:
        >>> sqrt_scaling(0.1, base_batch=256, batch=1024)
        0.2

    Source:
        arXiv 2205.10287.
    """
    return base_rate * _ratio(base_rate, base_batch, batch) ** 0.5


def _ratio(base_rate, base_batch, batch):
    checks.number("base_rate", base_rate, ge=0)
    checks.number("base_batch", base_batch, gt=0)
    checks.number("batch", batch, gt=0)
    return batch / base_batch
