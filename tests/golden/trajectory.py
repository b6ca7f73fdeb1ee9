"""Twenty-five steps of random gradients: an optimizer beside its paper's equations, or beside Optax's alias.

The learning rate and the weight decay change at every step, and the parameters have three ranks.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

STEPS = 25
SHAPES = {"kernel": (4, 3), "bias": (3,), "scale": ()}


def learning_rate(count):
    return 0.01 / (1 + 0.1 * count)


def weight_decay(count):
    return 0.1 / (1 + 0.2 * count)


def _arrays():
    random = np.random.default_rng(0)
    params = {name: 0.3 * random.standard_normal(shape) for name, shape in SHAPES.items()}
    gradients = [{name: random.standard_normal(shape) for name, shape in SHAPES.items()} for _ in range(STEPS)]
    return params, gradients


def run(tx, dtype):
    """Parameters after each step."""
    cast = lambda tree: jax.tree.map(lambda x: jnp.asarray(x, dtype), tree)  # noqa: E731
    params, gradients = map(cast, _arrays())
    state = tx.init(params)
    update = jax.jit(tx.update)
    trajectory = []
    for g in gradients:
        updates, state = update(g, state, params)
        params = optax.apply_updates(params, updates)
        trajectory.append(params)
    return trajectory


def check_equations(make, direction, *, f64=1e-12, f32=1e-6):
    """Hold an optimizer against equations, in float64 and in float32.

    Args:
        make: a function from a learning rate and a keyword ``weight_decay`` to the optimizer.
        direction: a function (g, memory, t) of one leaf's gradient, a dictionary that is empty before the
            first step, and t = 1, 2, ..., to the direction; the loop adds the decoupled decay and steps.
    """
    params, gradients = _arrays()
    memory = {name: {} for name in SHAPES}
    wanted = []
    for count, g in enumerate(gradients):
        params = {
            name: p
            - learning_rate(count) * (direction(g[name], memory[name], count + 1) + weight_decay(count) * p)
            for name, p in params.items()
        }
        wanted.append(params)
    with jax.enable_x64(True):
        got = run(make(learning_rate, weight_decay=weight_decay), jnp.float64)
        chex.assert_trees_all_close(got, wanted, rtol=0, atol=f64)
    got = run(make(learning_rate, weight_decay=weight_decay), jnp.float32)
    chex.assert_trees_all_close(got, jax.tree.map(np.float32, wanted), rtol=0, atol=f32)


def check_drop_in(ours, theirs, *, f64=1e-12, f32=1e-6):
    """Hold an optimizer against Optax's in float64 and in float32; each is a function of the learning rate."""
    with jax.enable_x64(True):
        got, wanted = (run(make(learning_rate), jnp.float64) for make in (ours, theirs))
        chex.assert_trees_all_close(got, wanted, rtol=0, atol=f64)
    got, wanted = (run(make(learning_rate), jnp.float32) for make in (ours, theirs))
    chex.assert_trees_all_close(got, wanted, rtol=0, atol=f32)
