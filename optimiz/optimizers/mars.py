r"""MARS-AdamW: AdamW on a gradient whose variance is reduced by the last one.

.. math::
    c &= g_t + \gamma\, \frac{\beta_1}{1 - \beta_1}\, (g_t - g_{t-1}), \qquad
        c \leftarrow c / \max(1, \|c\|), \qquad g_0 = 0 \\
    m &\leftarrow \beta_1 m + (1 - \beta_1)\, c, \qquad v \leftarrow \beta_2 v + (1 - \beta_2)\, |c|^2 \\
    \theta &\leftarrow \theta - \eta_t \left( \frac{m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + \epsilon}
        + \lambda\, \theta \right)

The norm is that of one parameter tensor, or of one layer of a tensor that ``nn.scan`` has stacked. The last
gradient is that of the last batch, which the paper calls approximate; the exact form takes the gradient of the
present batch at the last parameters, and twice the time.

Source: arXiv 2411.10438 (Yuan et al.) and the authors' code.

Departures from the authors' code: the rule holds for all parameters, which is their option ``optimize_1d``;
they leave vectors to AdamW, for which ``optax.partition`` is the means here; stacked layers; those of
``optimiz.scale_by_adam``.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optimiz import checks, groups, numerics
from optimiz.primitives.decoupled_weight_decay import Coupling, decoupled_weight_decay
from optimiz.primitives.low_memory_update import low_memory_update
from optimiz.primitives.scale_by_adam import scale_by_adam
from optimiz.primitives.scale_by_learning_rate import scale_by_learning_rate


class ReduceVarianceState(NamedTuple):
    """State of the corrected gradient of :func:`mars`."""

    grad: optax.Updates  # the last gradient; like the parameters, at least float32


def _reduce_variance(
    gamma: jax.typing.ArrayLike, b1: jax.typing.ArrayLike, scanned: Mapping[str, int] | None
) -> optax.GradientTransformationExtraArgs:
    """The gradient, corrected by its difference from the last one, and clipped by its norm."""
    checks.number("gamma", gamma, ge=0)

    def init_fn(params):
        groups.scanned_axes(params, scanned)  # raises here, not at the first update, if a pattern does not fit
        return ReduceVarianceState(jax.tree.map(lambda p: numerics.zero_moment(p, None), params))

    def update_fn(updates, state, params=None, **extra_args):
        del params, extra_args
        checks.same_shapes("gradient", updates, "parameter", state.grad)
        grads = jax.tree.map(lambda g, last: numerics.widen(g).astype(last.dtype), updates, state.grad)
        weight = gamma * b1 / (1 - b1)
        leaves, structure = jax.tree.flatten(
            jax.tree.map(lambda g, last: g + weight * (g - last), grads, state.grad)
        )
        axes = numerics.axes_of_blocks(leaves, groups.scanned_axes(updates, scanned))
        norms = numerics.block_norms(lambda: leaves, axes)
        clipped = [c / jnp.maximum(1, norm) for c, norm in zip(leaves, norms, strict=True)]
        return structure.unflatten(clipped), ReduceVarianceState(grads)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def mars(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.95,
    b2: jax.typing.ArrayLike = 0.99,
    eps: jax.typing.ArrayLike = 1e-8,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    mask: Any | Callable[[optax.Params], Any] | None = None,
    *,
    gamma: jax.typing.ArrayLike = 0.025,
    weight_decay_mask: Any | Callable[[optax.Params], Any] | None = None,
    decay_coupling: Coupling = "learning_rate",
    scanned: Mapping[str, int] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """AdamW on gradients of reduced variance.

    Args:
        learning_rate: learning rate η ≥ 0, a number or a schedule of the 0-based update count; as for AdamW.
        b1: β₁ in [0, 1), decay rate of the first moment, and in the weight of the correction.
        b2: β₂ in [0, 1), decay rate of the second moment.
        eps: ε ≥ 0, added to the root of the second moment.
        weight_decay: decoupled weight decay λ ≥ 0, a number or a schedule.
        mask: mask of the parameters that decay, such as ``groups.no_decay()``; None for all.
        gamma: γ ≥ 0, strength of the correction; 0 for none.
        weight_decay_mask: alias of ``mask``, under the name that all optimizers share.
        decay_coupling: how the decay scales with the learning rate, see ``optimiz.decoupled_weight_decay``.
        scanned: axis along which layers are stacked, by pattern of path, such as ``{"^layers/": 0}``; the
            gradient of each layer is clipped by itself.

    Returns:
        A transformation whose ``update`` needs the parameters if there is weight decay.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is outside its domain, or the shape of a gradient differs from that of its
            parameter.

    Example:
        >>> tx = mars(0.5, weight_decay=0.5)
        >>> params = jnp.array([1.0])
        >>> updates, _ = tx.update(jnp.array([3.0]), tx.init(params), params)
        >>> updates.round(4).tolist()  # -0.5 × (1 + 0.5 × 1)
        [-0.75]
    """
    chain = optax.chain(
        _reduce_variance(gamma, b1, scanned),
        scale_by_adam(b1, b2, eps, 0.0),
        decoupled_weight_decay(
            weight_decay,
            checks.either("mask", mask, "weight_decay_mask", weight_decay_mask),
            coupling=decay_coupling,
            learning_rate=learning_rate,
        ),
        scale_by_learning_rate(learning_rate, counted_elsewhere=True),
    )
    return low_memory_update(chain)  # numerics.fusion, rule 1, for the norm of c
