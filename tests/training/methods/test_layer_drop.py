"""Layers are dropped with the right frequency, and are then neither computed nor charged."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optimiz
from optimiz import training
from optimiz.training import LayerDrop, Methods, Settings, skippable
from optimiz.training.compiled_step import compile_step
from optimiz.training.step import StepSpec
from optimiz.training.train_state import initial_state
from tests.training import layered


def test_theta_and_the_expected_depth():
    """golden: θ at γ 100, and the layers that are on in the mean, there and at saturation."""
    drop = LayerDrop(gamma=100.0)
    with jax.enable_x64(True):
        for progress, theta in {0.01: 0.6839397206, 0.02: 0.5676676416, 0.05: 0.5033689735, 0.0: 1.0}.items():
            assert float(drop.theta(progress)) == pytest.approx(theta, abs=1e-10)
    for layers, expected in {16: 11.75, 12: 8.75, 10: 7.25}.items():
        assert float(jnp.sum(drop.keep_probabilities(1.0, layers))) == pytest.approx(expected, abs=1e-5)
    for progress, expected in {0.01: 13.31, 0.02: 12.33, 0.05: 11.78}.items():
        assert float(jnp.sum(drop.keep_probabilities(progress, 16))) == pytest.approx(expected, abs=5e-3)


@pytest.mark.long
def test_patterns_are_drawn_independently_and_never_empty():
    drop = LayerDrop(gamma=3.0, least=0.0)
    keys = jax.random.split(jax.random.key(0), 40_000)
    patterns = np.asarray(jax.vmap(lambda key: drop.pattern(key, 0.1, 3))(keys))
    theta = np.exp(-0.3)
    keep = 1 - (1 - theta) * np.array([1, 2, 3]) / 3
    none = np.prod(1 - keep)  # then all are on
    np.testing.assert_allclose(patterns.mean(axis=0), keep + none, atol=0.01)
    both = patterns[:, :2].all(axis=1).mean()
    assert both == pytest.approx(keep[0] * keep[1] + none, abs=0.01)
    assert patterns.any(axis=1).all()
    always = jax.vmap(lambda key: drop.pattern(key, 0.0, 3))(keys[:100])
    assert always.all()
    last = LayerDrop(gamma=1e9, least=0.0)
    assert not jax.vmap(lambda key: last.pattern(key, 1.0, 2))(keys[:100])[:, 1].all()


def counted(calls):
    """A layer that takes note of each computation, forward and backward."""

    apply, layer = jax.custom_vjp(layered.layer), layered.layer

    def forward(x, params):
        jax.debug.callback(lambda: calls.append("forward"))
        return jax.vjp(layer, x, params)

    def backward(pull_back, cotangent):
        jax.debug.callback(lambda: calls.append("backward"))
        return pull_back(cotangent)

    apply.defvjp(forward, backward)
    return apply


@pytest.mark.parametrize("scanned", [False, True])
def test_what_is_off_is_not_computed(monkeypatch, scanned):
    def gradient(params, batch, on):
        return jax.grad(lambda params: jnp.sum(layered.loss(params, batch, None, on)))(params)

    def kernels(tree):
        layers = tree["layers"]
        return layers["kernel"] if scanned else np.stack([layer["kernel"] for layer in layers])

    params, batch = layered.init(None, 4, scanned), layered.task().batches(0)
    on = np.array([True, False, True, False])
    if scanned:
        kept = jax.tree.map(lambda x: x[on], params["layers"])
    else:
        kept = params["layers"][::2]
    expected = jax.jit(gradient)(params | {"layers": kept}, batch, None)
    calls = []
    monkeypatch.setattr(layered, "layer", counted(calls))
    ours = jax.jit(gradient)(params, batch, on)
    jax.effects_barrier()
    assert sorted(calls) == ["backward"] * 2 + ["forward"] * 2
    # As in the model of these layers alone: no rescaling.
    np.testing.assert_allclose(ours["head"], expected["head"], rtol=1e-5)
    np.testing.assert_allclose(kernels(ours)[on], kernels(expected), rtol=1e-5, atol=1e-6)
    assert not np.any(kernels(ours)[~on])


@pytest.mark.long
def test_a_step_is_charged_by_the_layers_that_were_on_whenever_the_host_looks(tmp_path):
    result = layered.fit("layer_drop", tmp_path / "often", log_every=1)
    rows = [row for row in result.history if "loss" in row]
    on = np.array([row["active_layers"] for row in rows])
    assert len(set(on)) > 2
    spent = np.cumsum(0.05 + 0.1 * on)
    np.testing.assert_allclose([row["fraction"] * 8 for row in rows], [0, *spent[:-1]], rtol=1e-5, atol=1e-7)
    assert result.reference_seconds == pytest.approx(spent[-1])
    assert spent[-2] < 8 <= spent[-1]
    layered.fit("layer_drop", tmp_path / "seldom", log_every=100)
    metrics = [(path / "metrics.jsonl").read_bytes() for path in (tmp_path / "often", tmp_path / "seldom")]
    assert metrics[0] == metrics[1]


@pytest.mark.long
def test_without_a_budget_it_follows_the_steps(tmp_path):
    drop = LayerDrop(gamma=1e9, least=0.0)  # all on at first, then only by accident

    def run(directory, **methods):
        return training.fit(
            layered.task(),
            optax.sgd(0.0),
            Settings(steps=12),
            directory,
            identity={},
            methods=Methods(**methods),
        )

    on = [row["active_layers"] for row in run(tmp_path / "drop", layer_drop=drop).history if "loss" in row]
    assert on[0] == 4 and np.mean(on[1:]) < 3
    run_json = (tmp_path / "drop" / "run.json").read_text()
    assert '"layer_drop"' in run_json and '"gamma": 1000000000.0' in run_json


@pytest.mark.long
def test_dropout_is_the_same_with_and_without(tmp_path):
    """So that runs that begin alike can be compared."""
    seen = {}
    for name, drop in {"with": LayerDrop(gamma=0.0), "without": None}.items():  # γ 0: θ stays 1
        result = training.fit(
            layered.task(),
            optax.sgd(0.1),
            Settings(steps=3),
            tmp_path / name,
            identity={},
            methods=Methods(layer_drop=drop),
        )
        seen[name] = [row["loss"] for row in result.history if "loss" in row]
    np.testing.assert_allclose(seen["with"], seen["without"], rtol=1e-6)


@pytest.mark.long
@pytest.mark.parametrize("name", ["sgd", "adamw", "lion", "sgd_sai"])
def test_any_optimizer_learns_without_some_of_its_layers(tmp_path, name):
    make = {
        "sgd": lambda: optimiz.sgd(0.05, 0.9),
        "adamw": lambda: optimiz.adamw(0.02),
        "lion": lambda: optimiz.lion(0.005),
        "sgd_sai": lambda: optimiz.sgd_sai(0.02),
    }
    result = layered.fit("layer_drop", tmp_path, tx=make[name](), budget=24.0)
    losses = [row["loss"] for row in result.history if "loss" in row]
    assert np.mean(losses[-10:]) < 0.9 * np.mean(losses[:10])


@pytest.mark.long
@pytest.mark.parametrize("name", [pytest.param("salsa", marks=pytest.mark.long), "sophia_g"])
def test_what_an_optimizer_does_beyond_a_step_has_the_same_layers_and_price(name):
    make = {
        "salsa": lambda: optimiz.salsa(),
        "sophia_g": lambda: optimiz.sophia_g(0.01, classes=layered.CLASSES, update_interval=1),
    }
    calls = []

    def logits(params, batch, key, on=None):
        jax.debug.callback(lambda on: calls.append(tuple(on.tolist())), on)
        return layered.logits(params, batch, key, on)

    def loss(params, batch, key, on=None):
        return optax.softmax_cross_entropy_with_integer_labels(logits(params, batch, key, on), batch["label"])

    task, tx = layered.task(loss=loss, logits=logits), make[name]()
    state = initial_state(task, tx, seed=3, budget=8.0)
    # At the end of the budget, where most layers may be off.
    state = state._replace(clock=dataclasses.replace(state.clock, spent=jnp.array([7, 0], jnp.int32)))
    reference, methods = layered.prices(), Methods(layer_drop=LayerDrop(gamma=100.0, least=0.0))
    step = compile_step(StepSpec.of(task, tx, state, task.batches(0), reference.seconds, methods)).executable
    after, metrics = step(state, task.batches(0), jnp.array([8, 0], jnp.int32))
    jax.effects_barrier()
    on = int(metrics.logged_scalars["active_layers"])
    assert len(set(calls)) == 1 and sum(calls[0]) == on < 4
    extra = 0.03 * on * int(metrics.logged_scalars["evaluations"]) if name == "salsa" else 0.2 * on
    seconds, beyond = after.clock.spent.tolist()
    assert seconds + beyond / 1e9 == pytest.approx(7 + 0.05 + 0.1 * on + extra)


def test_a_layer_that_is_always_on_is_called_without_a_branch():
    calls = []
    apply = skippable(lambda x, y, key: calls.append(key) or x + y)
    assert float(apply(None, jnp.float32(1), 2.0, None)) == 3
    assert float(apply(True, jnp.float32(1), 2.0, None)) == 3
    assert calls == [None, None]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"gamma": -1.0}, ValueError, r"gamma must be in \[0, inf.*, got -1.0"),
        ({"least": 1.5}, ValueError, r"least must be in \[0, 1\], got 1.5"),
        ({"gamma": "100"}, TypeError, "gamma must be a number, got '100'"),
    ],
)
def test_arguments_are_refused_by_name(changes, error, message):
    with pytest.raises(error, match=message):
        LayerDrop(**changes)


def test_a_task_without_a_depth_is_refused(tmp_path):
    task = dataclasses.replace(layered.task(), depth=None)
    with pytest.raises(ValueError, match=r"to drop layers, the task needs a depth, got Task\(depth=None\)"):
        training.fit(
            task,
            optax.sgd(0.1),
            Settings(steps=1),
            tmp_path,
            identity={},
            methods=Methods(layer_drop=LayerDrop()),
        )
