r"""StableAdamW: AdamW that shortens the step of a tensor whose second moment is out of date.

With Adam's corrected moments :math:`\hat m` and :math:`\hat v`, for each parameter tensor:

.. math::
    \rho &= \sqrt{\operatorname{mean}\left(|g|^2 / \max(\hat v, \epsilon^2)\right)} \\
    \theta &\leftarrow \theta - \frac{\eta_t}{\max(1, \rho / d)}
        \left( \frac{\hat m}{\sqrt{\hat v} + \epsilon} + \lambda\, \theta \right)

ρ is 1 where the second moment expects gradients as large as the present one, and at most
:math:`1 / \sqrt{1 - \beta_2}`. It takes the place of clipping the gradient by its global norm.

Source: arXiv 2304.13013 (Wortsman et al.), Algorithm 2; the defaults are those of the package ``torch-optimi``.

Departures from the source: d, which is 1 there; layers of a tensor that ``nn.scan`` has stacked are shortened
each by itself; those of ``optimiz.scale_by_adam``.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from optimiz import checks, groups, numerics
from optimiz.primitives.decoupled_weight_decay import Coupling, decoupled_weight_decay
from optimiz.primitives.low_memory_update import low_memory_update
from optimiz.primitives.scale_by_adam import ScaleByAdamState, scale_by_adam
from optimiz.primitives.scale_by_learning_rate import scale_by_learning_rate


def stable_adamw(
    learning_rate: optax.ScalarOrSchedule,
    b1: jax.typing.ArrayLike = 0.9,
    b2: jax.typing.ArrayLike = 0.99,
    eps: jax.typing.ArrayLike = 1e-6,
    weight_decay: optax.ScalarOrSchedule = 1e-2,
    mask: Any | Callable[[optax.Params], Any] | None = None,
    *,
    clip_rms: jax.typing.ArrayLike = 1.0,
    weight_decay_mask: Any | Callable[[optax.Params], Any] | None = None,
    decay_coupling: Coupling = "learning_rate",
    scanned: Mapping[str, int] | None = None,
    mu_dtype: jax.typing.DTypeLike | None = None,
    nu_dtype: jax.typing.DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """AdamW that clips the update of each tensor, and needs no clipping of the gradient.

    Args:
        learning_rate: learning rate η ≥ 0, a number or a schedule of the 0-based update count.
        b1: β₁ in [0, 1), decay rate of the first moment.
        b2: β₂ in [0, 1), decay rate of the second moment.
        eps: ε ≥ 0, added to the root of the second moment.
        weight_decay: decoupled weight decay λ ≥ 0, a number or a schedule; it is shortened with the step.
        mask: mask of the parameters that decay, such as ``groups.no_decay()``; None for all.
        clip_rms: d > 0, the largest ρ for which a step keeps its length.
        weight_decay_mask: alias of ``mask``, under the name that all optimizers share.
        decay_coupling: how the decay scales with the learning rate, see ``optimiz.decoupled_weight_decay``.
        scanned: axis along which layers are stacked, by pattern of path, such as ``{"^layers/": 0}``; each
            layer has a ρ of its own.
        mu_dtype: dtype of the first moment; None for the parameters' dtype.
        nu_dtype: dtype of the second moment; None for the parameters' dtype, at least float32.

    Returns:
        A transformation whose ``update`` needs the parameters if there is weight decay.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is outside its domain, or a gradient has another shape than its parameter.

    Example:
        >>> tx = stable_adamw(0.5, b1=0.0, b2=0.5, weight_decay=0.0)
        >>> params = jnp.array([1.0])
        >>> updates, state = tx.update(jnp.array([1.0]), tx.init(params), params)
        >>> updates, _ = tx.update(jnp.array([7.0]), state, params)
        >>> round(float(updates[0]), 4)  # g² / v̂ = 49 / 33, so that -0.5 × 7 / √33 is divided by 7 / √33
        -0.5
    """
    checks.number("clip_rms", clip_rms, gt=0)
    directions = optax.chain(
        scale_by_adam(b1, b2, eps, 0.0, mu_dtype, nu_dtype=nu_dtype),
        decoupled_weight_decay(
            weight_decay,
            checks.either("mask", mask, "weight_decay_mask", weight_decay_mask),
            coupling=decay_coupling,
            learning_rate=learning_rate,
        ),
    )

    def init_fn(params):
        groups.scanned_axes(params, scanned)  # raises here, not at the first update, if a pattern does not fit
        return directions.init(params)

    def update_fn(updates, state, params=None, **extra_args):
        del extra_args
        whole, state = directions.update(updates, state, params)
        adam: Any = jax.tree.leaves(state, is_leaf=lambda node: isinstance(node, ScaleByAdamState))[0]
        of_v = numerics.bias_corrections(b2, adam.count, updates)
        leaves, structure = jax.tree.flatten(updates)

        def leaf(g, d, nu, axes):
            real = numerics.real_dtype(g.dtype)
            v = jnp.maximum(nu.astype(real) / of_v[real], jnp.square(jnp.asarray(eps, real)))
            # Where v is 0 the gradient is 0. The share is at most 1 / (1 - β₂).
            share = numerics.limited_square(numerics.widen(g)) / numerics.nonzero_divisor(v, eps)
            rms = jnp.sqrt(jnp.mean(share, axis=axes, keepdims=True)) if g.size else jnp.ones([], real)
            return (numerics.widen(d) / jnp.maximum(1, rms / clip_rms)).astype(d.dtype)

        axes = numerics.axes_of_blocks(leaves, groups.scanned_axes(updates, scanned))
        columns = structure.flatten_up_to(whole), structure.flatten_up_to(adam.nu)
        rows = zip(leaves, *columns, axes, strict=True)
        return structure.unflatten([leaf(*row) for row in rows]), state

    chain = optax.chain(
        optax.GradientTransformationExtraArgs(init_fn, update_fn),
        scale_by_learning_rate(learning_rate, counted_elsewhere=True),
    )
    return low_memory_update(chain)  # numerics.fusion, rule 1, for the mean
