r"""Take only those entries of a direction that agree in sign with the gradient.

.. math::
    k = [d \odot g > 0], \qquad d \leftarrow \frac{k}{\max(\operatorname{mean} k,\, f)} \odot d

The mean is over one parameter tensor, or one layer of a tensor that ``nn.scan`` has stacked. It makes up for
the entries that are left out; the floor f bounds it. The moments inside of the direction go on as they would.

Source: arXiv 2411.16085 (Liang et al.), C-AdamW and C-Lion.

Departures from the authors' code: for Lion the factor is 1 / max(mean, f), as for AdamW and as in timm, not
n / (sum + 1), which differs for small tensors; stacked layers.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax

from optimiz import checks, groups, numerics


def cautious(
    direction: optax.GradientTransformation,
    *,
    floor: jax.typing.ArrayLike = 1e-3,
    scanned: Mapping[str, int] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Leave out the entries of a direction whose sign is not the gradient's.

    Args:
        direction: transformation of gradients into a direction of ascent, such as ``scale_by_adam(…)``; weight
            decay and the learning rate come after this.
        floor: f in (0, 1], least share of the entries by which the others are divided.
        scanned: axis along which layers are stacked, by pattern of path, such as ``{"^layers/": 0}``; each
            layer has a share of its own.

    Returns:
        A transformation with the state of ``direction``.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument is outside its domain; or, in ``init``, ``direction`` makes steps.

    Example:
        >>> tx = cautious(optax.trace(0.5))
        >>> params = jnp.zeros(2)
        >>> state = tx.init(params)
        >>> for g in ([4.0, 4.0], [-1.0, 2.0]):  # momentum 4, 4; then 1, 4: the first is against its gradient
        ...     updates, state = tx.update(jnp.array(g), state, params)
        >>> updates.tolist()  # one of two is kept, twice as long
        [0.0, 8.0]
    """
    checks.transformation("direction", direction)
    checks.number("floor", floor, gt=0, le=1)
    direction = optax.with_extra_args_support(direction)

    def init_fn(params):
        groups.scanned_axes(params, scanned)  # raises here, not at the first update, if a pattern does not fit
        state = direction.init(params)
        checks.no_step_in("cautious", direction, state, params)
        return state

    def update_fn(updates, state, params=None, **extra_args):
        directions, state = direction.update(updates, state, params, **extra_args)
        leaves, structure = jax.tree.flatten(updates)
        axes = numerics.axes_of_blocks(leaves, groups.scanned_axes(updates, scanned))

        def leaf(g, d, over):
            kept = numerics.agree(d, g).astype(numerics.real_dtype(d.dtype))
            share = jnp.mean(kept, axis=over, keepdims=True) if g.size else jnp.ones([], kept.dtype)
            return (numerics.widen(d) * kept / jnp.maximum(share, floor)).astype(d.dtype)

        rows = zip(leaves, structure.flatten_up_to(directions), axes, strict=True)
        return structure.unflatten([leaf(*row) for row in rows]), state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
