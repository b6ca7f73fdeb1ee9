"""What one update holds in memory beside parameters, gradients and state: next to nothing."""

import jax
import jax.numpy as jnp
import optax
import pytest

import optimiz

RATE, DECAY = 1e-3, {"weight_decay": 0.1}
# Two of each shape: what equal leaves share would be held for them, where one leaf needs nothing.
LAYER = {
    "kernel": jax.ShapeDtypeStruct((768, 3072), jnp.float32),
    "bias": jax.ShapeDtypeStruct((768,), jnp.float32),
}
PARAMS = {"layer_0": LAYER, "layer_1": LAYER}
OPTIMIZERS = {
    "sgd": optimiz.sgd(RATE),
    "sgd_momentum": optimiz.sgd(RATE, 0.9, **DECAY),
    "sgd_nesterov": optimiz.sgd(RATE, 0.9, nesterov=True),
    "adam": optimiz.adam(RATE),
    "adamw": optimiz.adamw(RATE, **DECAY),
    "nadam": optimiz.nadam(RATE),
    "nadamw": optimiz.nadamw(RATE, **DECAY),
    "adamax": optimiz.adamax(RATE),
    "adamaxw": optimiz.adamaxw(RATE, **DECAY),
    "amsgrad": optimiz.amsgrad(RATE, **DECAY),
    "adagrad": optimiz.adagrad(RATE, **DECAY),
    "rmsprop": optimiz.rmsprop(RATE),
    "rmsprop_centered": optimiz.rmsprop(RATE, centered=True, momentum=0.9, **DECAY),
    "lion": optimiz.lion(RATE, **DECAY),
    "signum": optimiz.signum(RATE, **DECAY),
    "sign_sgd": optimiz.sign_sgd(RATE),
    "sgd_sai": optimiz.sgd_sai(RATE),
    "sqrt_size_sgd": optimiz.sqrt_size_sgd(RATE),
}


def temporary_bytes_per_parameter(tx):
    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    program = (
        jax.jit(step, donate_argnums=(0, 1)).lower(PARAMS, jax.eval_shape(tx.init, PARAMS), PARAMS).compile()
    )
    return program.memory_analysis().temp_size_in_bytes / sum(p.size for p in jax.tree.leaves(PARAMS))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_update_needs_no_memory_of_its_own(name):
    assert temporary_bytes_per_parameter(OPTIMIZERS[name]) <= 0.05


# SGD-SaI asks for the clipped gradient itself, for the branch in which it measures.
@pytest.mark.parametrize("name", sorted(OPTIMIZERS.keys() - {"sgd_sai"}))
def test_nor_does_it_where_the_gradient_is_clipped(name):
    tx = optax.chain(optimiz.clip_by_global_norm(1.0), OPTIMIZERS[name])
    assert temporary_bytes_per_parameter(tx) <= 0.05


def test_those_of_optax_hold_a_gradient_where_ours_do_not():
    clip = optax.clip_by_global_norm(1.0)
    for tx in (optax.chain(clip, optax.adamw(RATE)), optax.lion(RATE)):
        assert temporary_bytes_per_parameter(tx) >= 3.9
