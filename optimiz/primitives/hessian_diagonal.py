r"""Two unbiased estimators of the Hessian's diagonal.

.. math::
    \text{Gauss-Newton-Bartlett:} \quad & \hat y_b \sim p_b = \operatorname{softmax}(z_b), \qquad
        \hat h = \frac{1}{W} \left( \sum_b \sqrt{w_b}\, J_b^\top (p_b - e_{\hat y_b}) \right)^{2},
        \qquad W = \sum_b w_b \\
    \text{Hutchinson:} \quad & u \in \{-1, 1\}^d \text{ at random}, \qquad \hat h = u \odot (\nabla^2 L\; u)

Here z_b are the logits at position b, a function of the parameters with Jacobian J_b, and w_b is the position's
weight in the mean loss: 1, or 0 where it is padding. A label drawn from the model itself gives a gradient of
mean zero, and the labels are independent. So the cross terms of the square vanish, and the expectation of ĥ is
the diagonal of the Gauss-Newton matrix of the mean loss, :math:`\tfrac 1 W \sum_b w_b J_b^\top
(\operatorname{diag} p_b - p_b p_b^\top) J_b`. With equal weights ĥ is B ĝ², with B the number of labels drawn,
which is counted here, and ĝ the gradient of the mean loss on them. ĥ is not negative, and costs one forward and
one backward pass.

Hutchinson's ĥ costs a Hessian-vector product. It is exact where the Hessian is diagonal, and may be negative.

Both are transformations that return ĥ whatever updates they are given. The state holds the data of one random
key, the same on all replicas, into which the number of estimates is folded.

Source: arXiv 2305.14342 (Liu et al.), Algorithms 1 and 2.

Departures from the paper: u has random signs instead of normal entries (only signs are exact on a diagonal
Hessian); positions may have weights. From the authors' released code and runs published with it: B is not a
constant; every micro-batch counts, because gradients are summed *before* they are squared; ĝ is not clipped;
logits whose last axis is not the classes are refused, such as the hidden states that some models return under
that name.

Departures from ``optax.contrib.hutchinson_estimator_diag_hessian``: a tree of float32 and bfloat16 works, where
Optax's raises; ``value_fn`` may stand in for ``obj_fn``; micro-batches; the average over replicas, without
which they drift apart; each instance has a key of its own, and its draws do not depend on ``jax_enable_x64``.
"""

from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer

from optimiz import checks, numerics


class HessianDiagonalState(NamedTuple):
    """State of :func:`gauss_newton_bartlett` and :func:`hutchinson`."""

    key: jax.Array  # uint32: data of the random key
    estimates: jax.Array  # int32 scalar: number of estimates so far


def gauss_newton_bartlett(
    classes: int,
    key: jax.Array | int,
    *,
    microbatches: int | None = None,
    axis_name: Hashable | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Estimate the diagonal of the Gauss-Newton matrix of a mean cross-entropy.

    ``update`` needs the parameters and ``logits_fn``, a function of them that returns logits [..., classes], or
    a pair of logits and the weights [...] of their positions in the mean loss, which are not negative. A
    parameter on which the logits do not depend gets 0.

    Args:
        classes: number of classes, or size of the vocabulary, ≥ 2; the length of the logits' last axis.
        key: random key, or an integer seed.
        microbatches: number n ≥ 1 of parts of the data, one at a time in memory; ``logits_fn`` is then called
            with the index i < n of the part, a traced int32, as its second argument. None for one call
            without an index.
        axis_name: axis of ``pmap`` or ``shard_map`` along which the data are split; ``logits_fn`` is to return
            this replica's share. Under a sharded ``jit`` it is None.

    Returns:
        A transformation whose update is ĥ, in at least float32.

    Raises:
        TypeError: ``classes``, ``microbatches`` or a seed is not an integer.
        ValueError: one of them is too small; or, in ``update``, ``logits_fn`` or the parameters are missing, or
            the last axis of the logits is not ``classes`` long.

    Example:
        >>> tx = gauss_newton_bartlett(classes=2, key=0)
        >>> params = jnp.zeros(2)  # both classes have probability 1/2, so the residual is ±1/2
        >>> estimate, _ = tx.update(params, tx.init(params), params, logits_fn=lambda z: z)
        >>> estimate.tolist()
        [0.25, 0.25]
    """
    checks.integer("classes", classes, ge=2)

    def estimate(params, key, *, logits_fn=None, **extra_args):
        del extra_args
        if logits_fn is None:
            raise ValueError(
                "gauss_newton_bartlett needs logits_fn, a function from the parameters to the logits: "
                "training.Task(logits=...) in a run, update(updates, state, params, logits_fn=...) elsewhere"
            )
        if axis_name is not None:  # other data here, so other labels
            key = jax.random.fold_in(key, jax.lax.axis_index(axis_name))

        def gradient_and_weight(*index):
            def logits_and_weights(params):
                with checks.calling("logits_fn"):
                    returned = logits_fn(params, *index)
                return returned if isinstance(returned, tuple) else (returned, None)

            logits, pull_back, weights = jax.vjp(logits_and_weights, params, has_aux=True)
            weights = _checked_weights(logits, weights, classes)
            z = numerics.widen(logits)
            labels = jax.random.categorical(_fold(key, index), z)
            residual = jax.nn.softmax(z) - jax.nn.one_hot(labels, z.shape[-1], dtype=z.dtype)
            residual *= jnp.sqrt(weights)[..., None]
            (gradient,) = pull_back(residual.astype(logits.dtype))
            return jax.tree.map(numerics.widen, gradient), jnp.sum(weights)

        total = _total(gradient_and_weight, microbatches)
        gradient, weight = total if axis_name is None else jax.lax.psum(total, axis_name)
        weight = jnp.where(weight == 0, 1, weight)  # all positions are padding, and the gradient is 0
        return jax.tree.map(lambda g: jnp.square(numerics.squarable(g)) / weight.astype(g.dtype), gradient)

    return _estimator(estimate, key, microbatches, axis_name)


def hutchinson(
    key: jax.Array | int,
    *,
    microbatches: int | None = None,
    axis_name: Hashable | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Estimate the diagonal of the Hessian by random signs.

    ``update`` needs the parameters and ``obj_fn``, the loss as a function of them; without it, it takes
    ``value_fn``, which training loops with line searches pass.

    Args:
        key: random key, or an integer seed.
        microbatches: number n ≥ 1 of parts of the data over which to average, one at a time in memory, each
            with new signs; ``obj_fn`` is then called with the index i < n of the part, a traced int32, as its
            second argument, and ``value_fn`` is not used. None for one call without an index.
        axis_name: axis of ``pmap`` or ``shard_map`` along which the data are split; ``obj_fn`` is to return the
            loss of this replica's share. Under a sharded ``jit`` it is None.

    Returns:
        A transformation whose update is ĥ, in at least float32.

    Raises:
        TypeError: ``microbatches`` or a seed is not an integer.
        ValueError: one of them is too small; or, in ``update``, ``obj_fn`` or the parameters are missing.

    Example:
        >>> tx = hutchinson(key=0)
        >>> params = jnp.array([2.0, -1.0])
        >>> loss = lambda p: jnp.sum(p**3)  # the Hessian is diagonal, with 6 p on it
        >>> estimate, _ = tx.update(params, tx.init(params), params, obj_fn=loss)
        >>> estimate.tolist()
        [12.0, -6.0]
    """

    def estimate(params, key, *, obj_fn=None, value_fn=None, **extra_args):
        del extra_args
        loss = value_fn if obj_fn is None and microbatches is None else obj_fn
        if loss is None:
            raise ValueError(
                "hutchinson needs obj_fn, the loss as a function of the parameters: "
                "update(updates, state, params, obj_fn=...); value_fn will do where microbatches is None"
            )

        def curvature(*index):
            u = _random_signs(_fold(key, index), params)
            with checks.calling("obj_fn"):
                _, product = jax.jvp(jax.grad(lambda p: loss(p, *index)), (params,), (u,))
            return jax.tree.map(lambda u, v: numerics.widen(u) * numerics.widen(v), u, product)

        total = _total(curvature, microbatches)
        if axis_name is not None:
            total = jax.lax.pmean(total, axis_name)
        return total if microbatches is None else jax.tree.map(lambda h: h / microbatches, total)

    return _estimator(estimate, key, microbatches, axis_name)


def _estimator(
    estimate: Callable[..., optax.Updates],
    key: jax.Array | int,
    microbatches: int | None,
    axis_name: Hashable | None,
) -> optax.GradientTransformationExtraArgs:
    """The transformation around ``estimate(params, key, **extra_args)``: checks and random key."""
    checks.key("key", key)
    if microbatches is not None:
        checks.integer("microbatches", microbatches, ge=1)

    def init_fn(params):
        del params
        # A copy, because the caller's key must not be donated with the state.
        data = jnp.array(jax.random.key_data(numerics.typed_key(key)), copy=True)
        return HessianDiagonalState(data, jnp.zeros([], jnp.int32))

    def update_fn(updates, state, params=None, **extra_args):
        del updates
        checks.needs_params(params)
        if axis_name is not None:
            # Otherwise shard_map sums the cotangents of replicated parameters, and they would be summed twice.
            params = jax.lax.pcast(params, axis_name, to="varying")
        base = jax.random.wrap_key_data(state.key, impl=jax.random.key_impl(numerics.typed_key(key)))
        drawn = jax.random.fold_in(base, state.estimates)
        estimates = numerics.increment(state.estimates)
        return estimate(params, drawn, **extra_args), HessianDiagonalState(state.key, estimates)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _fold(key: jax.Array, index: tuple[jax.Array, ...]) -> jax.Array:
    return jax.random.fold_in(key, *index) if index else key


def _total(term: Callable[..., Any], microbatches: int | None) -> Any:
    """The sum of term(i) over the micro-batches, or term() without micro-batches."""
    if microbatches is None:
        return term()
    zeros = jax.tree.map(jnp.zeros_like, jax.eval_shape(term, jnp.zeros([], jnp.int32)))
    return numerics.fori_loop(microbatches, lambda i, total: jax.tree.map(jnp.add, total, term(i)), zeros)


def _checked_weights(logits: jax.Array, weights: jax.Array | None, classes: int) -> jax.Array:
    """Weights [...] of the positions of logits [..., classes], in the logits' compute dtype."""
    # A traced number of classes has no value to compare with.
    if logits.ndim == 0 or (not isinstance(classes, Tracer) and logits.shape[-1] != classes):
        raise ValueError(
            f"logits_fn must return logits of shape [..., {classes}], one per class, got shape {logits.shape}"
        )
    positions = logits.shape[:-1]
    dtype = numerics.compute_dtype(logits.dtype)
    if weights is None:
        return jnp.ones(positions, dtype)
    if jnp.shape(weights) != positions:
        raise ValueError(f"the weights of logits_fn must have shape {positions}, got {jnp.shape(weights)}")
    return jnp.asarray(weights, dtype)


def _random_signs(key: jax.Array, params: optax.Params) -> optax.Params:
    """+1 or -1 for every entry, in its leaf's dtype."""
    leaves, tree = jax.tree.flatten(params)

    def signs(i, p):
        # jax.random.rademacher draws other signs under jax_enable_x64.
        heads = jax.random.bernoulli(jax.random.fold_in(key, i), jnp.float32(0.5), p.shape)
        # The product takes its sharding from the parameter.
        return jnp.ones_like(p) * (2 * heads.astype(p.dtype) - 1)

    return tree.unflatten([signs(i, p) for i, p in enumerate(leaves)])
