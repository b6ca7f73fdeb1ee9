"""A batch in micro-batches gives the update of the whole one, in less memory."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optimiz import salsa, sophia_g, training
from optimiz.training import micro_batches
from tests.training import tiny

DRAW = np.random.default_rng(0)
X, Y = DRAW.normal(size=(12, 4)), DRAW.normal(size=12)
WEIGHT = np.array([1, 0, 3, 0.5, 2, 0, 1, 1, 0, 4, 1, 2.0])
BATCH = {"x": np.float32(X), "y": np.float32(Y)}
W = DRAW.normal(size=4)


def losses(params, batch, key):
    return (batch["x"] @ params["w"] - batch["y"]) ** 2


@pytest.mark.parametrize("weight", [None, WEIGHT, 0 * WEIGHT], ids=["plain", "weighted", "no weight"])
def test_loss_and_gradient_are_those_of_the_whole_batch(weight):
    w = np.ones(12) if weight is None else weight
    share = w / (w.sum() or 1)
    error = X @ W - Y
    expected = (share * error**2).sum(), 2 * (share * error) @ X
    batch = BATCH if weight is None else BATCH | {"weight": np.float32(weight)}
    for n in (1, 3, 12):
        value, gradient = micro_batches.value_and_grad(
            losses, {"w": jnp.float32(W)}, batch, jax.random.key(0), n
        )
        np.testing.assert_allclose(value, expected[0], rtol=1e-6)
        np.testing.assert_allclose(gradient["w"], expected[1], rtol=1e-5, atol=1e-6)
        again = micro_batches.value(losses, {"w": jnp.float32(W)}, batch, jax.random.key(0), n)
        np.testing.assert_allclose(again, expected[0], rtol=1e-6)


def test_what_is_given_for_each_example_is_in_its_order():
    found = micro_batches.each(lambda p, b, k: (b["x"], b["y"]), None, BATCH, jax.random.key(0), 4)
    np.testing.assert_array_equal(found[0], BATCH["x"])
    np.testing.assert_array_equal(found[1], BATCH["y"])


def test_each_micro_batch_has_a_random_key_of_its_own():
    draw = lambda params, batch, key: jax.random.uniform(key, batch["y"].shape)  # noqa: E731
    drawn = micro_batches.each(draw, None, BATCH, jax.random.key(0), 3)
    assert len(np.unique(drawn)) == 12


def run(directory, tx, n, **settings):
    task = tiny.task()
    plain = training.Task(
        task.init,
        lambda params, batch, key: task.loss(params, batch, None),  # without dropout
        task.batches,
        task.evaluate,
        lambda params, batch, key: jnp.tanh(batch["x"] @ params["w1"])[:, :2],
    )
    settings = tiny.settings(steps=4, evaluate_every=2, micro_batches=n, **settings)
    return training.fit(plain, tx, settings, directory, identity={}, resume=True)


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    "tx", [optax.adam(0.1), salsa(), sophia_g(1e-2, classes=2, key=0)], ids=["adam", "salsa", "sophia_g"]
)
def test_a_run_is_that_of_whole_batches(tmp_path, tx):
    whole, cut = (run(tmp_path / str(n), tx, n) for n in (1, 4))
    for one, other in zip(whole.history, cut.history, strict=True):
        np.testing.assert_allclose(
            *(row["loss"] if "loss" in row else row["evaluation"]["loss"] for row in (one, other)), rtol=2e-3
        )
    with pytest.raises(training.OtherSettings, match=r"settings\.micro_batches was 4, is 2"):
        run(tmp_path / "4", tx, 2)


def test_it_takes_less_memory(tmp_path):
    draw = lambda key: {"a": jax.random.normal(key, (8, 2048)), "b": jnp.ones((2048, 8))}  # noqa: E731
    loss = lambda p, b, key: jnp.square(jnp.tanh(b["x"] @ p["a"]) @ p["b"]).mean(-1)  # noqa: E731
    task = training.Task(draw, loss, lambda step: {"x": np.ones((256, 8), np.float32)})
    one, cut = (
        training.fit(
            task, optax.sgd(0.1), training.Settings(steps=1, micro_batches=n), tmp_path / str(n), identity={}
        )
        for n in (1, 8)
    )
    assert cut.temporary_bytes < 0.5 * one.temporary_bytes


def test_what_has_no_micro_batches_is_refused(tmp_path):
    with pytest.raises(ValueError, match="micro_batches must divide the batch, got 3 and a batch of 8"):
        run(tmp_path / "a", optax.sgd(0.1), 3)
    task = training.Task(
        tiny.task().init, tiny.task().loss, tiny.task().batches, model_state=lambda key: {"n": jnp.zeros(())}
    )
    settings = training.Settings(steps=1, micro_batches=2)
    with pytest.raises(ValueError, match=r"Settings\(micro_batches=2\) cannot go with Task\(model_state=\)"):
        training.fit(task, optax.sgd(0.1), settings, tmp_path / "b", identity={})
