r"""Momentum in four forms.

.. math::
    \text{trace:}          \quad & m \leftarrow \mu m + g             && m_0 = 0 \\
    \text{dampened trace:} \quad & m \leftarrow \mu m + (1 - \tau) g  && m_1 = g \\
    \text{ema:}            \quad & m \leftarrow \mu m + (1 - \mu) g   && m_0 = 0 \\
    \text{seeded ema:}     \quad & \text{the same, but } m_1 = g

At an equal learning rate the trace steps 1 / (1 - μ) times as far as the averages. The seeded average starts
at the first update and needs no bias correction; the same holds for the dampened trace, which is PyTorch's.

Departures from ``optax.trace`` and ``optax.ema``: the arithmetic is float32 for bfloat16 and float16
parameters, and so is the state of the averages unless another dtype is given (that of ``trace`` has the
parameters', as Optax's); the state keeps its dtype whatever the gradients' (Optax's turns float32 when
float32 gradients meet bfloat16 parameters, which ``scan`` refuses); a gradient of the wrong shape is refused
where Optax broadcasts it.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optimiz import checks, numerics


class TraceState(NamedTuple):
    """State of :func:`trace`."""

    trace: optax.Updates  # like the parameters


class DampenedTraceState(NamedTuple):
    """State of :func:`trace` with dampening."""

    count: jax.Array  # int32 scalar: updates made so far
    trace: optax.Updates  # like the parameters


class EmaState(NamedTuple):
    """State of :func:`ema`."""

    mu: optax.Updates  # like the parameters


class SeededEmaState(NamedTuple):
    """State of :func:`seeded_ema`."""

    count: jax.Array  # int32 scalar: updates made so far
    mu: optax.Updates  # like the parameters


def trace(
    decay: jax.typing.ArrayLike,
    nesterov: bool = False,
    accumulator_dtype: jax.typing.DTypeLike | None = None,
    *,
    dampening: jax.typing.ArrayLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Heavy-ball momentum: the decayed sum of all updates.

    Args:
        decay: μ in [0, 1), decay rate of the momentum.
        nesterov: whether to return g + μ m (Nesterov's momentum), not m.
        accumulator_dtype: dtype of the state; None for the parameters' dtype.
        dampening: τ in [0, 1], PyTorch's dampening: every update but the first enters with weight 1 - τ. None
            or 0 for no dampening.

    Returns:
        A transformation that keeps its updates' dtype.

    Raises:
        TypeError: ``decay`` or ``dampening`` is not a number.
        ValueError: one of them is outside its domain; there is dampening with ``nesterov``, which has no such
            form; or a gradient has another shape than its parameter.

    Example:
        >>> tx = trace(0.5)
        >>> state = tx.init(jnp.zeros(1))
        >>> for _ in range(3):  # 2; 0.5 × 2 + 2; 0.5 × 3 + 2
        ...     updates, state = tx.update(jnp.array([2.0]), state)
        >>> updates.tolist()
        [3.5]
    """
    checks.floating("accumulator_dtype", accumulator_dtype)
    checks.number("decay", decay, ge=0, lt=1)
    if dampening is not None:
        checks.number("dampening", dampening, ge=0, le=1)
    if dampening is not None and not checks.is_zero(dampening):
        return _dampened_trace(decay, nesterov, accumulator_dtype, dampening)

    def update_fn(updates, state, params=None, **extra_args):
        del params, extra_args
        m = _advance(lambda m, g: numerics.times(decay, m) + numerics.widen(g), updates, state.trace)
        direction = m
        if nesterov:
            direction = numerics.map_leaves(lambda g, m: numerics.widen(g) + decay * m, updates, m)
        return _cast_like(direction, updates), TraceState(_cast_like(m, state.trace))

    return optax.GradientTransformationExtraArgs(
        lambda params: TraceState(optax.tree.zeros_like(params, dtype=accumulator_dtype)), update_fn
    )


def ema(
    decay: jax.typing.ArrayLike, accumulator_dtype: jax.typing.DTypeLike | None = None
) -> optax.GradientTransformationExtraArgs:
    """Exponential moving average of the updates, from zero and without bias correction.

    Args:
        decay: μ in [0, 1), decay rate of the momentum.
        accumulator_dtype: dtype of the state; None for the parameters' dtype, at least float32.

    Returns:
        A transformation that keeps its updates' dtype.

    Raises:
        TypeError: ``decay`` is not a number.
        ValueError: ``decay`` is outside [0, 1), or a gradient has another shape than its parameter.

    Example:
        >>> tx = ema(0.5)
        >>> state = tx.init(jnp.zeros(1))
        >>> for _ in range(2):  # 0.5 × 0 + 0.5 × 8; 0.5 × 4 + 0.5 × 8
        ...     updates, state = tx.update(jnp.array([8.0]), state)
        >>> updates.tolist()
        [6.0]
    """
    checks.number("decay", decay, ge=0, lt=1)

    def update_fn(updates, state, params=None, **extra_args):
        del params, extra_args
        mu = _advance(lambda m, g: numerics.times(decay, m) + numerics.times(1 - decay, g), updates, state.mu)
        return _cast_like(mu, updates), EmaState(_cast_like(mu, state.mu))

    return optax.GradientTransformationExtraArgs(
        lambda params: EmaState(_zeros(params, accumulator_dtype)), update_fn
    )


def seeded_ema(
    decay: jax.typing.ArrayLike, accumulator_dtype: jax.typing.DTypeLike | None = None
) -> optax.GradientTransformationExtraArgs:
    """Exponential moving average that starts at the first update instead of at zero.

    Args:
        decay: μ in [0, 1), decay rate of the average; 0 returns every update unchanged.
        accumulator_dtype: dtype of the state; None for the parameters' dtype, at least float32.

    Returns:
        A transformation that keeps its updates' dtype.

    Raises:
        TypeError: ``decay`` is not a number.
        ValueError: ``decay`` is outside [0, 1), or a gradient has another shape than its parameter.

    Example:
        >>> tx = seeded_ema(0.5)
        >>> state = tx.init(jnp.zeros(1))
        >>> for g in (8.0, 4.0):  # 8; 0.5 × 8 + 0.5 × 4
        ...     updates, state = tx.update(jnp.array([g]), state)
        >>> updates.tolist()
        [6.0]
    """
    checks.number("decay", decay, ge=0, lt=1)

    def init_fn(params):
        return SeededEmaState(jnp.zeros([], jnp.int32), _zeros(params, accumulator_dtype))

    def update_fn(updates, state, params=None, **extra_args):
        del params, extra_args
        mu = _advance_from_first(decay, 1 - decay, state.count, updates, state.mu)
        count = numerics.increment(state.count)
        return _cast_like(mu, updates), SeededEmaState(count, _cast_like(mu, state.mu))

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _dampened_trace(
    decay: jax.typing.ArrayLike,
    nesterov: bool,
    accumulator_dtype: jax.typing.DTypeLike | None,
    dampening: jax.typing.ArrayLike,
) -> optax.GradientTransformationExtraArgs:
    if nesterov:
        raise ValueError(f"Nesterov's momentum has no dampening: leave out nesterov or dampening={dampening}")

    def init_fn(params):
        return DampenedTraceState(
            jnp.zeros([], jnp.int32), optax.tree.zeros_like(params, dtype=accumulator_dtype)
        )

    def update_fn(updates, state, params=None, **extra_args):
        del params, extra_args
        m = _advance_from_first(decay, 1 - dampening, state.count, updates, state.trace)
        count = numerics.increment(state.count)
        return _cast_like(m, updates), DampenedTraceState(count, _cast_like(m, state.trace))

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _zeros(params: optax.Params, dtype: jax.typing.DTypeLike | None) -> optax.Updates:
    return jax.tree.map(lambda p: numerics.zero_moment(p, dtype), params)


def _advance(
    rule: Callable[[jax.Array, jax.Array], Any], updates: optax.Updates, m: optax.Updates
) -> optax.Updates:
    checks.same_shapes("gradient", updates, "parameter", m)
    return numerics.map_leaves(lambda g, m: rule(m, g), updates, m)


def _advance_from_first(
    decay: jax.typing.ArrayLike,
    weight: jax.typing.ArrayLike,
    count: jax.Array,
    updates: optax.Updates,
    m: optax.Updates,
) -> optax.Updates:
    """μ m + weight · g, and g itself at the first update."""
    dtypes = {numerics.real_dtype(x.dtype) for x in jax.tree.leaves(m)}
    dtype = functools.reduce(jnp.promote_types, dtypes, jnp.dtype(jnp.float32))
    old, new = _weights(decay, weight, count, dtype)
    return _advance(lambda m, g: numerics.times(old, m) + numerics.times(new, g), updates, m)


def _cast_like(tree: optax.Updates, like: optax.Updates) -> optax.Updates:
    return jax.tree.map(lambda x, y: x if x.dtype == y.dtype else x.astype(y.dtype), tree, like)


@functools.partial(numerics.dispatched_once, static=("dtype",))
def _weights(
    decay: jax.typing.ArrayLike, weight: jax.typing.ArrayLike, count: jax.Array, dtype: jnp.dtype
) -> list[jax.Array]:
    # Scalars, for numerics.fusion, rule 4.
    first = count == 0
    return [jnp.where(first, a, jnp.asarray(b, dtype)) for a, b in ((0, decay), (1, weight))]
