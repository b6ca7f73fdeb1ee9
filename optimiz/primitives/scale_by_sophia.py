r"""Sophia's direction: momentum over the Hessian's diagonal, each coordinate clipped at ±1.

.. math::
    m &\leftarrow \beta_1 m + (1 - \beta_1)\, g, \qquad m_0 = 0 \\
    h &\leftarrow \beta_2 h + (1 - \beta_2)\, \hat h \quad \text{at updates } 0, k, 2k, \ldots \qquad h_0 = 0 \\
    d &= \operatorname{clip}\left( \frac{m}{\max(\gamma h, \epsilon)},\, -1,\, 1 \right)

Where the curvature is not positive, d is the sign of the momentum. A transformation, such as those of
``hessian_diagonal``, estimates ĥ inside ``lax.cond``, so that updates between two refreshes do not pay for it
and leave h as it is. (Under ``vmap`` over the state, JAX runs both branches at every update.)

Two scalings of this rule are in use, and numbers do not carry over between them. The first form of the authors'
code steps by η' clip(m / max(h, ε'), -ρ', ρ'): the same for η = η' ρ', γ = ρ', ε = ε' ρ'. Its later form
divides by ρ B h, with B, the number of labels, outside h: the same for γ = ρ where ĥ holds the B, as it does
in ``gauss_newton_bartlett``, and for γ = ρ B where ĥ is a bare squared gradient.

Source: arXiv 2305.14342 (Liu et al.), Algorithm 3.

Departures from the authors' later code: the maximum with ε, as in the paper, instead of adding it; the two
differ where γ h is about as small as ε, and only the first bears a negative h.

Departures from ``optax.contrib.sophia``: the momentum is not debiased, and the step of a refresh uses the new h
(``debias=True`` and ``refresh="after_step"`` give Optax's, whose first step is a pure sign step); moments are
float32 for bfloat16 parameters unless another dtype is given; a tree without leaves works; the share of
coordinates that are not clipped is kept in the state instead of being printed by a host callback; there is no
``clip_threshold``, which is the first scaling above. An infinite momentum or curvature gives NaN, where a clip
or a division would make a clean step of it.
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optimiz import checks, numerics


class ScaleBySophiaState(NamedTuple):
    """State of :func:`scale_by_sophia`."""

    count: jax.Array  # int32 scalar: updates made so far
    mu: optax.Updates  # like the parameters: m
    nu: optax.Updates  # like the parameters: h
    hessian_fn_state: Any
    unclipped: jax.Array  # float32 scalar: share of coordinates with |d| < 1; the authors keep it in [0.1, 0.5]
    without_curvature: jax.Array  # int32 scalar: leaves whose last ĥ was all zero


def scale_by_sophia(
    b1: jax.typing.ArrayLike,
    b2: jax.typing.ArrayLike,
    eps: jax.typing.ArrayLike,
    gamma: jax.typing.ArrayLike,
    *,
    update_interval: jax.typing.ArrayLike,
    hessian_diagonal_fn: optax.GradientTransformation,
    mu_dtype: jax.typing.DTypeLike | None = None,
    nu_dtype: jax.typing.DTypeLike | None = None,
    debias: bool = False,
    refresh: Literal["before_step", "after_step"] = "before_step",
) -> optax.GradientTransformationExtraArgs:
    """Rescale updates by Sophia's rule.

    ``update`` needs the parameters and, at every call because one compiled step serves them all, what
    ``hessian_diagonal_fn`` asks for. A leaf that never gets curvature, because the logits do not depend on it
    or the loss is linear in it, takes pure sign steps: ``without_curvature`` in the state counts the leaves
    whose last ĥ was all zero, and where ``nu`` is still all zero it always was.

    Args:
        b1: β₁ in [0, 1), decay rate of the momentum.
        b2: β₂ in [0, 1), decay rate of h, per refresh.
        eps: ε ≥ 0, smallest denominator.
        gamma: γ ≥ 0, factor of h. The smaller it is, the more coordinates are clipped.
        update_interval: k ≥ 1, number of updates from one refresh of h to the next.
        hessian_diagonal_fn: transformation whose update is ĥ; it is given the updates, the parameters and all
            extra arguments.
        mu_dtype: dtype of the momentum; None for the parameters' dtype, at least float32.
        nu_dtype: dtype of h; None for the parameters' dtype, at least float32.
        debias: whether to divide the momentum by 1 - β₁ᵗ before it is clipped.
        refresh: whether the step of a refresh uses the new h (``"before_step"``) or the old one
            (``"after_step"``).

    Returns:
        A transformation that keeps its updates' dtype.

    Raises:
        TypeError: an argument has the wrong type, or ``update_interval`` not an integer.
        ValueError: it is outside its domain, or the shape of a gradient or of ĥ is not its parameter's; or
            ``update`` is not given the parameters.

    Example:
        >>> curvature = optax.stateless(lambda updates, params: jnp.array([2.0, 0.5]))
        >>> tx = scale_by_sophia(0.0, 0.0, 1e-12, 1.0, update_interval=10, hessian_diagonal_fn=curvature)
        >>> params = jnp.zeros(2)
        >>> updates, state = tx.update(jnp.array([1.0, -1.0]), tx.init(params), params)
        >>> updates.tolist(), float(state.unclipped)  # 1 / 2, and -1 / 0.5 clipped
        ([0.5, -1.0], 0.5)
    """
    checks.number("b1", b1, ge=0, lt=1)
    checks.number("b2", b2, ge=0, lt=1)
    checks.number("eps", eps, ge=0, typical=1e-12)
    checks.number("gamma", gamma, ge=0)
    checks.integer("update_interval", update_interval, ge=1)
    checks.one_of("refresh", refresh, ("before_step", "after_step"))
    checks.transformation("hessian_diagonal_fn", hessian_diagonal_fn)
    hessian_diagonal_fn = optax.with_extra_args_support(hessian_diagonal_fn)

    def init_fn(params):
        return ScaleBySophiaState(
            count=jnp.zeros([], jnp.int32),
            mu=jax.tree.map(lambda p: numerics.zero_moment(p, mu_dtype), params),
            nu=jax.tree.map(lambda p: numerics.zero_moment(p, nu_dtype), params),
            hessian_fn_state=hessian_diagonal_fn.init(params),
            unclipped=jnp.zeros([], jnp.float32),
            without_curvature=jnp.zeros([], jnp.int32),
        )

    def update_fn(updates, state, params=None, **extra_args):
        checks.needs_params(params)
        checks.same_shapes("gradient", updates, "parameter", state.mu)
        count = numerics.increment(state.count)

        def refreshed():
            estimate, fn_state = hessian_diagonal_fn.update(
                updates, state.hessian_fn_state, params, **extra_args
            )
            checks.same_shapes("curvature", estimate, "parameter", state.nu)

            def average(new, h):
                return (b2 * numerics.widen(h) + (1 - b2) * numerics.widen(new)).astype(h.dtype)

            return jax.tree.map(average, estimate, state.nu), fn_state, _zero_leaves(estimate)

        nu, hessian_fn_state, without_curvature = numerics.cond(
            state.count % update_interval == 0,
            refreshed,
            lambda: (state.nu, state.hessian_fn_state, state.without_curvature),
        )

        corrections = numerics.bias_corrections(b1, count, updates) if debias else {}

        def leaf(g, mu, h):
            wide = numerics.widen(g)
            m = b1 * mu.astype(wide.dtype) + (1 - b1) * wide
            m_hat = m / corrections[numerics.real_dtype(g.dtype)] if debias else m
            floor = jnp.maximum(gamma * h.astype(wide.dtype), eps)
            # The comparison this way round, so that a NaN on either side comes through.
            direction = jnp.where(jnp.abs(m_hat) >= floor, jnp.sign(m_hat), m_hat / floor)
            direction = jnp.where(jnp.isinf(m) | jnp.isinf(h), jnp.nan, direction)
            unclipped = jnp.sum(jnp.abs(direction) < 1, dtype=jnp.float32)
            return direction.astype(g.dtype), m.astype(mu.dtype), unclipped

        direction, mu, unclipped = numerics.map_many(
            leaf, 3, updates, state.mu, nu if refresh == "before_step" else state.nu
        )
        coordinates = float(max(1, sum(g.size for g in jax.tree.leaves(updates))))  # may exceed an int32
        share = sum(jax.tree.leaves(unclipped), start=jnp.zeros([], jnp.float32)) / coordinates
        return direction, ScaleBySophiaState(count, mu, nu, hessian_fn_state, share, without_curvature)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _zero_leaves(estimate: optax.Updates) -> jax.Array:
    zero = [jnp.all(h == 0) for h in jax.tree.leaves(estimate) if h.size]
    return sum((z.astype(jnp.int32) for z in zero), start=jnp.zeros([], jnp.int32))
