r"""Sophia-H: momentum over Hutchinson's Hessian diagonal, clipped, with decoupled weight decay.

.. math::
    m &\leftarrow \beta_1 m + (1 - \beta_1)\, g \\
    h &\leftarrow \beta_2 h + (1 - \beta_2)\, u \odot (\nabla^2 L\; u) \quad
        \text{every k updates, from the first} \\
    \theta &\leftarrow \theta - \eta_t \left( \operatorname{clip}\left(
        \frac{m}{\max(\gamma h, \epsilon)}, -1, 1 \right) + \lambda\, \theta \right)

u has random signs. ``update`` needs ``obj_fn`` or ``value_fn``, the loss as a function of the parameters; see
``optimiz.hutchinson``.

Source: arXiv 2305.14342 (Liu et al.), whose defaults these are.

Departures from the released code: those of ``optimiz.scale_by_sophia`` and ``optimiz.hutchinson``; and no
debiasing, as in the paper (the code divides by 1 - β₁ᵗ outside the clip, which lets a first step be 10 η).

Departures from ``optax.contrib.sophia``: those of the same two pages, and the defaults. Optax's trajectory, but
for the draws of u, is that of ``sophia_h(η, 0.965, 0.99, 1e-8, 1e-4, debias=True, refresh="after_step")``.
"""

from collections.abc import Callable, Hashable
from typing import Any, Literal

import jax
import optax

from optimiz.primitives.decoupled_weight_decay import Coupling, decoupled_weight_decay
from optimiz.primitives.hessian_diagonal import hutchinson
from optimiz.primitives.scale_by_learning_rate import scale_by_learning_rate
from optimiz.primitives.scale_by_sophia import scale_by_sophia


def sophia_h(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.96,
    b2: jax.typing.ArrayLike = 0.99,
    eps: jax.typing.ArrayLike = 1e-12,
    weight_decay: optax.ScalarOrSchedule = 0.2,
    weight_decay_mask: Any | Callable[[optax.Params], Any] | None = None,
    gamma: jax.typing.ArrayLike = 0.01,
    *,
    update_interval: jax.typing.ArrayLike = 10,
    key: jax.Array | int = 0,
    microbatches: int | None = None,
    axis_name: Hashable | None = None,
    mu_dtype: jax.typing.DTypeLike | None = None,
    nu_dtype: jax.typing.DTypeLike | None = None,
    decay_coupling: Coupling = "learning_rate",
    debias: bool = False,
    refresh: Literal["before_step", "after_step"] = "before_step",
) -> optax.GradientTransformationExtraArgs:
    """Second-order clipped stochastic optimization with Hutchinson's estimator.

    ``update`` needs the parameters and ``obj_fn``, the loss as a function of them on this step's data; where
    there is none it takes ``value_fn``, which ``optimiz.training`` offers.

    Args:
        learning_rate: learning rate η ≥ 0, a number or a schedule of the 0-based update count.
        b1: β₁ in [0, 1), decay rate of the momentum.
        b2: β₂ in [0, 1), decay rate of h, per refresh.
        eps: ε ≥ 0, smallest denominator.
        weight_decay: decoupled weight decay λ ≥ 0, a number or a schedule.
        weight_decay_mask: mask of the parameters that decay, such as ``groups.no_decay()``; None for all.
        gamma: γ ≥ 0, factor of h. Raise it if fewer than a tenth of the coordinates are left unclipped, see
            ``unclipped`` in the state.
        update_interval: k ≥ 1, number of updates from one refresh of h to the next.
        key: random key for the signs, or an integer seed.
        microbatches: number n ≥ 1 of parts of the data over which to average, one at a time in memory;
            ``obj_fn`` is then called with the index of the part as its second argument. None for one call
            without an index.
        axis_name: name of the axis of ``pmap`` or ``shard_map`` along which the data are split.
        mu_dtype: dtype of the momentum; None for the parameters' dtype, at least float32.
        nu_dtype: dtype of h; None for the parameters' dtype, at least float32.
        decay_coupling: how the decay scales with the learning rate, see ``optimiz.decoupled_weight_decay``.
        debias: whether to divide the momentum by 1 - β₁ᵗ before it is clipped.
        refresh: whether the step of a refresh uses the new h (``"before_step"``) or the old one
            (``"after_step"``).

    Returns:
        A transformation whose ``update`` needs the parameters and ``obj_fn`` or ``value_fn``.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is outside its domain, or a gradient has another shape than its parameter; or,
            in ``update``, ``obj_fn`` is missing.

    Example:
        >>> import jax.numpy as jnp
        >>> tx = sophia_h(0.5, b1=0.5, b2=0.5, gamma=1.0, weight_decay=0.0)
        >>> params = jnp.array([1.0])
        >>> loss = lambda p: jnp.sum(2 * p**2)  # gradient 4, curvature 4
        >>> updates, _ = tx.update(jnp.array([1.0]), tx.init(params), params, obj_fn=loss)
        >>> updates.tolist()  # -0.5 × 0.5 / 2
        [-0.125]
    """
    return optax.chain(
        scale_by_sophia(
            b1,
            b2,
            eps,
            gamma,
            update_interval=update_interval,
            hessian_diagonal_fn=hutchinson(key, microbatches=microbatches, axis_name=axis_name),
            mu_dtype=mu_dtype,
            nu_dtype=nu_dtype,
            debias=debias,
            refresh=refresh,
        ),
        decoupled_weight_decay(
            weight_decay, weight_decay_mask, coupling=decay_coupling, learning_rate=learning_rate
        ),
        scale_by_learning_rate(learning_rate, counted_elsewhere=True),
    )
