r"""LARS: momentum SGD with a rate per layer, in proportion to its parameters over its gradient.

.. math::
    \rho &= c\, \frac{\|\theta\|}{\|g\| + \lambda \|\theta\| + \epsilon} \;\text{("sum")}, \qquad
        c\, \frac{\|\theta\|}{\|g + \lambda\, \theta\| + \epsilon} \;\text{("norm")} \\
    v &\leftarrow \mu\, v + \eta_t\, \rho\, (g + \lambda\, \theta), \qquad
    \theta \leftarrow \theta - v

A layer is one parameter tensor, or one layer of a tensor that ``nn.scan`` has stacked. ρ is 1 where ‖θ‖ is 0,
or the sum or norm below it.

Source: arXiv 1708.03888 (You, Gitman and Ginsburg), Algorithm 1.

Departures from ``optax.lars``: the denominator is the paper's, Optax's is ``trust="norm"`` (they agree without
decay); stacked layers; norms in float32 that neither overflow nor underflow; those of ``optimiz.trace``
(float32 arithmetic, and a state whose dtype no gradient changes); updates in the parameter's dtype; validation
of arguments.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import optax

from optimiz import checks
from optimiz.primitives.decoupled_weight_decay import Coupling, decoupled_weight_decay
from optimiz.primitives.low_memory_update import low_memory_update
from optimiz.primitives.momentum import trace
from optimiz.primitives.scale_by_learning_rate import scale_by_learning_rate
from optimiz.primitives.scale_by_trust_ratio import scale_by_trust_ratio


def lars(
    learning_rate: optax.ScalarOrSchedule,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    weight_decay_mask: Any | Callable[[optax.Params], Any] | None = True,
    trust_coefficient: jax.typing.ArrayLike = 0.001,
    eps: jax.typing.ArrayLike = 0.0,
    trust_ratio_mask: Any | Callable[[optax.Params], Any] | None = True,
    momentum: jax.typing.ArrayLike = 0.9,
    nesterov: bool = False,
    *,
    decay_coupling: Coupling = "learning_rate",
    trust: Literal["sum", "norm"] = "sum",
    scanned: Mapping[str, int] | None = None,
    accumulator_dtype: jax.typing.DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Layer-wise adaptive rate scaling.

    Args:
        learning_rate: learning rate η ≥ 0, a number or a schedule of the 0-based update count. It is inside the
            momentum: a rate that falls does not shorten earlier steps that the momentum still holds.
        weight_decay: weight decay λ ≥ 0, a number or a schedule, part of the trust ratio and of the momentum.
        weight_decay_mask: mask of the parameters that decay, such as ``groups.no_decay()``; True or None for
            all.
        trust_coefficient: c > 0, length of a layer's step relative to the layer's norm, at η = 1.
        eps: ε ≥ 0, added to the ratio's denominator.
        trust_ratio_mask: parameters that have a trust ratio, in the form of ``weight_decay_mask``; that of the
            others is 1. Biases and norms are commonly left out of both. True or None for all.
        momentum: μ in [0, 1), decay rate of the momentum.
        nesterov: whether to use Nesterov's momentum.
        decay_coupling: how the decay scales with the learning rate, see ``optimiz.decoupled_weight_decay``.
        trust: denominator of the trust ratio: ``"sum"`` of two norms, or ``"norm"`` of the sum.
        scanned: axis along which layers are stacked, by pattern of path, such as ``{"^layers/": 0}``; each
            layer has a ratio of its own.
        accumulator_dtype: dtype of the momentum; None for the parameters' dtype.

    Returns:
        A transformation whose ``update`` needs the parameters.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is outside its domain, or a gradient has another shape than its parameter.

    Example:
        >>> import jax.numpy as jnp
        >>> tx = lars(1.0, weight_decay=0.5, trust_coefficient=1.0)
        >>> params = jnp.array([3.0, 4.0])
        >>> updates, _ = tx.update(jnp.array([0.0, 2.5]), tx.init(params), params)
        >>> updates.tolist()  # the ratio is 5 / (2.5 + 0.5 × 5)
        [-1.5, -4.5]
    """
    checks.number("momentum", momentum, ge=0, lt=1)
    checks.one_of("trust", trust, ("sum", "norm"))
    decay = decoupled_weight_decay(
        weight_decay,
        None if weight_decay_mask is True else weight_decay_mask,  # True means no mask in Optax
        coupling=decay_coupling,
        learning_rate=learning_rate,
    )
    together = trust == "norm"
    chain = optax.chain(
        decay if together else optax.identity(),
        scale_by_trust_ratio(
            trust_coefficient=trust_coefficient,
            eps=eps,
            decay=None if together or checks.is_zero(weight_decay) else decay,
            mask=trust_ratio_mask,
            scanned=scanned,
        ),
        scale_by_learning_rate(learning_rate),  # before the momentum, as in the paper
        trace(momentum, nesterov, accumulator_dtype),
    )
    return low_memory_update(chain)  # numerics.fusion, rule 1, for the norms of gradient and decay
