import jax
import jax.numpy as jnp
import optax
import pytest

import optimiz
from optimiz import numerics

TREE = {"a": jnp.full(2, 2.0), "b": jnp.full(2, 3.0), "c": jnp.full(3, 4.0)}


def test_a_function_is_traced_once_for_all_leaves_of_a_shape_and_not_compiled_for_each_call():
    calls = []

    def scaled(factor, tree):
        def leaf(x):
            calls.append(x.shape)
            return factor * x

        return numerics.map_leaves(leaf, tree)

    assert jax.jit(scaled)(2.0, TREE)["b"].tolist() == [6.0, 6.0]
    assert calls == [(2,), (3,)]
    calls.clear()
    scaled(2.0, TREE)
    assert calls == [(2,), (2,), (3,)]
    # What it closes over may be differentiated, and may be a batch.
    slope = jax.grad(lambda factor: sum(jnp.sum(x) for x in scaled(factor, TREE).values()))
    assert jax.jit(jax.vmap(slope))(jnp.array([1.0, 5.0])).tolist() == [22.0, 22.0]


@pytest.mark.parametrize(
    "make",
    [optimiz.adafactor, optimiz.adagrad, optimiz.adamw, optimiz.amsgrad, optimiz.lion, optimiz.rmsprop],
)
def test_an_update_adds_few_equations_for_each_leaf(make):
    def equations(leaves, made):
        params = [jnp.zeros((4, 4))] * leaves
        tx = made(0.1)
        return len(jax.make_jaxpr(tx.update)(params, tx.init(params), params).eqns)

    def for_a_leaf(made):
        return (equations(20, made) - equations(2, made)) / 18

    assert for_a_leaf(make) <= 4 < for_a_leaf(getattr(optax, make.__name__))
