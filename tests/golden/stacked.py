"""Twenty-five steps of random gradients on parameters of four ranks, one of them a stack of three layers."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

SHAPES = {"kernel": (7, 5), "bias": (5,), "stack": (3, 6, 4), "scale": ()}
STEPS = 25


def arrays():
    """The parameters, and the gradient of each step, in float64."""
    random = np.random.default_rng(0)
    params, *gradients = ({k: random.normal(size=s) for k, s in SHAPES.items()} for _ in range(STEPS + 1))
    return params, gradients


def run(tx, dtype, params=None, gradients=None):
    """Parameters after the last step, from those of this page or from others."""
    if params is None:
        params, gradients = arrays()
    params, gradients = jax.tree.map(lambda x: jnp.asarray(x, dtype), (params, gradients))
    state = tx.init(params)
    update = jax.jit(tx.update)
    for g in gradients:
        updates, state = update(g, state, params)
        params = optax.apply_updates(params, updates)
    return params


def check_drop_in(ours, theirs, *, f64=1e-12, f32=1e-6):
    """Hold an optimizer against Optax's in float64 and in float32; each is a function of the dtype."""
    with jax.enable_x64(True):
        got, wanted = (run(make(jnp.float64), jnp.float64) for make in (ours, theirs))
        chex.assert_trees_all_close(got, wanted, rtol=0, atol=f64)
    got, wanted = (run(make(jnp.float32), jnp.float32) for make in (ours, theirs))
    chex.assert_trees_all_close(got, wanted, rtol=0, atol=f32)


def check_layers(make, *, rtol=1e-5):
    """Hold the layers of a stack against each layer trained alone; ``make`` takes the keyword ``scanned``."""
    params, gradients = arrays()
    together = run(make(scanned={"^stack$": 0}), jnp.float32, params, gradients[:5])["stack"]
    for i in range(SHAPES["stack"][0]):
        alone = run(make(scanned=None), jnp.float32, params["stack"][i], [g["stack"][i] for g in gradients[:5]])
        np.testing.assert_allclose(together[i], alone, rtol=rtol)
