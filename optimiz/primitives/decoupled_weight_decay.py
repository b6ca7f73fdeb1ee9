r"""Decoupled weight decay: add λ θ to the direction, after everything that rescales the gradient.

.. math:: d \leftarrow d + \lambda \theta

Followed by the step, the parameters shrink by the factor 1 - η λ, whatever the gradient's scale.

Source: arXiv 1711.05101 (AdamW). There the decay carries the schedule's multiplier but not the base learning
rate; here, as in PyTorch and Optax, it carries the whole learning rate.

Departures from ``optax.add_decayed_weights``: the updates keep their dtype whatever kind of number λ is, and
the mask may be any rule of ``optimiz.groups``, which refuses to match nothing.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optimiz import checks, numerics


class DecoupledWeightDecayState(NamedTuple):
    """State of :func:`decoupled_weight_decay`."""

    count: jax.Array  # int32 scalar: updates made so far


def decoupled_weight_decay(
    weight_decay: optax.ScalarOrSchedule,
    mask: Any | Callable[[optax.Params], Any] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Add the parameters, times the decay, to the direction.

    Args:
        weight_decay: λ ≥ 0, per step and per unit of learning rate; a number, or a schedule from the
            0-based update count to a scalar.
        mask: which parameters decay: a tree of booleans, a prefix of one, a function from the parameters to
            such a tree, or a rule of ``optimiz.groups``. None for all of them.

    Returns:
        A transformation that keeps its updates' dtype. A decay known to be 0 is the identity, and asks for
        no parameters.

    Raises:
        TypeError: ``weight_decay`` is neither callable nor a number.
        ValueError: it is NaN, infinite or negative; or ``update`` is not given the parameters, or given
            updates of other shapes.

    Example:
        >>> tx = decoupled_weight_decay(0.5)
        >>> params = jnp.array([4.0])
        >>> updates, _ = tx.update(jnp.array([1.0]), tx.init(params), params)
        >>> updates.tolist()
        [3.0]
    """
    decay = checks.schedule("weight_decay", weight_decay)
    if checks.is_zero(weight_decay):
        return optax.with_extra_args_support(optax.identity())

    def init_fn(params):
        del params
        return DecoupledWeightDecayState(jnp.zeros([], jnp.int32))

    def update_fn(updates, state, params=None, **extra_args):
        del extra_args
        checks.needs_params(params)
        checks.same_shapes("gradient", updates, "parameter", params)
        lam = decay(state.count)

        def add(u, p):
            wide = numerics.widen(p)
            return (numerics.widen(u) + lam.astype(jnp.finfo(wide.dtype).dtype) * wide).astype(u.dtype)

        updates = jax.tree.map(add, updates, params)
        return updates, DecoupledWeightDecayState(jnp.asarray(optax.safe_increment(state.count)))

    tx = optax.GradientTransformationExtraArgs(init_fn, update_fn)
    return tx if mask is None else optax.masked(tx, mask)
