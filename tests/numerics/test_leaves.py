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


def equations_for_a_leaf(tx):
    def equations(leaves):
        params = [jax.ShapeDtypeStruct((128, 128), jnp.float32)] * leaves
        return len(jax.make_jaxpr(tx.update)(params, jax.eval_shape(tx.init, params), params).eqns)

    return (equations(10) - equations(2)) / 8


@pytest.mark.parametrize(
    "make",
    [optimiz.adafactor, optimiz.adagrad, optimiz.adamw, optimiz.amsgrad, optimiz.lion, optimiz.rmsprop],
)
def test_an_update_adds_few_equations_for_each_leaf(make):
    assert equations_for_a_leaf(make(0.1)) <= 4 < equations_for_a_leaf(getattr(optax, make.__name__)(0.1))


@pytest.mark.parametrize(
    "tx",
    [optimiz.lamb(0.1), optimiz.lars(0.1), optimiz.guard(optimiz.adamw(0.1), 3)],
    ids=["lamb", "lars", "guard"],
)
def test_a_deferred_update_does_too(tx):
    assert equations_for_a_leaf(tx) <= 21
