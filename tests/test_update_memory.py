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
    "lamb": optimiz.lamb(RATE, **DECAY),
    "lars": optimiz.lars(RATE, **DECAY),
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


def clipped(tx):
    return optax.chain(optimiz.clip_by_global_norm(1.0), tx)


# These sum over the clipped gradient itself: over it they are lean only as a whole.
SUMS_OVER_THE_GRADIENT = {"sgd_sai", "lars"}


@pytest.mark.parametrize("name", sorted(OPTIMIZERS.keys() - SUMS_OVER_THE_GRADIENT))
def test_nor_does_it_where_the_gradient_is_clipped(name):
    assert temporary_bytes_per_parameter(clipped(OPTIMIZERS[name])) <= 0.05


@pytest.mark.parametrize("name", sorted(SUMS_OVER_THE_GRADIENT))
def test_nor_within_lean_where_sums_over_the_clipped_gradient_are_taken(name):
    tx = clipped(OPTIMIZERS[name])
    assert 3.9 < temporary_bytes_per_parameter(tx) < 4.1
    assert temporary_bytes_per_parameter(optimiz.lean(tx)) <= 0.05


# Fast ones of every kind: with a sum over the gradient, over the update, and with none.
GUARDED = ("adamw", "adagrad", "sgd_sai", "lamb")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in GUARDED else pytest.mark.long) for n in OPTIMIZERS]
)
def test_nor_does_a_guard_around_it(name):
    assert temporary_bytes_per_parameter(optimiz.guard(clipped(OPTIMIZERS[name]), 3)) <= 0.05


def test_a_guard_around_state_in_few_bits_copies_the_state():
    tx = optimiz.guard(optimiz.low_bit(optimiz.sgd_sai(RATE), optimiz.Int8()), 3)
    assert temporary_bytes_per_parameter(tx) <= 1.1


def test_those_of_optax_hold_a_gradient_where_ours_do_not():
    clip = optax.clip_by_global_norm(1.0)
    for tx in (optax.chain(clip, optax.adamw(RATE)), optax.lion(RATE), optax.lamb(RATE)):
        assert temporary_bytes_per_parameter(tx) >= 3.9
