r"""Scale each update by its own multiplier: a learning rate per group of parameters.

.. math:: u_i \leftarrow m_i\, u_i

After an optimizer, m_i multiplies its learning rate, including the decoupled weight decay. Before a line search
it does the same, because both of its directions are scaled. There is no state: multipliers are numbers,
or are computed from paths and shapes whenever an update is traced.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.core import Tracer

from optimiz import checks, numerics


def scale_by_groups(
    multipliers: Any | Callable[[optax.Params], Any],
) -> optax.GradientTransformationExtraArgs:
    """Scale each update by its own multiplier.

    Args:
        multipliers: m >= 0, numbers or arrays that broadcast to the shape of what they scale: a tree
            of them, a prefix of one, or a function from the parameters, whose values it must not
            read, to such a tree; see ``optimiz.groups.label`` and ``optimiz.groups.layerwise_decay``.

    Returns:
        A transformation without state that keeps its updates' dtype.

    Raises:
        TypeError: a multiplier is not a number, or ``multipliers`` is a function that returns functions.
        ValueError: one is NaN, infinite or negative, or does not broadcast to the shape of what it
            scales; or the trees do not fit.

    Example:
        >>> tx = optax.chain(optax.sgd(1.0), scale_by_groups({"head": 1.0, "stem": 0.25}))
        >>> grads = {"head": jnp.array(2.0), "stem": jnp.array(2.0)}
        >>> jax.tree.map(float, tx.update(grads, tx.init(grads))[0])
        {'head': -2.0, 'stem': -0.5}
    """
    multipliers_of = checks.per_parameter("multipliers", multipliers)
    if not callable(multipliers):
        _check(multipliers)

    def of(tree):
        return _check(multipliers_of(tree))

    def init_fn(params):
        of(params)  # raises here, not at the first update, if a rule does not fit
        return optax.EmptyState()

    def update_fn(updates, state, params=None, **extra_args):
        del params, extra_args

        def scale(path, m, u):
            axes = zip(reversed(np.shape(m)), reversed(u.shape), strict=False)
            if np.ndim(m) > u.ndim or any(a not in (1, b) for a, b in axes):
                raise ValueError(
                    f"the multiplier at {jax.tree_util.keystr(path)} has shape {np.shape(m)}, which "
                    f"does not broadcast to the update's {u.shape}"
                )
            # NumPy's numbers are float64, and would make the update so under jax_enable_x64.
            as_array = jnp.asarray if isinstance(m, jax.Array) else np.asarray
            return numerics.scaled(u, as_array(m, numerics.real_dtype(u.dtype)))

        # Over the multipliers' tree, so that one may stand for a subtree, or for what Optax masks.
        def scaled(tree):
            return jax.tree_util.tree_map_with_path(
                lambda path, m, subtree: jax.tree.map(lambda u: scale(path, m, u), subtree), of(tree), tree
            )

        if isinstance(updates, numerics.Directions):
            return numerics.Directions(*map(scaled, updates)), state
        return scaled(updates), state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _check(multipliers: Any) -> Any:
    for path, m in jax.tree_util.tree_leaves_with_path(multipliers):
        if isinstance(m, Tracer):
            continue
        values = np.asarray(m)
        name = f"the multiplier at {jax.tree_util.keystr(path)}"
        if not jnp.issubdtype(values.dtype, jnp.number):
            raise TypeError(f"{name} must be a number, got {m!r}")
        if not (np.isfinite(values).all() and (values >= 0).all()):
            raise ValueError(f"{name} must be finite and at least 0, got {m}")
    return multipliers
