"""What the backward pass computes again gives the same loss and the same gradients."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

from examples.models.remat import REMAT
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
@pytest.mark.parametrize("remat", ["dots", "layers"])
@pytest.mark.parametrize("name", NAMES)
def test_loss_and_gradients_are_the_same(name, remat, on):
    (step, params), (again, _) = (build(name, remat=each) for each in ("none", remat))
    (loss, grads), (its_loss, its_grads) = (jax.jit(f)(params, on) for f in (step, again))
    np.testing.assert_allclose(its_loss, loss, rtol=1e-6)
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(grads))
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6 * largest), its_grads, grads
    )


def products(name, remat):
    """The matrix products of a forward and a backward pass."""
    step, params = build(name, remat=remat)
    return jax.jit(step).lower(params, None).as_text().count("dot_general")


@pytest.mark.long
@pytest.mark.parametrize("name", NAMES)
def test_products_of_attention_are_computed_again_or_all_of_a_layers(name):
    none, dots, layers = (products(name, remat) for remat in REMAT)
    blocks, attentions = (4, 6) if name == "t5" else (2, 2)
    assert none < dots <= none + 2 * attentions
    assert layers >= dots + 3 * blocks


def test_an_unknown_remat_is_refused_by_every_model():
    for _, config, _ in CASES.values():
        with pytest.raises(ValueError, match=r"^remat must be one of none, dots, layers, got True$"):
            dataclasses.replace(config, remat=True)
