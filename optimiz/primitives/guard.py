"""Guard an optimizer: a step that is not finite is skipped entirely and counted.

A step is bad if an entry of the gradient is NaN or infinite. The update is then zero and the optimizer's state
stays as it was, bit for bit: moments, counters, schedule. Nothing decays. The next good step is the one that
would have been taken without the bad one.

Every optimizer of the suite makes a finite step of a finite gradient, whatever its size, except Sophia, whose
estimate of the curvature may be bad where the gradient is not. For it, and for an optimizer of which that is
not known, ``test="update"`` tests the update as well. That reads all that the update is computed from before
anything can be written, 44 bytes per parameter around AdamW, where a test of the gradient reads the gradient
once more, and nothing else: 32. The state itself is not tested, since it may hold an infinity legitimately,
such as the best loss so far.

After more than ``give_up_after`` bad steps in a row, the update is NaN in every entry, so that the failure is
visible in the parameters and in the loss. The optimizer's state is still that of the last good step; a run that
restores good parameters can continue with it.

Put the guard around everything else. In a data-parallel run, average the gradients first: the decision depends
on what ``update`` is given, and must be the same on all devices. Around ``optimiz.accumulate``, a bad
micro-batch is left out of its window; inside, the whole window is skipped. The same holds for
``optax.MultiSteps``, except that inside it one bad micro-batch also spoils the windows that follow, because
Optax resets a window by 0 × NaN.

Departures from ``optax.apply_if_finite``: if bad steps persist the update is NaN, where Optax passes the bad
gradient to the optimizer and so to its moments for good; the update may be tested as well; the optimizer may
return updates of another dtype than the gradient's.
"""

import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optimiz import checks, numerics


class GuardState(NamedTuple):
    """State of :func:`guard`."""

    skipped: jax.Array  # int32 scalar: number of bad steps so far
    skipped_in_a_row: jax.Array  # int32 scalar: number of them since the last good step
    inner_state: Any  # state of the optimizer after its last good step


def guard(
    tx: optax.GradientTransformation,
    give_up_after: jax.typing.ArrayLike,
    test: Literal["gradient", "update"] = "gradient",
) -> optax.GradientTransformationExtraArgs:
    """Skip every step whose gradient is not finite.

    Args:
        tx: the whole optimizer.
        give_up_after: number K ≥ 0 of consecutive bad steps that are skipped before the update turns NaN.
        test: what must be finite: ``"gradient"``, or ``"update"``, the gradient and the update.

    Returns:
        A transformation that passes extra arguments on.

    Raises:
        TypeError: ``tx`` is not a transformation, or ``give_up_after`` not an integer.
        ValueError: ``give_up_after`` is negative, or ``test`` is neither.

    Example:
        >>> tx = guard(optax.sgd(0.5, momentum=0.5), give_up_after=1)
        >>> state = tx.init(jnp.zeros(1))
        >>> for g in (2.0, jnp.inf, 2.0):  # momentum 2, 2, 3
        ...     updates, state = tx.update(jnp.array([g]), state)
        ...     print(updates.tolist(), int(state.skipped), int(state.skipped_in_a_row))
        [-1.0] 0 0
        [0.0] 1 1
        [-1.5] 1 0
    """
    checks.transformation("tx", tx)
    checks.integer("give_up_after", give_up_after, ge=0)
    checks.one_of("test", test, ("gradient", "update"))
    tx = optax.with_extra_args_support(tx)

    def init_fn(params):
        return GuardState(jnp.zeros([], jnp.int32), jnp.zeros([], jnp.int32), tx.init(params))

    def update_fn(updates, state, params=None, **extra_args):
        def attempt(updates, inner_state, params):
            proposed, inner_state = tx.update(updates, inner_state, params, **extra_args)
            tested = (updates, proposed) if test == "update" else (updates,)
            return proposed, inner_state, numerics.map_leaves(_zero_if_finite, *tested)

        # Within numerics.update_and_apply, which defers everything and chooses in a kernel, by a scalar.
        in_kernels = numerics.is_traced()
        follow = numerics.given if in_kernels else numerics.deferred
        proposed, inner_state, zeros = follow(attempt)(updates, state.inner_state, params)
        good = numerics.all_of([~numerics.any_nan(zero) for zero in jax.tree.leaves(zeros)])
        if test == "gradient":  # else it is known after all sums
            given = jax.tree.leaves((updates, state.inner_state, params))
            good = numerics.after_sums(good, jax.tree.leaves(proposed), given)
        in_a_row = jnp.where(good, 0, numerics.increment(state.skipped_in_a_row))
        instead = jnp.where(in_a_row > give_up_after, jnp.float32(jnp.nan), jnp.float32(0))

        def chosen(new, old):
            whole = in_kernels and jnp.issubdtype(new.dtype, jnp.number)
            return (
                jax.lax.select(good, new, jnp.broadcast_to(old, new.shape))
                if whole
                else jnp.where(good, new, old)
            )

        # A select, because a branch would hold both states in memory. The update is computed after the state
        # and from what was selected, so that each new array can overwrite the old one; numerics.fusion, rule 3.
        def select(new, old):
            new.value = chosen(numerics.materialise(new), old)
            return new.value

        inner_state = jax.tree.map(select, inner_state, state.inner_state)
        proposed = numerics.materialise(proposed)
        updates = jax.tree.map(lambda u: chosen(u, instead.astype(u.dtype)), proposed)
        skipped = jnp.where(good, state.skipped, numerics.increment(state.skipped))
        return updates, GuardState(skipped, in_a_row, inner_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _zero_if_finite(*arrays: jax.Array) -> jax.Array:
    """Zero where all arrays are finite, NaN elsewhere."""
    wide = [numerics.widen(x) for x in arrays if jnp.issubdtype(x.dtype, jnp.inexact)]
    return functools.reduce(jnp.add, [x - x for x in wide], jnp.zeros([], jnp.float32))
