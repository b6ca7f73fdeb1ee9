r"""Accumulate gradients over micro-batches, and step once for every k of them.

.. math:: \bar g \leftarrow \bar g + g / k; \qquad
    \text{after every k-th, step along } \bar g \text{, then } \bar g \leftarrow 0

In between the update is exactly zero. The mean over k micro-batches of one size is the gradient of the batch
that they make together, to rounding.

Departures from ``optax.MultiSteps``: the optimizer runs only when a step is due, under ``lax.cond`` (Optax runs
it at every micro-batch and throws the result away). A micro-batch that is not finite makes the mean so, which
the optimizer sees, but not the zero updates before (Optax's are 0 × NaN). Wrap the optimizer in
``optimiz.guard`` to skip such a window, or this in it to leave out such a micro-batch.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optimiz import checks, numerics


class AccumulateState(NamedTuple):
    """State of :func:`accumulate`."""

    micro_step: jax.Array  # int32 scalar: micro-batches in the mean so far, less than k
    mean: optax.Updates  # like the parameters, float32 at the least: their part of it
    inner_state: Any  # of the optimizer


def accumulate(
    tx: optax.GradientTransformation, every: jax.typing.ArrayLike
) -> optax.GradientTransformationExtraArgs:
    """Run an optimizer on the mean of every ``every`` gradients.

    Under ``vmap`` a branch is taken on both sides, and the optimizer runs at every micro-batch.

    Args:
        tx: the optimizer.
        every: k ≥ 1, micro-batches per step. Learning-rate schedules count steps.

    Returns:
        A transformation whose updates have the parameters' dtype, or, where ``update`` is not given the
        parameters, the gradients'. Extra arguments are passed on as the last micro-batch of a window has them.

    Raises:
        TypeError: ``tx`` is not a transformation, or ``every`` not an integer; or, in ``update``, the optimizer
            changes its state's dtypes.
        ValueError: it is less than 1, or the shape of a gradient differs from that of its parameter.

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
            # Divided before they are added: the sum of k finite gradients need not be finite, their mean is.
            return jax.tree.map(lambda m, g: m + g.astype(m.dtype) / every, state.mean, updates)

        def step(like):
            # In the gradients' dtype, in which one big batch would have delivered it.
            g = jax.tree.map(lambda m, g: m.astype(g.dtype), mean(), updates)
            proposed, inner_state = tx.update(g, state.inner_state, params, **extra_args)
            _keeps_its_types(state.inner_state, inner_state)
            proposed = jax.tree.map(lambda u, like: u.astype(like.dtype), proposed, like)
            return proposed, inner_state, jnp.array(True)

        def wait(like):
            return jax.tree.map(jnp.zeros_like, like), state.inner_state, jnp.array(False)

        # An operand, since zeros like an array that the branch closes over need not have its sharding.
        # The new mean is computed once more, in the place of the old one: behind the branch, which reads that
        # one, and of what comes out of the branch, so that XLA knows the order and need not copy it.
        proposed, inner_state, due = numerics.cond(state.micro_step + 1 >= every, step, wait, like)
        new_mean = jax.tree.map(lambda m: jnp.where(due, 0, m), mean())
        return proposed, AccumulateState(jnp.where(due, 0, state.micro_step + 1), new_mean, inner_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _keeps_its_types(before: Any, after: Any) -> None:
    """Refuse, at a step, an optimizer whose state is not what it was between steps."""
    new = jax.tree.leaves(after)
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(before), new, strict=True):
        kept = (jnp.shape(x), jnp.result_type(x)) == (jnp.shape(y), jnp.result_type(y))
        if not kept:
            raise TypeError(
                "the optimizer in accumulate must keep the types of its state, but those at "
                f"{jax.tree_util.keystr(path)} differ: {jax.typeof(x)} before, {jax.typeof(y)} after the update"
            )
