"""What is frozen has no update, no state and no gradient; the rate falls with each layer below the head."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from examples.shared import optimizers, trained_parts
from optimiz import groups, training
from tests.examples.shared.test_training_flags import parsed

SGD = ["--optimizer=optax:sgd", "--learning_rate=1", "--warmup=0", "--schedule=constant", "--weight_decay=0"]


def encoder():
    """The paths of an encoder of three layers with a head."""
    layer = lambda: {"kernel": jnp.ones((2, 2)), "norm": {"scale": jnp.ones(2)}}  # noqa: E731
    return {
        "embeddings": {"word": {"embedding": jnp.ones((4, 2))}, "norm": {"scale": jnp.ones(2)}},
        "layers": {0: layer(), 1: layer(), 2: layer()},
        "norm": {"scale": jnp.ones(2)},
        "head": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)},
    }


def updates_of(argv, head_rate=1.0):
    """The update of every parameter by a gradient of ones, by its path."""
    plan = parsed(*SGD, *argv)
    tx, _ = plan.optimizer(optimizers.choose("optax:sgd"), optimizers.head_multipliers(head_rate))
    params = encoder()
    updates, _ = tx.update(params, tx.init(params), params)
    leaves = jax.tree_util.tree_leaves_with_path(updates)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def test_the_rate_falls_with_each_layer_and_is_lowest_for_embeddings():
    multipliers = {
        "embeddings/": 0.4096,  # 0.8 ** 4, below three layers
        "layers/0/": 0.512,
        "layers/1/": 0.64,
        "layers/2/": 0.8,
        "norm/": 0.8,
        "head/": 1.0,
    }
    for head_rate in (1.0, 50.0):
        found = updates_of(["--layerwise_decay=0.8"], head_rate)
        for start, multiplier in multipliers.items():
            of_part = [update for path, update in found.items() if path.startswith(start)]
            expected = -multiplier * (head_rate if start == "head/" else 1)
            assert of_part
            for update in of_part:
                np.testing.assert_allclose(update, np.full(update.shape, expected), rtol=1e-6)


def test_frozen_layers_leave_the_multipliers_of_the_others_as_they_are():
    found = updates_of(["--layerwise_decay=0.8", "--freeze=^embeddings/,^layers/2/"])
    zero = {path for path, update in found.items() if not update.any()}
    assert zero == {path for path in found if path.startswith(("embeddings/", "layers/2/"))}
    np.testing.assert_allclose(found["layers/0/kernel"], np.full((2, 2), -0.512), rtol=1e-6)


def test_frozen_parameters_have_no_state_and_are_not_part_of_the_clipped_norm():
    plan = parsed("--freeze=encoder", "--clip=3", "--warmup=0")
    tx, _ = plan.optimizer(optimizers.choose("adamw"), optimizers.one_rate)
    assert {x.shape for x in jax.tree.leaves(jax.eval_shape(tx.init, encoder()))} == {(), (2, 3), (3,)}
    found = updates_of(["--freeze=encoder", "--clip=1.5"])  # of norm 3: nine entries of the head
    np.testing.assert_allclose(found["head/bias"], np.full(3, -0.5), rtol=1e-6)


@pytest.mark.parametrize("items", [["encoder"], ["^layers/[01]$", "^embeddings"]])
def test_gradients_of_what_is_frozen_are_not_computed(items):
    width = 64
    params = {
        "embeddings": jnp.ones((width, width)),
        "layers": {i: jnp.ones((width, width)) for i in range(3)},
        "head": {"kernel": jnp.ones((width, 2))},
    }

    def loss(params, batch, key):
        x = batch["x"] @ params["embeddings"]
        for i in range(3):
            x = jnp.tanh(x @ params["layers"][i])
        return (x @ params["head"]["kernel"]).sum(-1)

    task = training.Task(lambda key: params, loss, lambda step: {"x": jnp.ones((8, width))})
    held = trained_parts.without_gradients(task, items)
    still = trained_parts.frozen(items)(params)

    def gradient(of):
        return jax.jit(jax.grad(lambda params: of.loss(params, of.batches(0), None).sum()))

    whole, some = (gradient(of)(params) for of in (task, held))
    expected = jax.tree.map(lambda g, zero: jnp.zeros_like(g) if zero else g, whole, still)
    jax.tree.map(np.testing.assert_array_equal, some, expected)
    flops = [gradient(of).lower(params).compile().cost_analysis()["flops"] for of in (task, held)]
    assert flops[1] < 0.65 * flops[0]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (
            ["--freeze=("],
            "freeze '(' must be encoder or a regular expression for paths: missing ), unterminated",
        ),
        (["--freeze="], "must not be empty"),
        (["--layerwise_decay=0"], "flag --layerwise_decay=0.0: must be in (0, 1)"),
        (["--layerwise_decay=1"], "flag --layerwise_decay=1.0: must be in (0, 1)"),
        (
            ["--layerwise_decay=0.9", "--optimizer=armijo_sgd"],
            "--layerwise_decay needs an optimizer that takes a rate",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(argv, said):
    assert said in parsed(*argv)


@pytest.mark.parametrize(
    ("items", "said"),
    [
        (["hedd"], r"--freeze=hedd: path\('hedd'\) matches no parameter; there are embeddings/norm/scale"),
        (["."], r"--freeze=\. freezes every parameter, and nothing would be trained"),
        (["encoder", "^head/"], r"--freeze=encoder,\^head/ freezes every parameter"),
    ],
)
def test_what_freezes_nothing_or_everything_is_refused(items, said):
    with pytest.raises(ValueError, match=said):
        trained_parts.facts(encoder(), items, groups.layerwise_decay(0.5))


def test_an_encoder_is_what_is_not_the_head():
    headless = {name: part for name, part in encoder().items() if name != "head"}
    with pytest.raises(ValueError, match="--freeze=encoder: the head is the table of embeddings; name parts"):
        trained_parts.facts(headless, ["encoder"], optimizers.one_rate)
    found = trained_parts.facts(encoder(), ["encoder"], optimizers.head_multipliers(50.0))
    assert found == {"frozen": "30 of 39 parameters (76.9%): encoder", "multipliers of the rate": "head 50"}
