r"""Momentum SGD with a rate proportional to the root of each block's size: the baseline for SGD-SaI.

.. math::
    m_i &\leftarrow \mu\, m_i + (1 - \mu)\, g_i, \qquad m_i^{(1)} = g_i^{(1)} \\
    \theta_i &\leftarrow \theta_i - \eta_t (\sqrt{d_i}\, m_i + \lambda\, \theta_i)

d is the number of entries of a block: one parameter tensor, or one layer of a tensor that ``nn.scan`` has
stacked.

Source: none; it is a baseline. SGD-SaI (arXiv 2412.11768) scales a block by the g-SNR of its first gradient,
for which :math:`G^2 = (d - 1) + d\, \bar g^2 / s^2`. Where that gradient's mean is near zero, G is
:math:`\sqrt d` and carries no information about the gradient: SGD-SaI's gain over this baseline is what its
measurement contributes.

Departures from ``optimiz.sgd_sai``: nothing is measured, so there is no ε, no degenerate block, and no state
except the momentum's.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import optax

from optimiz import checks, groups, numerics
from optimiz.primitives.decoupled_weight_decay import Coupling, decoupled_weight_decay
from optimiz.primitives.momentum import seeded_ema
from optimiz.primitives.scale_by_learning_rate import scale_by_learning_rate


def sqrt_size_sgd(
    learning_rate: optax.ScalarOrSchedule = 1e-2,
    momentum: jax.typing.ArrayLike = 0.9,
    *,
    weight_decay: optax.ScalarOrSchedule = 1e-2,
    weight_decay_mask: Any | Callable[[optax.Params], Any] | None = None,
    decay_coupling: Coupling = "learning_rate",
    normalize: Literal["max"] | None = None,
    scanned: Mapping[str, int] | None = None,
    mu_dtype: jax.typing.DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """SGD with momentum and the rate √size per block.

    Args:
        learning_rate: learning rate η ≥ 0, a number or a schedule of the 0-based update count.
        momentum: μ in [0, 1), decay rate of the momentum.
        weight_decay: decoupled weight decay λ ≥ 0, a number or a schedule, not scaled by √size.
        weight_decay_mask: mask of the parameters that decay, such as ``groups.no_decay()``; None for all.
        decay_coupling: how the decay scales with the learning rate, see ``optimiz.decoupled_weight_decay``.
        normalize: as in ``optimiz.sgd_sai``: None for √size itself, ``"max"`` to divide it by the largest
            √size.
        scanned: axis along which layers are stacked, by pattern of path, such as ``{"^layers/": 0}``; each
            layer is a block of its own.
        mu_dtype: dtype of the momentum; None for the parameters' dtype, at least float32.

    Returns:
        A transformation whose ``update`` needs the parameters if there is weight decay.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is outside its domain, or a gradient has another shape than its parameter.

    Example:
        >>> import jax.numpy as jnp
        >>> tx = sqrt_size_sgd(0.5, weight_decay=0.0)
        >>> params = jnp.zeros(4)
        >>> updates, _ = tx.update(jnp.array([1.0, -1.0, 3.0, 0.0]), tx.init(params), params)
        >>> updates.tolist()  # -0.5 × √4
        [-1.0, 1.0, -3.0, -0.0]
    """
    checks.number("momentum", momentum, ge=0, lt=1)
    checks.one_of("normalize", normalize, (None, "max"))
    return optax.chain(
        _scale_by_root_of_size(normalize, scanned),
        seeded_ema(momentum, mu_dtype),
        decoupled_weight_decay(
            weight_decay, weight_decay_mask, coupling=decay_coupling, learning_rate=learning_rate
        ),
        scale_by_learning_rate(learning_rate, counted_elsewhere=True),
    )


def _scale_by_root_of_size(
    normalize: Literal["max"] | None, scanned: Mapping[str, int] | None
) -> optax.GradientTransformation:
    def update(updates, params):
        del params
        leaves, tree = jax.tree.flatten(updates)
        roots = [
            math.sqrt(math.prod(u.shape[a] for a in numerics.block_axes(u.ndim, scanned_axis)))
            for u, scanned_axis in zip(leaves, groups.scanned_axes(updates, scanned), strict=True)
        ]
        # Every block may be empty.
        largest = max(roots, default=0) or 1 if normalize == "max" else 1
        scaled = zip(leaves, roots, strict=True)
        return tree.unflatten([numerics.scaled(u, r / largest) for u, r in scaled])

    return optax.stateless(update)
