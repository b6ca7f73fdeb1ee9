r"""Compensate the rounding of each step, so that low-precision parameters follow high-precision ones.

.. math::
    y &= u + c, \qquad d = \operatorname{fl}(y) \\
    \theta' &= \operatorname{fl}(\theta + d), \qquad c \leftarrow y - (\theta' - \theta)

This is compensated summation. θ + c is the parameter with about twice its digits, at the cost of a second array
of its size; ``optimiz.stochastic_rounding`` costs no memory and adds noise. It must come last in a chain, since
it needs the exact result of ``optax.apply_updates``; tracing fails otherwise.

Source: Kahan, "Further remarks on reducing truncation errors", Communications of the ACM 8 (1965); for training
in bfloat16, arXiv 2010.06192 (Zamirai et al.).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from optimiz import checks, numerics


class KahanState(NamedTuple):
    """State of :func:`kahan`."""

    compensation: optax.Params  # like the parameters: what rounding took from them


def kahan() -> optax.GradientTransformationExtraArgs:
    """Compensate the rounding of the parameters, as the last transformation of a chain.

    Returns:
        A transformation whose ``update`` needs the parameters. Its updates are in their dtype.

    Raises:
        ValueError: in ``update``, the parameters are missing, an update's shape is not its parameter's, or
            another transformation comes after this one.

    Example:
        >>> tx = optax.chain(optax.sgd(1.0), kahan())
        >>> params = jnp.ones(1, jnp.bfloat16)  # the number below is 1 - 2⁻⁸
        >>> state = tx.init(params)
        >>> for _ in range(3):  # c is -2⁻¹⁰, -2⁻⁹, and then 2⁻¹⁰, for the third step leads past the middle
        ...     updates, state = tx.update(jnp.full(1, 2.0**-10, jnp.bfloat16), state, params)
        ...     params = optax.apply_updates(params, updates)
        >>> params.tolist(), state[1].compensation.tolist()
        ([0.99609375], [0.0009765625])
    """

    def init_fn(params):
        return KahanState(jax.tree.map(jnp.zeros_like, params))

    def update_fn(updates, state, params=None, **extra_args):
        del extra_args
        checks.needs_params(params)
        checks.comes_last("kahan", params)
        checks.same_shapes("update", updates, "parameter", params)

        def leaf(u, p, c):
            wide = jnp.promote_types(jnp.result_type(u), numerics.compute_dtype(p.dtype))
            # XLA may drop a conversion to bfloat16 and back, but not this rounding.
            rounded = (lambda x: numerics.nearest(x, p.dtype)) if numerics.is_narrow(p.dtype) else lambda x: x
            y, start = u.astype(wide) + c.astype(wide), p.astype(wide)
            step = rounded(y)
            lost = y - (rounded(start + step) - start)
            # A step that is not finite shows in the parameter; the compensation recovers from it.
            return step.astype(p.dtype), jnp.where(jnp.isfinite(lost), lost, 0).astype(c.dtype)

        updates, compensation = numerics.map_many(leaf, 2, updates, params, state.compensation)
        return updates, KahanState(compensation)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
