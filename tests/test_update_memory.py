"""What one update holds in memory beside parameters, gradients and state, next to nothing, and its program."""

import jax
import jax.numpy as jnp
import optax
import pytest

import optimiz
from optimiz import methods

RATE, DECAY = 1e-3, {"weight_decay": 0.1}


def parameters(dtype):
    """Two of each shape: what equal leaves share would be held for them, where one leaf needs nothing."""
    layer = {"kernel": jax.ShapeDtypeStruct((768, 3072), dtype), "bias": jax.ShapeDtypeStruct((768,), dtype)}
    return {"layer_0": layer, "layer_1": layer}


# Every method of the table that needs no loss, with weight decay; and what has programs of its own.
METHODS = {name: method for name, method in methods.METHODS.items() if method.kind == "rate"}
OPTIMIZERS = {name: method.build(RATE, **DECAY) for name, method in METHODS.items()} | {
    "sgd_plain": optimiz.sgd(RATE),
    "sgd_nesterov": optimiz.sgd(RATE, 0.9, nesterov=True),
    "rmsprop_centered": optimiz.rmsprop(RATE, centered=True, momentum=0.9, **DECAY),
    "adam_without_decay": optimiz.adam(RATE),
    "adafactor_without_decay": optimiz.adafactor(RATE),
}


def compiled(tx, params):
    def step(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    jitted = jax.jit(step, donate_argnums=(0, 1))
    return jitted.lower(params, jax.eval_shape(tx.init, params), params).compile()


def temporary_bytes_per_parameter(tx, dtype=jnp.float32):
    params = parameters(dtype)
    program = compiled(tx, params)
    return program.memory_analysis().temp_size_in_bytes / sum(p.size for p in jax.tree.leaves(params))


def most(name):
    """Bytes per parameter that an update may hold."""
    return (METHODS[name].held_bytes if name in METHODS else 0.0) + 0.05


@pytest.mark.quick(4)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_update_needs_no_memory_of_its_own(name):
    assert temporary_bytes_per_parameter(OPTIMIZERS[name]) <= most(name)


def clipped(tx):
    return optax.chain(optimiz.clip_by_global_norm(1.0), tx)


# These sum over the clipped gradient itself: a clipped chain of them holds nothing only within
# low_memory_update.
SUMS_OVER_THE_GRADIENT = {name for name, method in METHODS.items() if method.sums_over_gradient}


@pytest.mark.quick(2)
@pytest.mark.parametrize(
    "name", sorted(OPTIMIZERS.keys() - SUMS_OVER_THE_GRADIENT - {"adafactor_without_decay"})
)
def test_an_update_of_a_clipped_gradient_needs_no_memory_of_its_own(name):
    assert temporary_bytes_per_parameter(clipped(OPTIMIZERS[name])) <= most(name)


@pytest.mark.quick(2)
@pytest.mark.parametrize("name", sorted(SUMS_OVER_THE_GRADIENT))
def test_sums_over_the_clipped_gradient_need_no_memory_within_low_memory_update(name):
    tx = clipped(OPTIMIZERS[name])
    assert 3.9 < temporary_bytes_per_parameter(tx) < 8.1
    # XLA of JAX 0.12 holds one array more of prodigy's behind a clip.
    more = 2.0 if name == "prodigy" and jax.__version_info__ >= (0, 12) else 0.0
    assert temporary_bytes_per_parameter(optimiz.low_memory_update(tx)) <= most(name) + more


# Fast ones of every kind: with a sum over the gradient, over the update, and with none.
GUARDED = ("adamw", "adagrad", "sgd_sai", "lamb", "adam_atan2")
# Results of a branch or of a stack, which are held until it is known whether the step counts.
HELD_FOR_A_GUARD = {"muonh": 2.0, "prodigy": 2.0, "soap": 70.0, "kl_soap": 60.0}


@pytest.mark.quick(2)
@pytest.mark.parametrize("test", ["gradient", pytest.param("update", marks=pytest.mark.long)])
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in GUARDED else pytest.mark.long) for n in OPTIMIZERS]
)
def test_a_guarded_update_needs_no_memory_of_its_own(name, test):
    limit = most(name) + HELD_FOR_A_GUARD.get(name, 0.0)
    assert temporary_bytes_per_parameter(optimiz.guard(clipped(OPTIMIZERS[name]), 3, test)) <= limit


# Fast ones with no state, with float32 state, and with a sum over the gradient.
NARROW = ("sgd_plain", "adagrad", "lion", "sgd_sai", "adafactor")


@pytest.mark.quick(4)
@pytest.mark.parametrize("name", NARROW)
def test_an_update_of_bfloat16_parameters_needs_no_memory_of_its_own(name):
    assert temporary_bytes_per_parameter(OPTIMIZERS[name], jnp.bfloat16) <= 0.05


def test_of_bfloat16_what_is_held_is_bfloat16():
    assert temporary_bytes_per_parameter(clipped(OPTIMIZERS["sgd_plain"]), jnp.bfloat16) <= 0.05
    for name, arrays in (("lion", 1), ("adamw", 2)):  # the clipped gradient, and the momentum from before
        assert temporary_bytes_per_parameter(clipped(OPTIMIZERS[name]), jnp.bfloat16) <= 2 * arrays + 0.05


def test_accumulation_holds_the_update_of_its_branch_alone():
    assert temporary_bytes_per_parameter(optimiz.accumulate(clipped(OPTIMIZERS["adamw"]), 4)) <= 4.05


def test_a_guard_around_state_in_few_bits_copies_the_state():
    tx = optimiz.guard(optimiz.low_bit(optimiz.sgd_sai(RATE), optimiz.Int8()), 3)
    assert temporary_bytes_per_parameter(tx) <= 1.1


def test_those_of_optax_hold_a_gradient_where_ours_do_not():
    clip = optax.clip_by_global_norm(1.0)
    for tx in (optax.chain(clip, optax.adamw(RATE)), optax.lion(RATE), optax.lamb(RATE)):
        assert temporary_bytes_per_parameter(tx) >= 3.9


@pytest.mark.long
def test_the_program_grows_with_the_number_of_leaves_and_not_with_its_square():
    def lines(tx, leaves):
        params = {str(i): jax.ShapeDtypeStruct((8,), jnp.float32) for i in range(leaves)}
        return len(compiled(tx, params).as_text().splitlines())

    for tx in (
        optimiz.guard(clipped(optimiz.adamw(RATE)), 3),
        optimiz.sgd_sai(RATE, normalize="max"),
        optimiz.lamb(RATE),
        optimiz.adafactor(RATE),
    ):
        few, some, many = (lines(tx, leaves) for leaves in (8, 16, 32))
        assert many - some < 2.1 * (some - few)
