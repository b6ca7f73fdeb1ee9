import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

import optimiz

PARAMS = {
    "kernel": jnp.asarray(np.random.default_rng(0).normal(size=(128, 256)), jnp.float32),
    "bias": jnp.ones(3),
}


def test_it_takes_the_steps_of_the_optimizer_and_has_its_state():
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.lamb(0.1, weight_decay=0.1))
    low = optimiz.low_memory_update(tx)
    params, wanted = PARAMS, PARAMS
    state, wanted_state = low.init(params), tx.init(wanted)
    for i in range(3):
        g = jax.tree.map(lambda p, i=i: jnp.cos(p + i), PARAMS)
        updates, state = jax.jit(low.update)(g, state, params)
        params = optax.apply_updates(params, updates)
        updates, wanted_state = jax.jit(tx.update)(g, wanted_state, wanted)
        wanted = optax.apply_updates(wanted, updates)
        chex.assert_trees_all_equal_structs(state, wanted_state)
        chex.assert_trees_all_close((params, state), (wanted, wanted_state), rtol=1e-5, atol=1e-7)


def test_a_line_search_evaluates_its_loss_as_often_as_without():
    def evaluations(wrap):
        calls = []

        def loss(p):
            value = sum(jnp.sum(jnp.square(x)) for x in jax.tree.leaves(p))
            return jax.pure_callback(
                lambda v: calls.append(0) or v, jax.ShapeDtypeStruct((), jnp.float32), value
            )

        tx = wrap(optimiz.armijo_sgd(init_step=64.0))
        value, g = jnp.float32(jnp.sum(PARAMS["kernel"] ** 2) + 3), jax.tree.map(lambda p: 2 * p, PARAMS)
        update = jax.jit(lambda g, state, p: tx.update(g, state, p, value=value, grad=g, value_fn=loss))
        jax.block_until_ready(update(g, tx.init(PARAMS), PARAMS))
        return len(calls)

    once = evaluations(lambda tx: tx)
    assert evaluations(optimiz.low_memory_update) == evaluations(lambda tx: optimiz.guard(tx, 3)) == once > 1


def test_passes_extra_arguments_on_and_does_without_parameters():
    def update_fn(updates, state, params=None, *, factor):
        return jax.tree.map(lambda g: factor * g, updates), state

    tx = optimiz.low_memory_update(
        optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update_fn)
    )
    updates, _ = jax.jit(lambda g, f: tx.update(g, tx.init(g), factor=f))(PARAMS, jnp.float32(3))
    chex.assert_trees_all_close(updates, jax.tree.map(lambda p: 3 * p, PARAMS))
    updates, _ = jax.jit(
        lambda g: optimiz.low_memory_update(optax.sgd(1.0)).update(g, optax.sgd(1.0).init(g), factor=3)
    )(PARAMS)
    chex.assert_trees_all_close(updates, jax.tree.map(lambda p: -p, PARAMS))
