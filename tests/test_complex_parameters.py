"""Optimizers follow the gradient of complex parameters downhill."""

import jax
import jax.numpy as jnp
import optax
import pytest

from tests.contract.table import TABLE


@pytest.mark.quick(4)
@pytest.mark.parametrize("name", ["adafactor", "adamw", "lamb", "lion", "salsa", "sgd_sai"])
def test_complex_parameters_descend(name):
    tx = TABLE[name].make(0.05)
    params = jnp.array([1 + 1j, 2 - 1j, 0.5j])

    @jax.jit
    def step(params, state):  # of |w|² / 2, whose gradient of steepest ascent is w
        updates, state = tx.update(params, state, params)
        return optax.apply_updates(params, updates), state

    after, state = params, tx.init(params)
    for _ in range(5):
        after, state = step(after, state)
    assert after.dtype == params.dtype
    assert jnp.linalg.norm(after) < 0.99 * jnp.linalg.norm(params)
