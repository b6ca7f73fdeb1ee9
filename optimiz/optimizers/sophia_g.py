r"""Sophia-G: momentum over a Gauss-Newton diagonal from sampled labels, clipped, with decoupled weight decay.

.. math::
    m &\leftarrow \beta_1 m + (1 - \beta_1)\, g \\
    h &\leftarrow \beta_2 h + (1 - \beta_2)\, B\, \hat g^2 \quad \text{every k updates, from the first} \\
    \theta &\leftarrow \theta - \eta_t \left( \operatorname{clip}\left(
        \frac{m}{\max(\gamma h, \epsilon)}, -1, 1 \right) + \lambda\, \theta \right)

ĝ is the gradient of the mean cross-entropy on B labels drawn from the model's own logits. So the optimizer is
for losses that are cross-entropies, and ``update`` needs ``logits_fn``; see ``optimiz.gauss_newton_bartlett``.

Source: arXiv 2305.14342 (Liu et al.), whose defaults these are. The authors' released runs have β₁ = 0.965 and
γ, their ρ, between 0.01 and 0.1. The scaling of the step by each parameter's root mean square is that of the T5
experiments of arXiv 2307.06440.

Departures from the released code and from arXiv 2307.06440: those of ``optimiz.scale_by_sophia`` and
``optimiz.gauss_newton_bartlett``. Where the step is scaled by the parameter, its root mean square is taken
before the decay of the same step, not after it: a factor of 1 - η λ.
"""

from collections.abc import Callable, Hashable
from typing import Any

import jax
import optax

from optimiz import checks
from optimiz.primitives.decoupled_weight_decay import Coupling, decoupled_weight_decay
from optimiz.primitives.hessian_diagonal import gauss_newton_bartlett
from optimiz.primitives.scale_by_learning_rate import scale_by_learning_rate
from optimiz.primitives.scale_by_sophia import scale_by_sophia


def sophia_g(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.96,
    b2: jax.typing.ArrayLike = 0.99,
    eps: jax.typing.ArrayLike = 1e-12,
    weight_decay: optax.ScalarOrSchedule = 0.2,
    weight_decay_mask: Any | Callable[[optax.Params], Any] | None = None,
    gamma: jax.typing.ArrayLike = 0.05,
    *,
    classes: int,
    update_interval: jax.typing.ArrayLike = 10,
    key: jax.Array | int = 0,
    microbatches: int | None = None,
    axis_name: Hashable | None = None,
    mu_dtype: jax.typing.DTypeLike | None = None,
    nu_dtype: jax.typing.DTypeLike | None = None,
    decay_coupling: Coupling = "learning_rate",
    scale_by_param_rms: bool = False,
    min_rms: float = 1e-3,
) -> optax.GradientTransformationExtraArgs:
    """Second-order clipped stochastic optimization with the Gauss-Newton-Bartlett estimator.

    ``update`` needs the parameters and ``logits_fn``, a function of them that returns logits [..., classes] on
    this step's data, or a pair of logits and the weights [...] of their positions in the mean loss.

    Args:
        learning_rate: learning rate η ≥ 0, a number or a schedule of the 0-based update count.
        b1: β₁ in [0, 1), decay rate of the momentum.
        b2: β₂ in [0, 1), decay rate of h, per refresh.
        eps: ε ≥ 0, smallest denominator.
        weight_decay: decoupled weight decay λ ≥ 0, a number or a schedule.
        weight_decay_mask: mask of the parameters that decay, such as ``groups.no_decay()``; None for all.
        gamma: γ ≥ 0, factor of h. Raise it if fewer than a tenth of the coordinates are left unclipped, see
            ``unclipped`` in the state.
        classes: number of classes, or size of the vocabulary, ≥ 2; the length of the logits' last axis.
        update_interval: k ≥ 1, number of updates from one refresh of h to the next.
        key: random key for the labels, or an integer seed.
        microbatches: number n ≥ 1 of parts of the data from which to estimate, one at a time in memory;
            ``logits_fn`` is then called with the index of the part as its second argument. None for one call
            without an index.
        axis_name: name of the axis of ``pmap`` or ``shard_map`` along which the data are split.
        mu_dtype: dtype of the momentum; None for the parameters' dtype, at least float32.
        nu_dtype: dtype of h; None for the parameters' dtype, at least float32.
        decay_coupling: how the decay scales with the learning rate, see ``optimiz.decoupled_weight_decay``.
        scale_by_param_rms: whether to multiply each parameter's step, without the decay, by the parameter's
            root mean square.
        min_rms: lower bound of that factor, > 0.

    Returns:
        A transformation whose ``update`` needs the parameters and ``logits_fn``.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is outside its domain, or a gradient has another shape than its parameter; or,
            in ``update``, ``logits_fn`` is missing or its logits do not have one entry per class.

    Example:
        >>> import jax.numpy as jnp
        >>> tx = sophia_g(0.5, b1=0.5, b2=0.0, gamma=16.0, weight_decay=0.0, classes=2)
        >>> params = jnp.zeros(2)  # logits of equal probability: h = 1/4
        >>> gradient = jnp.array([0.5, -0.5])
        >>> updates, _ = tx.update(gradient, tx.init(params), params, logits_fn=lambda z: z)
        >>> updates.tolist()  # -0.5 × 0.25 / (16 × 0.25)
        [-0.03125, 0.03125]
    """
    checks.number("min_rms", min_rms, gt=0)
    return optax.chain(
        scale_by_sophia(
            b1,
            b2,
            eps,
            gamma,
            update_interval=update_interval,
            hessian_diagonal_fn=gauss_newton_bartlett(
                classes, key, microbatches=microbatches, axis_name=axis_name
            ),
            mu_dtype=mu_dtype,
            nu_dtype=nu_dtype,
        ),
        optax.scale_by_param_block_rms(min_rms) if scale_by_param_rms else optax.identity(),
        decoupled_weight_decay(
            weight_decay, weight_decay_mask, coupling=decay_coupling, learning_rate=learning_rate
        ),
        scale_by_learning_rate(learning_rate, counted_elsewhere=True),
    )
