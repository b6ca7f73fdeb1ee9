r"""Accumulate gradients over micro-batches, and step once for every k of them.

.. math:: \bar g \leftarrow \bar g + g / k; \qquad
    \text{after every k-th, step along } \bar g \text{, then } \bar g \leftarrow 0

In between, the update is exactly zero. The mean over k micro-batches of equal size is the gradient of the whole
batch, up to rounding. Where a loss is a mean over valid tokens, and micro-batches have different numbers of
them, the mean of their means is another number than the mean over all. The loss of each must then be its sum,
times k and divided by the number in all k. ``training.Settings(micro_batches=)`` does that by itself.

Departures from ``optax.MultiSteps``: the optimizer runs only when a step is due, under ``lax.cond`` (Optax runs
it at every micro-batch and discards the result). A gradient that is not finite makes the mean non-finite, and
the optimizer sees that; the updates before stay zero (Optax's are 0 × NaN). Wrap the optimizer in
``optimiz.guard`` to skip such a window, or wrap ``accumulate`` in it to skip such a micro-batch.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optimiz import checks, numerics


class AccumulateState(NamedTuple):
    """State of :func:`accumulate`."""

    micro_step: jax.Array  # int32 scalar: micro-batches in the mean so far, less than k
    mean: optax.Updates  # like the parameters, at least float32: the sum of g / k so far
    inner_state: Any  # state of the optimizer


def accumulate(
    tx: optax.GradientTransformation, every: jax.typing.ArrayLike
) -> optax.GradientTransformationExtraArgs:
    """Run an optimizer on the mean of every ``every`` gradients.

    Under ``vmap`` both branches run, so that the optimizer runs at every micro-batch.

    Args:
        tx: optimizer to run.
        every: number k ≥ 1 of micro-batches per step. Learning-rate schedules count steps.

    Returns:
        A transformation whose updates have the parameters' dtype, or, where ``update`` is not given the
        parameters, the gradients'. The optimizer gets the extra arguments of the last micro-batch of a window.

    Raises:
        TypeError: ``tx`` is not a transformation, or ``every`` not an integer; or, in ``update``, the optimizer
            changes its state's dtypes.
        ValueError: ``every`` is less than 1, or a gradient has another shape than its parameter.

    Example:
        >>> tx = accumulate(optax.sgd(0.5), every=2)
        >>> state = tx.init(jnp.zeros(1))
        >>> for g in (2.0, 6.0):
        ...     updates, state = tx.update(jnp.array([g]), state)
        ...     print(updates.tolist())
        [0.0]
        [-2.0]
    """
    checks.transformation("tx", tx)
    checks.integer("every", every, ge=1)
    tx = optax.with_extra_args_support(tx)

    def init_fn(params):
        mean = jax.tree.map(lambda p: numerics.zero_moment(p, None), params)
        return AccumulateState(jnp.zeros([], jnp.int32), mean, tx.init(params))

    def update_fn(updates, state, params=None, **extra_args):
        checks.same_shapes("gradient", updates, "parameter", state.mean)
        like = updates if params is None else params

        def mean():
            # Divided before they are added: the sum of k finite gradients may overflow, their mean does not.
            return jax.tree.map(lambda m, g: m + g.astype(m.dtype) / every, state.mean, updates)

        def step(like):
            # In the gradients' dtype, as from one large batch.
            g = jax.tree.map(lambda m, g: m.astype(g.dtype), mean(), updates)
            proposed, inner_state = tx.update(g, state.inner_state, params, **extra_args)
            _keeps_its_types(state.inner_state, inner_state)
            proposed = jax.tree.map(lambda u, like: u.astype(like.dtype), proposed, like)
            return proposed, inner_state, jnp.array(True)

        def wait(like):
            return jax.tree.map(jnp.zeros_like, like), state.inner_state, jnp.array(False)

        # ``like`` is an operand: zeros like an array that a branch closes over may lose its sharding. The new
        # mean is computed again after the branch, so that it can overwrite the old one, which the branch reads.
        proposed, inner_state, due = numerics.cond(state.micro_step + 1 >= every, step, wait, like)
        new_mean = jax.tree.map(lambda m: jnp.where(due, 0, m), mean())
        return proposed, AccumulateState(jnp.where(due, 0, state.micro_step + 1), new_mean, inner_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _keeps_its_types(before: Any, after: Any) -> None:
    """Refuse an optimizer whose step changes the types of its state."""
    new = jax.tree.leaves(after)
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(before), new, strict=True):
        kept = (jnp.shape(x), jnp.result_type(x)) == (jnp.shape(y), jnp.result_type(y))
        if not kept:
            raise TypeError(
                "the optimizer in accumulate must keep the types of its state, but those at "
                f"{jax.tree_util.keystr(path)} differ: {jax.typeof(x)} before, {jax.typeof(y)} after the update"
            )
