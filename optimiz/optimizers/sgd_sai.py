r"""SGD-SaI: momentum SGD with one learning-rate scale per block, fixed at the first gradient.

.. math::
    G_i &= \|g_i^{(1)}\|_2 \,/\, (s(g_i^{(1)}) + \epsilon) \\
    m_i &\leftarrow \mu\, m_i + (1 - \mu)\, g_i, \qquad m_i^{(1)} = g_i^{(1)} \\
    \theta_i &\leftarrow \theta_i - \eta_t (G_i\, m_i + \lambda\, \theta_i)

It keeps one parameter-shaped buffer, half of Adam's state. The decay is not scaled by G.

Source: arXiv 2412.11768v2 (Xu et al.); the authors' release 1.0.3.

G is close to the square root of the block's size whenever the gradient's mean is near zero, so a fair
comparison of the method includes momentum SGD with the rate √size per block (``optimiz.sqrt_size_sgd``).

Departures from the release, each undone by ``degenerate="reference"`` where it concerns G: a block of one
entry or of zero variance gets G = 1 (the release moves it by 1e5 and more at the default rate), a block whose
first gradient is zero waits for its first other one (the release freezes it for good), and so does one whose
first gradient is not finite (the release is poisoned). The momentum keeps what is not finite, unless
``optimiz.guard`` skips the step. ``momentum=0`` works. G is measured in float32 whatever the gradients are, and
is part of the state.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import optax

from optimiz import checks
from optimiz.primitives.decoupled_weight_decay import Coupling, decoupled_weight_decay
from optimiz.primitives.momentum import seeded_ema
from optimiz.primitives.scale_by_gsnr import scale_by_gsnr
from optimiz.primitives.scale_by_learning_rate import scale_by_learning_rate


def sgd_sai(
    learning_rate: optax.ScalarOrSchedule = 1e-2,
    momentum: jax.typing.ArrayLike = 0.9,
    *,
    eps: float = 1e-8,
    weight_decay: optax.ScalarOrSchedule = 1e-2,
    weight_decay_mask: Any | Callable[[optax.Params], Any] | None = None,
    decay_coupling: Coupling = "learning_rate",
    normalize: Literal["max"] | None = None,
    degenerate: Literal["unit", "reference"] = "unit",
    scanned: Mapping[str, int] | None = None,
    mu_dtype: jax.typing.DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """SGD with learning-rate scaling at initialization.

    Args:
        learning_rate: learning rate η ≥ 0, a number or a schedule of the 0-based update count.
        momentum: μ in [0, 1), decay rate of the momentum.
        eps: ε ≥ 0, added to the standard deviation of a block's gradient.
        weight_decay: decoupled weight decay λ ≥ 0, a number or a schedule.
        weight_decay_mask: mask of the parameters that decay, such as ``groups.no_decay()``; None for all.
        decay_coupling: how the decay scales with the learning rate, see ``optimiz.decoupled_weight_decay``.
        normalize: None for the released code (raw G, unbiased variance), ``"max"`` for the paper's
            Algorithm 1 (population variance, G divided by its largest). The two need very different rates:
            the raw G of a Transformer's matrices is several hundred.
        degenerate: how to treat blocks whose ratio is meaningless: ``"unit"`` sets it to 1, ``"reference"``
            follows the release; see ``optimiz.scale_by_gsnr``.
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
        >>> tx = sgd_sai(0.5, weight_decay=0.0)
        >>> params = jnp.zeros(2)
        >>> updates, _ = tx.update(jnp.array([1.0, -1.0]), tx.init(params), params)
        >>> updates.round(4).tolist()  # G = √2 / √2
        [-0.5, 0.5]
    """
    checks.number("momentum", momentum, ge=0, lt=1)
    return optax.chain(
        scale_by_gsnr(eps, normalize=normalize, degenerate=degenerate, scanned=scanned),
        seeded_ema(momentum, mu_dtype),
        decoupled_weight_decay(
            weight_decay, weight_decay_mask, coupling=decay_coupling, learning_rate=learning_rate
        ),
        scale_by_learning_rate(learning_rate, counted_elsewhere=True),
    )
