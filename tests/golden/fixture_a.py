"""Fixture A: two leaves, three steps of given gradients; the rows are parameters after the third step.

Where a row says so, the numbers were read off the authors' release or PyTorch 2.13, run in float64 on these
arrays; every row was also reproduced by a float64 loop written from the equations alone.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

W0 = [[1.0, -2.0, 3.0], [0.5, 0.0, -1.0]]
B0 = [0.1, -0.2]
G_W = [
    [[0.2, -0.1, 0.4], [0.0, 0.3, -0.5]],
    [[-0.3, 0.2, 0.1], [0.6, 0.0, 0.2]],
    [[0.05, 0.05, -0.2], [-0.1, 0.4, 0.3]],
]
G_B = [[0.5, 0.1], [-0.2, 0.3], [0.0, -0.4]]

LEARNING_RATE = 0.01
VARYING = (0.01, 0.02, 0.005)


def varying(count):
    """A schedule that goes through VARYING; it tells a rate inside a buffer from one outside."""
    return jnp.asarray(VARYING)[count]


def params(dtype=jnp.float64):
    return {"W": jnp.asarray(W0, dtype), "b": jnp.asarray(B0, dtype)}


def gradients(dtype=jnp.float64):
    return [{"W": jnp.asarray(w, dtype), "b": jnp.asarray(b, dtype)} for w, b in zip(G_W, G_B, strict=True)]


def after_three_steps(tx, dtype=jnp.float64):
    p = params(dtype)
    state = tx.init(p)
    update = jax.jit(tx.update)
    for g in gradients(dtype):
        updates, state = update(g, state, p)
        p = optax.apply_updates(p, updates)
    return p, state


def check(make, row, *, f64=1e-11, f32=2e-6):
    """Hold an optimizer against a row ("W, row-major; b") in float64 and in float32.

    Args:
        make: a function that builds the optimizer, called with the wanted precision switched on.
        row: eight numbers as text, the six of W and the two of b.
    """
    wanted = np.array(row.split(), np.float64)
    wanted = {"W": wanted[:6].reshape(2, 3), "b": wanted[6:]}
    with jax.enable_x64(True):
        chex.assert_trees_all_close(after_three_steps(make())[0], wanted, rtol=0, atol=f64)
    got = after_three_steps(make(), jnp.float32)[0]
    chex.assert_trees_all_close(got, jax.tree.map(np.float32, wanted), rtol=0, atol=f32)
