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


@pytest.mark.quick(2)
@pytest.mark.parametrize("weight", [None, WEIGHT, 0 * WEIGHT], ids=["plain", "weighted", "no weight"])
def test_loss_and_gradient_are_those_of_the_whole_batch(weight):
    w = np.ones(12) if weight is None else weight
    share = w / (w.sum() or 1)
    error = X @ W - Y
    expected = (share * error**2).sum(), 2 * (share * error) @ X
    batch = BATCH if weight is None else BATCH | {"weight": np.float32(weight)}
    for n in (1, 3, 12):
        value, gradient, _ = micro_batches.value_and_grad(
            losses, {"w": jnp.float32(W)}, batch, jax.random.key(0), n
        )
        np.testing.assert_allclose(value, expected[0], rtol=1e-6)
        np.testing.assert_allclose(gradient["w"], expected[1], rtol=1e-5, atol=1e-6)
        again = micro_batches.value(losses, {"w": jnp.float32(W)}, batch, jax.random.key(0), n)
        np.testing.assert_allclose(again, expected[0], rtol=1e-6)


def noise_of(x, n, weight=None):
    """The noise of a batch whose examples have the gradients x."""
    batch = {"x": x} if weight is None else {"x": x, "weight": weight}
    losses = lambda params, batch, key: batch["x"] @ params  # noqa: E731
    return micro_batches.value_and_grad(losses, jnp.zeros(x.shape[1]), batch, jax.random.key(0), n)[2]


def test_noise_is_the_variance_of_the_micro_batches():
    g = np.stack([X[m::3].mean(0) for m in range(3)])
    trace = 4 * np.sum((g - g.mean(0)) ** 2) / 2
    found = noise_of(jnp.float32(X), 3)
    np.testing.assert_allclose(found, [trace, np.sum(X.mean(0) ** 2) - trace / 12, 12], rtol=1e-5)
    of_equal = noise_of(jnp.ones((4, 2)), 2)
    np.testing.assert_allclose(of_equal, [0, 2, 4], atol=1e-6)


def test_noise_has_no_bias_whatever_the_weights():
    """Over all batches of four examples from a population of three."""
    population = np.float32([[3, 0], [1, 1], [-1, 5]])
    batches = population[np.stack(np.meshgrid(*[range(3)] * 4), -1).reshape(81, 4)]
    of_all = jax.jit(jax.vmap(noise_of, in_axes=(0, None, None)), static_argnums=1)
    for weight in ([1.0, 1, 1, 1], [1.0, 0.5, 3, 2], [0.0, 1, 2, 3]):
        for n in (2, 4):
            found = of_all(batches, n, jnp.float32(weight))
            np.testing.assert_allclose(found.trace.mean(), population.var(0).sum(), rtol=1e-5)
            np.testing.assert_allclose(found.squared_norm.mean(), 1 + 4, rtol=1e-4)
            np.testing.assert_allclose(
                found.batch_size, sum(weight) ** 2 / sum(w**2 for w in weight), rtol=1e-5
            )
    alone = noise_of(batches[0], 2, jnp.float32([1, 0, 2, 0]))  # only the first micro-batch has weight
    assert np.isnan(alone.trace) and np.isnan(alone.squared_norm)


def test_noise_costs_less_than_two_per_cent_of_a_step():
    def flops(of):
        loss = lambda p, b, key: (jnp.tanh(b["x"] @ p["a"]) @ p["b"])[:, 0]  # noqa: E731
        p = {"a": jnp.ones((64, 128)), "b": jnp.ones((128, 1))}
        step = lambda p, x, key: of(micro_batches.value_and_grad(loss, p, {"x": x}, key, 2))  # noqa: E731
        compiled = jax.jit(step).lower(p, jnp.ones((128, 64)), jax.random.key(0)).compile()
        return compiled.cost_analysis()["flops"]

    without, measured = flops(lambda found: found[:2]), flops(lambda found: found)
    assert without < measured < 1.02 * without


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


def test_noise_is_measured_every_few_updates_of_whole_batches_and_changes_nothing(tmp_path):
    whole, cut, measured = (
        run(tmp_path / name, optax.adam(0.1), n, noise_every=every).history
        for name, n, every in (("whole", 1, 0), ("cut", 8, 0), ("measured", 1, 2))
    )
    assert [row["step"] for row in cut if "noise" in row] == [0, 1, 2, 3]
    assert [row["step"] for row in measured if "noise" in row] == [0, 2]
    for row in (0, 2):
        step = [next(found for found in rows if found.get("step") == row)["noise"] for rows in (cut, measured)]
        assert step[0] == pytest.approx(step[1], rel=1e-3)
    assert [{k: v for k, v in row.items() if k != "noise"} for row in measured] == whole
    with pytest.raises(training.OtherSettings, match=r"settings\.noise_every was 2"):
        run(tmp_path / "measured", optax.adam(0.1), 1)


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
    settings = training.Settings(steps=1, noise_every=2)
    with pytest.raises(ValueError, match=r"Settings\(noise_every=2\) cannot go with Task\(model_state=\)"):
        training.fit(task, optax.sgd(0.1), settings, tmp_path / "b", identity={})
    with pytest.raises(ValueError, match="noise_every must be 0 with micro-batches"):
        training.Settings(steps=1, noise_every=2, micro_batches=2)
    one = training.Task(tiny.task().init, tiny.task().loss, training.shuffled({"x": X, "y": Y}, 1, 0))
    with pytest.raises(ValueError, match="needs batches of at least 2 examples, got 1"):
        training.fit(one, optax.sgd(0.1), settings, tmp_path / "c", identity={})
