"""Models in NNX and in Linen train alike: the same trees of arrays, the same trajectory."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

from examples.models.adapters import from_linen, from_nnx, into_nnx

X = jnp.linspace(-1, 1, 12).reshape(4, 3)
Y = jnp.sin(3 * X[:, :1])


class NnxMlp(nnx.Module):
    def __init__(self, *, rngs):
        self.up = nnx.Linear(3, 5, rngs=rngs)
        self.down = nnx.Linear(5, 1, rngs=rngs)

    def __call__(self, x, scale=1.0):
        return scale * self.down(jnp.tanh(self.up(x)))


class LinenMlp(linen.Module):
    @linen.compact
    def __call__(self, x, scale=1.0):
        x = jnp.tanh(linen.Dense(5, name="up")(x))
        return scale * linen.Dense(1, name="down")(x)


def train(params, apply, optimizer, steps=10):
    state = optimizer.init(params)

    @jax.jit
    def step(params, state):
        loss, grads = jax.value_and_grad(lambda p: jnp.mean((apply(p, X) - Y) ** 2))(params)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    losses = []
    for _ in range(steps):
        params, state, loss = step(params, state)
        losses.append(loss)
    return params, np.array(losses)


def test_nnx_and_linen_train_alike():
    params, nnx_apply = from_nnx(NnxMlp(rngs=nnx.Rngs(0)))
    module = LinenMlp()
    linen_params, linen_apply = from_linen(module, module.init(jax.random.key(1), X))
    assert jax.tree.structure(linen_params) == jax.tree.structure(params)
    from_one, nnx_losses = train(params, nnx_apply, optax.adamw(1e-2))
    from_other, linen_losses = train(params, linen_apply, optax.adamw(1e-2))
    np.testing.assert_allclose(nnx_losses, linen_losses, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), from_one, from_other)
    assert nnx_losses[-1] < nnx_losses[0]


def test_params_are_a_plain_tree_of_arrays():
    params, _ = from_nnx(nnx.List([nnx.Linear(2, 2, rngs=nnx.Rngs(0)) for _ in range(11)]))
    assert type(params) is dict
    assert list(params) == list(range(11))
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(params))


def test_apply_takes_the_arguments_of_the_model():
    model = NnxMlp(rngs=nnx.Rngs(0))
    params, apply = from_nnx(model)
    np.testing.assert_array_equal(apply(params, X, scale=2.0), model(X, scale=2.0))
    module = LinenMlp()
    variables = module.init(jax.random.key(0), X)
    params, apply = from_linen(module, variables)
    np.testing.assert_array_equal(apply(params, X, scale=2.0), module.apply(variables, X, 2.0))


def test_apply_neither_reads_nor_writes_the_model():
    model = NnxMlp(rngs=nnx.Rngs(0))
    before = model(X)
    params, apply = from_nnx(model)
    zeros = jax.tree.map(jnp.zeros_like, params)
    np.testing.assert_array_equal(apply(zeros, X), jnp.zeros_like(Y))
    np.testing.assert_array_equal(model(X), before)


def test_into_nnx_puts_the_model_together_again():
    model = NnxMlp(rngs=nnx.Rngs(0))
    params, _ = train(*from_nnx(model), optax.sgd(0.1))
    into_nnx(model, params)
    again, apply = from_nnx(model)
    jax.tree.map(np.testing.assert_array_equal, again, params)
    np.testing.assert_array_equal(model(X), apply(params, X))


def test_other_keys_are_refused():
    model = NnxMlp(rngs=nnx.Rngs(0))
    params, apply = from_nnx(model)
    renamed = {"up": params["up"], "left": params["down"]}
    expected = (
        "params must have the keys of the model; 4 are in only one of them: "
        "['down']['bias'], ['down']['kernel'], ['left']['bias']"
    )
    for call in (lambda: apply(renamed, X), lambda: into_nnx(model, renamed)):
        with pytest.raises(ValueError) as error:
            call()
        assert str(error.value) == expected


def test_state_beside_the_parameters_is_refused():
    match = "no state besides its parameters, got "
    with pytest.raises(ValueError, match=match + r"\['mean'\], \['var'\]"):
        from_nnx(nnx.BatchNorm(3, rngs=nnx.Rngs(0)))
    with pytest.raises(ValueError, match=match):
        from_nnx(nnx.Dropout(0.1, rngs=nnx.Rngs(0)))
    module = linen.BatchNorm(use_running_average=True)
    with pytest.raises(ValueError, match=match + r"\['batch_stats'\]\['mean'\]"):
        from_linen(module, module.init(jax.random.key(0), X))
