r"""Decoupled weight decay: add c λ θ to the direction, after everything that rescales the gradient.

.. math:: d \leftarrow d + c_t\, \lambda\, \theta

The step that follows shrinks the parameters by :math:`\eta_t c_t \lambda`, whatever the gradient's scale. The
coupling determines how the decay scales with the learning rate:

===================  =================  ==========================================================
coupling             decay of a step    c
===================  =================  ==========================================================
``"learning_rate"``  η λ                1; PyTorch and Optax
``"schedule"``       (η / peak of η) λ  1 / peak; as in the paper, the schedule without its base rate
``"independent"``    λ                  1 / η, or 0 where η is 0
===================  =================  ==========================================================

Cautious decay leaves out the entries whose direction grows the parameter, where d θ < 0.

Source: arXiv 1711.05101 (AdamW); arXiv 2510.12402 (cautious decay).

Departures from ``optax.add_decayed_weights``: the couplings; the updates keep their dtype whatever type of
number λ is; the mask may be a rule of ``optimiz.groups``, which raises if it matches nothing; a mask function
is called with the parameters, never with the updates.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optimiz import checks, numerics, schedules

Coupling = Literal["learning_rate", "schedule", "independent"]


class DecoupledWeightDecayState(NamedTuple):
    """State of :func:`decoupled_weight_decay` if the decay or its coupling varies over the steps."""

    count: jax.Array  # int32 scalar: updates made so far


def decoupled_weight_decay(
    weight_decay: optax.ScalarOrSchedule,
    mask: Any | Callable[[optax.Params], Any] | None = None,
    *,
    coupling: Coupling = "learning_rate",
    learning_rate: optax.ScalarOrSchedule | None = None,
    cautious: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Add the parameters, times the decay, to the direction.

    Args:
        weight_decay: λ ≥ 0, a number or a schedule of the 0-based update count.
        mask: mask of the parameters that decay, such as ``groups.no_decay()``: a tree of booleans, a prefix of
            one, or a function of the parameters; None for all.
        coupling: how the decay scales with the learning rate, see above.
        learning_rate: learning rate η of the step that follows, which ``"schedule"`` and ``"independent"``
            need.
        cautious: whether only those entries decay that the direction, too, moves toward zero, or not at all.

    Returns:
        A transformation that keeps the dtype of its updates. A decay that is known to be 0 is the identity and
        needs no parameters.

    Raises:
        TypeError: ``weight_decay`` or ``learning_rate`` is neither a schedule nor a number; or an answer of the
            mask is not a boolean.
        ValueError: one of the two is NaN, infinite or negative, also at the first update of a schedule; the
            coupling is unknown, or is ``"schedule"`` and the peak of the schedule is unknown; or, in
            ``update``, the parameters are missing, an update has another shape than its parameter, or the
            transformation comes after a step in its chain.

    Example:
        >>> tx = decoupled_weight_decay(0.5)
        >>> params = jnp.array([4.0])
        >>> updates, _ = tx.update(jnp.array([1.0]), tx.init(params), params)
        >>> updates.tolist()
        [3.0]
    """
    checks.one_of("decay_coupling", coupling, ("learning_rate", "schedule", "independent"))
    decays = None if mask is None else checks.mask("the mask of the weight decay", mask)
    decay = checks.schedule("weight_decay", weight_decay)
    if coupling != "learning_rate" and learning_rate is None:
        raise ValueError(f"decay_coupling {coupling!r} needs the learning_rate")
    eta_of_step = 1.0 if learning_rate is None else learning_rate
    eta = checks.schedule("learning_rate", eta_of_step)
    if checks.is_zero(weight_decay):
        return optax.with_extra_args_support(optax.identity())
    largest = schedules.peak(eta_of_step) if coupling == "schedule" else 1.0

    # Only what varies needs a count. A traced decay may be 0, whose state is empty.
    varies = callable(weight_decay) or (coupling == "independent" and callable(learning_rate))

    def strength(count: jax.typing.ArrayLike) -> jax.Array:
        if coupling == "learning_rate":
            return decay(count)
        rate = eta(count) if coupling == "independent" else jnp.asarray(largest)
        return decay(count) * jnp.where(rate == 0, 0, 1 / jnp.where(rate == 0, 1, rate))

    def init_fn(params):
        del params
        if callable(weight_decay):
            checks.at_first("weight_decay", decay)
        return DecoupledWeightDecayState(jnp.zeros([], jnp.int32)) if varies else optax.EmptyState()

    def update_fn(updates, state, params=None, **extra_args):
        del extra_args
        checks.needs_params(params)
        checks.no_step_before(
            "decoupled_weight_decay", updates, "parameters would grow; put it before the step"
        )
        checks.same_shapes("gradient", updates, "parameter", params)
        lam = strength(state.count if varies else 0)

        def leaf(u, p):
            decayed = numerics.times(lam, p)
            if cautious:
                decayed = decayed * ~numerics.oppose(u, p)
            return numerics.plus(decayed, u, u.dtype)

        updates = numerics.map_leaves(leaf, updates, params)
        if varies:
            state = DecoupledWeightDecayState(numerics.increment(state.count))
        return updates, state

    tx = optax.GradientTransformationExtraArgs(init_fn, update_fn)
    if decays is None:
        return tx

    def masked_update_fn(updates, state, params=None, **extra_args):
        checks.needs_params(params)
        # A function of values gets the parameters, where optax.masked calls it with the updates.
        return optax.masked(tx, decays(params)).update(updates, state, params, **extra_args)

    return optax.GradientTransformationExtraArgs(optax.masked(tx, decays).init, masked_update_fn)
