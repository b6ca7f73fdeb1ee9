"""Layers that the backward pass computes again give the same loss and the same gradients."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

from tests.examples import golden
from tests.examples.models.test_skipped_layers import CASES

NAMES = sorted(CASES, key=lambda name: name != "gpt2")  # the smallest first


def build(name, *, remat):
    """The gradient of a loss of a model, and what it is a function of."""
    model, config, arguments = CASES[name]
    config = dataclasses.replace(config, remat=remat)
    params, apply = golden.drawn(lambda: model(config, rngs=nnx.Rngs(0)))

    def loss(params, on_N):
        return (apply(params, *arguments, key=jax.random.key(0), on_N=on_N) ** 2).sum()

    return jax.value_and_grad(loss), params


@pytest.mark.quick(1)
@pytest.mark.parametrize("on", [None, np.array([False, True])], ids=["all on", "one off"])
@pytest.mark.parametrize("name", NAMES)
def test_loss_and_gradients_are_the_same(name, on):
    (step, params), (again, _) = (build(name, remat=remat) for remat in (False, True))
    (loss, grads), (its_loss, its_grads) = (jax.jit(f)(params, on) for f in (step, again))
    np.testing.assert_allclose(its_loss, loss, rtol=1e-6)
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(grads))
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6 * largest), its_grads, grads
    )


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_every_layer_is_computed_again_and_none_by_default(name):
    for remat, expected in ((True, 4 if name == "t5" else 2), (False, 0)):
        step, params = build(name, remat=remat)
        traced = str(jax.make_jaxpr(lambda params, f=step: f(params, None))(params))
        # Each is differentiated once: forward, where it is a call of its own, and backward.
        assert traced.count("prevent_cse=True") == expected
