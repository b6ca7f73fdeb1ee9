"""Fixture S: a square matrix and a vector, and their gradients, on which the authors' codes of SOAP were run.

All sides are of full rank after the first gradient, so that the bases are determined.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tests.golden import fixture_m

RATES = fixture_m.RATES

_i, _j = np.ogrid[:3, :3]
PARAMS = {"S": 0.5 * np.cos(1 + 0.7 * _i + 1.3 * _j), "b": fixture_m.PARAMS["b"]}


def gradients(t):
    """The gradients at step t, from 0."""
    s = np.sin(1 + 0.9 * t + 1.7 * _i**2 - 0.8 * _j + 0.6 * _i * _j**2)
    return {"S": s, "b": fixture_m.gradients(t)["b"]}


def trained(tx, weight_decay=0.0):
    """Parameters and state after five steps, in float64 under ``jax.enable_x64``.

    The authors' weight decay follows every step but the first, which their optimizer skips.
    """
    params = jax.tree.map(jnp.asarray, PARAMS)
    state = tx.init(params)
    update = jax.jit(tx.update)
    for t, rate in enumerate(RATES):
        updates, state = update(jax.tree.map(jnp.asarray, gradients(t)), state, params)
        kept = 1 - rate * weight_decay if t else 1.0
        params = jax.tree.map(lambda p, kept=kept: kept * p, optax.apply_updates(params, updates))
    return jax.tree.map(np.asarray, params), state
