"""Fixture M: two matrices and a vector, and their gradients, on which the authors' codes for matrices were run.

``A`` has 2 inputs and 3 outputs, ``B`` 3 and 2.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

RATES = np.array([0.02, 0.04, 0.03, 0.02, 0.01])

_i, _j = np.ogrid[:2, :3]
_k, _l = np.ogrid[:3, :2]
PARAMS = {
    "A": 0.5 * np.cos(1 + 0.7 * _i + 1.3 * _j),
    "B": 0.5 * np.sin(0.4 + 1.1 * _k - 0.6 * _l),
    "b": np.array([0.1, -0.2]),
}


def gradients(t):
    """The gradients at step t, from 0."""
    return {
        "A": np.sin(1 + 0.9 * t + 1.7 * _i - 0.8 * _j + 0.6 * _i * _j),
        "B": 0.1 * np.cos(0.5 - 0.7 * t + 0.4 * _k + 1.9 * _l - 0.3 * _k * _l),
        "b": np.array([np.sin(t + 1), 0.3 * np.cos(2 * t)]),
    }


def trained(tx):
    """The parameters after five steps of an optimizer, in float64 under ``jax.enable_x64``."""
    params = jax.tree.map(jnp.asarray, PARAMS)
    steps = jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(gradients, range(len(RATES))))

    def step(run, g):
        params, state = run
        updates, state = tx.update(g, state, params)
        return (optax.apply_updates(params, updates), state), None

    (params, _), _ = jax.lax.scan(step, (params, tx.init(params)), steps)
    return jax.tree.map(np.asarray, params)
