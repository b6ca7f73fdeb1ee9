r"""AdaGrad: the gradient over the root of the sum of all squared gradients so far.

.. math::
    s \leftarrow s + |g|^2, \qquad
    \theta \leftarrow \theta - \eta_t \left( \frac{g}{\sqrt{s} + \epsilon} + \lambda\, \theta \right),
    \qquad s_0 = 0

Source: Duchi, Hazan and Singer (JMLR 12, 2011), which has no λ; ε as in PyTorch.

Departures from ``optax.adagrad``: s starts at 0, instead of 0.1, and ε = 1e-10 is added to the root, in place
of 1e-7 under it (``adagrad(learning_rate, 0.1, 1e-7, eps_in_sqrt=True)`` is Optax's); s is float32 for bfloat16
and float16 parameters unless another dtype is given (in bfloat16 a sum of ones ends at 256) and keeps its dtype
whatever the gradients'; gradients too large to be squared or summed leave s at its largest finite value;
decoupled weight decay; updates in the parameter's dtype; validation of arguments.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from optimiz import checks, numerics
from optimiz.primitives.decoupled_weight_decay import Coupling, decoupled_weight_decay
from optimiz.primitives.scale_by_learning_rate import scale_by_learning_rate


class ScaleByRssState(NamedTuple):
    """State of :func:`scale_by_rss`."""

    sum_of_squares: optax.Updates  # like the parameters, real


def scale_by_rss(
    initial_accumulator_value: jax.typing.ArrayLike,
    eps: jax.typing.ArrayLike,
    *,
    eps_in_sqrt: bool = False,
    accumulator_dtype: jax.typing.DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Rescale updates by the root of the sum of their squares.

    Args:
        initial_accumulator_value: initial value s₀ ≥ 0 of the sum of squares.
        eps: ε ≥ 0, added to the root of the sum.
        eps_in_sqrt: whether to add ε under the root, not to the root.
        accumulator_dtype: dtype of the sum; None for the parameters' dtype, at least float32.

    Returns:
        A transformation that keeps the dtype of its updates. A coordinate that has never had a gradient does
        not move, even with ε = 0.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is outside its domain, or a gradient has another shape than its parameter.

    Example:
        >>> tx = scale_by_rss(0.0, 0.0)
        >>> state = tx.init(jnp.zeros(1))
        >>> for g in (2.0, 2.0, 2.0, -2.0):
        ...     updates, state = tx.update(jnp.array([g]), state)
        >>> updates.tolist(), state.sum_of_squares.tolist()
        ([-0.5], [16.0])
    """
    checks.number("initial_accumulator_value", initial_accumulator_value, ge=0)
    checks.number("eps", eps, ge=0, typical=1e-10)

    def init_fn(params):
        return ScaleByRssState(
            jax.tree.map(
                lambda p: numerics.real_moment(p, accumulator_dtype, initial_accumulator_value), params
            )
        )

    def update_fn(updates, state, params=None, **extra_args):
        del params, extra_args
        checks.same_shapes("gradient", updates, "parameter", state.sum_of_squares)

        def leaf(g, total):
            wide = numerics.widen(g)
            real = numerics.real_dtype(g.dtype)
            # The sum never decays: at infinity it would freeze its coordinate for good.
            largest = min(float(jnp.finfo(dtype).max) for dtype in (real, total.dtype))
            before = total.astype(real)
            s = before + jnp.minimum(numerics.limited_square(wide), largest - before)
            root = jnp.sqrt(s + eps) if eps_in_sqrt else jnp.sqrt(s) + eps
            direction = numerics.squarable(wide) / numerics.nonzero_divisor(root, eps)
            return direction.astype(g.dtype), s.astype(total.dtype)

        direction, sum_of_squares = numerics.map_many(leaf, 2, updates, state.sum_of_squares)
        return direction, ScaleByRssState(sum_of_squares)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def adagrad(
    learning_rate: optax.ScalarOrSchedule,
    initial_accumulator_value: jax.typing.ArrayLike = 0.0,
    eps: jax.typing.ArrayLike = 1e-10,
    *,
    eps_in_sqrt: bool = False,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    weight_decay_mask: Any | Callable[[optax.Params], Any] | None = None,
    decay_coupling: Coupling = "learning_rate",
    accumulator_dtype: jax.typing.DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Adaptive subgradient method.

    The defaults are the paper's; ``adagrad(learning_rate, 0.1, 1e-7, eps_in_sqrt=True)`` is Optax's.

    Args:
        learning_rate: learning rate η ≥ 0, a number or a schedule of the 0-based update count.
        initial_accumulator_value: initial value s₀ ≥ 0 of the sum of squares.
        eps: ε ≥ 0, added to the root of the sum.
        eps_in_sqrt: whether to add ε under the root, as Optax does, not to the root.
        weight_decay: decoupled weight decay λ ≥ 0, a number or a schedule.
        weight_decay_mask: mask of the parameters that decay, such as ``groups.no_decay()``; None for all.
        decay_coupling: how the decay scales with the learning rate, see ``optimiz.decoupled_weight_decay``.
        accumulator_dtype: dtype of the sum; None for the parameters' dtype, at least float32.

    Returns:
        A transformation whose ``update`` needs the parameters if there is weight decay.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is outside its domain, or a gradient has another shape than its parameter.

    Example:
        >>> tx = adagrad(0.5)
        >>> state = tx.init(jnp.zeros(1))
        >>> for _ in range(4):  # -0.5 × 2 / √(4 × 2²) at the fourth step
        ...     updates, state = tx.update(jnp.array([2.0]), state)
        >>> updates.tolist()
        [-0.25]
    """
    return optax.chain(
        scale_by_rss(
            initial_accumulator_value, eps, eps_in_sqrt=eps_in_sqrt, accumulator_dtype=accumulator_dtype
        ),
        decoupled_weight_decay(
            weight_decay, weight_decay_mask, coupling=decay_coupling, learning_rate=learning_rate
        ),
        scale_by_learning_rate(learning_rate),
    )
