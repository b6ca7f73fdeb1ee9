r"""Scale each block's update to the norm of its parameters: a learning rate per layer.

.. math::
    d \leftarrow c\, \frac{\phi(\|\theta\|)}{\|d\| + \epsilon}\, d, \qquad
    \phi(z) = \min(\max(z, \gamma_l), \gamma_u)

A block is one parameter tensor, or one layer of a tensor that ``nn.scan`` has stacked. Where φ(‖θ‖) or ‖d‖ is 0
the ratio is 1: parameters that start at zero move.

With ``decay``, d is the sum of a gradient and a decay that is added here, and the denominator is the sum of
their norms, not the norm of their sum.

Departures from ``optax.scale_by_trust_ratio``: norms are float32 for bfloat16 and float16 and neither overflow
nor underflow; γ_l bounds only the norm of the parameters, Optax's ``min_norm`` also that of the update; γ_u,
the sum of norms, the mask and stacked layers are new.

The update is held in memory for its norm, unless ``optimiz.low_memory_update`` is around the chain.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer

from optimiz import checks, groups, numerics


def scale_by_trust_ratio(
    min_norm: jax.typing.ArrayLike = 0.0,
    trust_coefficient: jax.typing.ArrayLike = 1.0,
    eps: jax.typing.ArrayLike = 0.0,
    *,
    max_norm: jax.typing.ArrayLike | None = None,
    decay: optax.GradientTransformation | None = None,
    mask: Any | Callable[[optax.Params], Any] | None = None,
    scanned: Mapping[str, int] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Scale each block's update by the norm of its parameters over its own.

    Args:
        min_norm: γ_l ≥ 0, lower bound of the norm of a block of parameters.
        trust_coefficient: c > 0.
        eps: ε ≥ 0, added to the denominator.
        max_norm: γ_u ≥ γ_l, upper bound of that norm; None for no bound.
        decay: transformation that adds a multiple of each parameter to the direction, such as
            ``optimiz.decoupled_weight_decay``; it runs here so that its norm is measured separately. None to
            take the update as it is.
        mask: parameters that have a ratio, the others have 1: a tree of booleans, a prefix of one, a function
            of the parameters, or a rule of ``optimiz.groups``. None for all.
        scanned: axis along which layers are stacked, by pattern of path, such as ``{"^layers/": 0}``; each
            layer is a block of its own.

    Returns:
        A transformation that keeps its updates' dtype; its ``update`` needs the parameters.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: it is outside its domain; or ``update`` is not given the parameters, or is given a gradient
            whose shape is not its parameter's.

    Example:
        >>> tx = scale_by_trust_ratio()
        >>> params = jnp.array([3.0, 4.0])
        >>> updates, _ = tx.update(jnp.array([0.0, 2.0]), tx.init(params), params)
        >>> updates.tolist()  # 5 / 2 of it
        [0.0, 5.0]
    """
    checks.number("min_norm", min_norm, ge=0)
    checks.number("trust_coefficient", trust_coefficient, gt=0)
    checks.number("eps", eps, ge=0)
    if max_norm is not None:
        least = 0.0 if isinstance(min_norm, Tracer) else np.asarray(min_norm).item()
        checks.number("max_norm", max_norm, ge=least, gt=0)

    if decay is not None:
        checks.transformation("decay", decay)
    has_ratio = checks.mask("the mask of the trust ratio", True if mask is None else mask)

    def blocks(tree):
        """The axes of each leaf's blocks, and whether it has a ratio."""
        chosen = jax.tree.leaves(jax.tree.broadcast(has_ratio(tree), tree))
        return numerics.axes_of_blocks(jax.tree.leaves(tree), groups.scanned_axes(tree, scanned)), chosen

    def init_fn(params):
        blocks(params)  # raises here, not at the first update, if a rule does not fit
        return optax.EmptyState() if decay is None else decay.init(params)

    def update_fn(updates, state, params=None, **extra_args):
        del extra_args
        checks.needs_params(params)
        checks.same_shapes("gradient", updates, "parameter", params)
        axes, chosen = blocks(params)
        wide = jax.tree.map(numerics.widen, updates)
        directions = jax.tree.leaves(wide)
        wholes, strengths = directions, [None] * len(directions)
        if decay is not None:
            # The decay's norm is that of the parameters times the decay of a one.
            of_ones, _ = decay.update(optax.tree.zeros_like(wide), state, optax.tree.ones_like(params))
            strengths = [_first_entries(x, a) for x, a in zip(jax.tree.leaves(of_ones), axes, strict=True)]
            sums, state = decay.update(wide, state, params)
            wholes = jax.tree.leaves(sums)

        with_norm = [jax.tree.leaves(params), directions]
        norms = numerics.block_norms(
            lambda: [x for leaves in with_norm for x, yes in zip(leaves, chosen, strict=True) if yes],
            [a for a, yes in zip(axes, chosen, strict=True) if yes] * len(with_norm),
        )
        n = sum(chosen)
        norms_of_block = iter([norms[i::n] for i in range(n)])

        def scale(whole, strength, of_params, of_direction):
            bounds = min_norm, max_norm
            return _scaled(whole, *_ratio(of_params, of_direction, strength, *bounds, trust_coefficient, eps))

        leaves, structure = jax.tree.flatten(updates)
        scaled = []
        for u, yes, whole, strength in zip(leaves, chosen, wholes, strengths, strict=True):
            scaled.append((scale(whole, strength, *next(norms_of_block)) if yes else whole).astype(u.dtype))
        return structure.unflatten(scaled), state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _first_entries(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """One entry of each block, in the shape of a sum over the block."""
    return x[tuple(slice(0, 1) if axis in axes else slice(None) for axis in range(x.ndim))]


@jax.jit
def _ratio(
    of_params: jax.Array,
    of_direction: jax.Array,
    strength: jax.Array | None,
    min_norm: jax.typing.ArrayLike,
    max_norm: jax.typing.ArrayLike | None,
    trust_coefficient: jax.typing.ArrayLike,
    eps: jax.typing.ArrayLike,
) -> tuple[jax.Array, jax.Array]:
    """The divisor and the factor of a block, which are 1 where a norm is 0."""
    denominator = of_direction if strength is None else of_direction + strength * of_params
    numerator = jnp.clip(of_params, min_norm, max_norm)
    zero = (numerator == 0) | (denominator == 0)
    return jnp.where(zero, 1, denominator + eps), jnp.where(zero, 1, trust_coefficient * numerator)


@numerics.dispatched_once
def _scaled(whole: jax.Array, divisor: jax.Array, factor: jax.Array) -> jax.Array:
    # Divided first: the ratio alone may overflow where its product with the update does not.
    return whole / divisor * factor
