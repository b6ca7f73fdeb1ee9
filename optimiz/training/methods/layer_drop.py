r"""Progressive layer dropping: each step leaves out layers at random, and is not charged for them.

.. math::
    \theta(t) = \bar\theta + (1 - \bar\theta)\, e^{-\gamma t / T}, \qquad
    P(\text{layer } l \text{ of } L \text{ is on}) = 1 - (1 - \theta(t))\, l / L, \quad l = 1 \ldots L

t / T is the share of the budget spent or, without a budget, the share of the steps made. Layers are on or off
independently of one another; if all would be off, all are on. A layer that is off is the identity and is not
computed, neither forward nor backward. The output of the others is not rescaled, and in evaluation every layer
is on.

A layer that is off has a gradient of zero, as in the authors' BERT: its moments decay, and so does its weight.

Source: arXiv 2010.13369 (Zhang and He), as in arXiv 2307.06440 and its code, JeanKaddour/NoTrainNoGain at
a7e6599.

Departures: one pattern per step, as in the authors' T5; their BERT draws one per micro-batch. A step is charged
for its own pattern; their T5 charges it for that of the next step.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from optimiz import checks


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerDrop:
    """Which layers are on, step by step.

    The task's ``loss`` and ``logits`` are called with the pattern, bool [L], as their fourth argument, and pass
    it to :func:`skippable` layers; the task has a ``depth`` L.

    Args:
        gamma: γ ≥ 0, how fast dropping sets in: 100 for BERT, 20 for T5.
        least: θ̄ in [0, 1], the final value of θ.

    Raises:
        TypeError: an argument is not a number.
        ValueError: it is outside its domain.

    Example:
        >>> drop = LayerDrop(gamma=100.0)
        >>> drop.keep_probabilities(1.0, layers=4).tolist()
        [0.875, 0.75, 0.625, 0.5]
    """

    gamma: float = 100.0
    least: float = 0.5

    def __post_init__(self) -> None:
        checks.number("gamma", self.gamma, ge=0)
        checks.number("least", self.least, ge=0, le=1)

    def theta(self, progress: jax.typing.ArrayLike) -> jax.Array:
        """θ at a share of the run, in [0, 1]."""
        return self.least + (1 - self.least) * jnp.exp(-self.gamma * jnp.asarray(progress))

    def keep_probabilities(self, progress: jax.typing.ArrayLike, layers: int) -> jax.Array:
        """The probability that each of L layers is on, [L]."""
        return 1 - (1 - self.theta(progress)) * jnp.arange(1, layers + 1) / layers

    def pattern(self, key: jax.Array, progress: jax.typing.ArrayLike, layers: int) -> jax.Array:
        """Draw which of L layers are on: bool [L], at least one of them True."""
        on = jax.random.uniform(key, (layers,)) < self.keep_probabilities(progress, layers)
        return on | ~jnp.any(on)

    def described(self) -> dict[str, Any]:
        """The schedule as plain JSON."""
        return {"gamma": float(self.gamma), "least": float(self.least)}


def skippable(layer: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """Make a layer that can be skipped: in a branch, so that it is not computed when it is off.

    Args:
        layer: (x, …) → an array of the shape and dtype of x.

    Returns:
        (on, x, …) → what the layer returns, or x where ``on``, a bool of shape (), is False. None is True.
        Under ``jax.vmap`` over ``on`` both branches are computed.

    Example:
        >>> double = skippable(lambda x: 2 * x)
        >>> [float(double(on, 3.0)) for on in (True, False, None)]
        [6.0, 3.0, 6.0]
    """

    def apply(on: jax.typing.ArrayLike | None, x: jax.Array, *args: Any) -> jax.Array:
        if on is None:
            return layer(x, *args)
        return jax.lax.cond(on, lambda x, *args: layer(x, *args), lambda x, *_: x, x, *args)

    return apply
