"""The state of a model besides its parameters: the statistics of BatchNorm, in Linen and in NNX."""

import dataclasses
import json
import os
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import optimiz
from optimiz import training
from tests.training import tiny

RNG = np.random.default_rng(0)
X = RNG.normal(3, 2, size=(24, 4)).astype(np.float32)
ARRAYS = {"x": X, "y": np.sin(X.sum(axis=1))}
MOMENTUM = 0.9


class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = nn.BatchNorm(use_running_average=not train, momentum=MOMENTUM)(nn.Dense(8)(x))
        return nn.Dense(1)(nn.Dropout(0.2, deterministic=not train)(jnp.tanh(x)))[:, 0]


def linen(**parts):
    net = Net()

    def init(key):
        return net.init(key, X, train=False)

    def loss(params, batch, key, model_state):
        variables = {"params": params, "batch_stats": model_state}
        rngs = {} if key is None else {"dropout": key}
        y, new = net.apply(variables, batch["x"], train=key is not None, mutable=["batch_stats"], rngs=rngs)
        return (y - batch["y"]) ** 2, new["batch_stats"]

    def evaluate(params, model_state):
        return {"loss": jnp.mean(loss(params, ARRAYS, None, model_state)[0])}

    task = training.Task(
        lambda key: init(key)["params"],
        loss,
        training.shuffled(ARRAYS, 8, 0),
        evaluate,
        model_state=lambda key: init(key)["batch_stats"],
    )
    return dataclasses.replace(task, **parts)


class NNXNet(nnx.Module):
    def __init__(self, rngs):
        self.inner, self.norm = nnx.Linear(4, 8, rngs=rngs), nnx.BatchNorm(8, momentum=MOMENTUM, rngs=rngs)
        self.outer = nnx.Linear(8, 1, rngs=rngs)

    def __call__(self, x):
        return self.outer(jnp.tanh(self.norm(self.inner(x))))[:, 0]


def nnx_task():
    def parts(key):
        return nnx.split(NNXNet(nnx.Rngs(key)), nnx.Param, nnx.BatchStat)

    graph = nnx.graphdef(NNXNet(nnx.Rngs(0)))

    def loss(params, batch, key, model_state):
        net = nnx.merge(graph, params, model_state)
        net.train() if key is not None else net.eval()
        losses = (net(batch["x"]) - batch["y"]) ** 2
        return losses, nnx.state(net, nnx.BatchStat)

    def evaluate(params, model_state):
        return {"loss": jnp.mean(loss(params, ARRAYS, None, model_state)[0])}

    init, model_state = (lambda key: parts(key)[1]), (lambda key: parts(key)[2])
    return training.Task(init, loss, training.shuffled(ARRAYS, 8, 0), evaluate, model_state=model_state)


TASKS = {"linen": linen, "nnx": nnx_task}


def run(task, directory, tx=None, steps=9, **more):
    settings = training.Settings(steps=steps, log_every=3, evaluate_every=4, **more.pop("settings", {}))
    return training.fit(task, tx or optimiz.adamw(0.01), settings, directory, identity={}, **more)


def assert_same(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_a_run_is_the_loop_one_would_write_by_hand(tmp_path, task):
    task = task()
    result = run(task, tmp_path, optax.sgd(0.1), steps=5)

    init_key, steps_key = jax.random.split(jax.random.key(0, impl="threefry2x32"))
    params, state = task.init(init_key), task.model_state(init_key)

    @jax.jit
    def step(params, state, batch, key):
        def mean(params):
            inside = jax.tree.map(lambda x: x, state)  # NNX's variables are set in the trace that made them
            losses, new = task.loss(params, batch, key, model_state=inside)
            return jnp.mean(losses), new

        (loss, state), grads = jax.value_and_grad(mean, has_aux=True)(params)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), state, loss

    losses = []
    for index in range(5):
        params, state, loss = step(params, state, task.batches(index), jax.random.fold_in(steps_key, index))
        losses.append(float(loss))
    np.testing.assert_allclose([row["loss"] for row in result.history if "loss" in row], losses, rtol=1e-5)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)  # noqa: E731
    jax.tree.map(close, result.params, params)
    jax.tree.map(close, result.model_state, state)
    evaluation = result.history[-1]["evaluation"]["loss"]
    np.testing.assert_allclose(evaluation, task.evaluate(params, model_state=state)["loss"], rtol=1e-5)


def test_the_statistics_are_running_means_of_the_batches_before_the_updates(tmp_path):
    """At a rate of zero the inputs of the norm are known, and so is Σ 0.1 · 0.9^(T-1-t) m_t."""
    task = linen()
    result = run(task, tmp_path, optax.sgd(0.0), steps=6)
    dense = jax.device_get(result.params["Dense_0"])
    mean = np.zeros(8)
    for step in range(6):
        mean = MOMENTUM * mean + (1 - MOMENTUM) * (
            task.batches(step)["x"] @ dense["kernel"] + dense["bias"]
        ).mean(axis=0)
    np.testing.assert_allclose(result.model_state["BatchNorm_0"]["mean"], mean, rtol=1e-5)


@pytest.mark.quick(1)
@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_resumed_is_uninterrupted_to_the_bit(tmp_path, task):
    whole = run(task(), tmp_path / "whole")

    class Leave(Exception):
        pass

    def leave(progress):
        if progress.steps == 6:
            raise Leave

    with pytest.raises(Leave):
        run(task(), tmp_path / "run", settings={"save_every": 3}, progress=leave)
    assert tiny.checkpoints(tmp_path / "run") == ["000000003"]
    resumed = run(task(), tmp_path / "run", resume=True)
    read_back = run(task(), tmp_path / "run", resume=True)
    for result in (resumed, read_back):
        assert_same((whole.params, whole.model_state), (result.params, result.model_state))
        assert result.history == whole.history


@pytest.mark.long
def test_on_a_mesh_the_statistics_are_those_of_the_whole_batch(tmp_path):
    program = [sys.executable, "-m", "tests.training.test_model_state", tmp_path / "shared"]
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    found = json.loads(
        subprocess.run(program, env=os.environ | flags, stdout=subprocess.PIPE, check=True).stdout
    )
    alone = run(linen(), tmp_path / "alone", optax.sgd(0.1))
    expected = [leaf.tolist() for leaf in jax.tree.leaves((alone.params, alone.model_state))]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    "make", [lambda: optimiz.salsa(), lambda: optimiz.sophia_h(1e-3, key=0)], ids=["salsa", "sophia_h"]
)
def test_further_evaluations_of_the_loss_see_the_same_state_and_discard_theirs(tmp_path, make):
    """One step from the same parameters: the statistics are those that SGD leaves."""
    plain = run(linen(), tmp_path / "plain", optax.sgd(0.1), steps=1)
    other = run(linen(), tmp_path / "other", make(), steps=1)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5)  # noqa: E731
    jax.tree.map(close, plain.model_state, other.model_state)


def test_logits_are_given_the_state(tmp_path):
    def logits(params, batch, key, model_state):
        variables = {"params": params, "batch_stats": model_state}
        y, _ = Net().apply(variables, batch["x"], train=True, mutable=["batch_stats"], rngs={"dropout": key})
        return jnp.stack([y, -y], axis=-1)

    assert (
        run(
            linen(logits=logits), tmp_path, optimiz.sophia_g(1e-3, classes=2, key=0, update_interval=1), steps=2
        ).steps
        == 2
    )


@pytest.mark.quick(1)
@pytest.mark.parametrize("guarded", [True, False])
def test_a_bad_batch_leaves_the_state_as_it_was(tmp_path, guarded):
    plain = linen()

    def batches(step):
        batch = plain.batches(step)
        return batch | {"x": batch["x"] * np.float32(np.nan)} if step == 3 else batch

    tx = optimiz.guard(optimiz.adamw(0.01), 5) if guarded else optimiz.adamw(0.01)
    if not guarded:
        with pytest.raises(training.Diverged) as raised:
            run(linen(batches=batches), tmp_path, tx)
        assert np.isfinite(jax.tree.leaves(raised.value.result.model_state)[0]).all()
        return
    result = run(linen(batches=batches), tmp_path, tx, steps=4)
    assert_same(result.model_state, run(plain, tmp_path / "before", tx, steps=3).model_state)


@pytest.mark.long
def test_examples_are_selected_in_evaluation_mode_and_work_is_charged(tmp_path):
    task = linen()
    methods = training.Methods(selection=training.SelectiveBackprop(batch=8))
    result = run(task, tmp_path, methods=methods, steps=3)
    assert result.steps == 3 and result.model_state is not None
    reference = training.calibrate(task, optimiz.adamw(0.01), about={}, n=2)
    settings = training.Settings(budget=3 * reference.seconds("step", batch=8))
    training.fit(task, optimiz.adamw(0.01), settings, tmp_path / "budget", identity={}, reference=reference)


@pytest.mark.quick(4)
@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            {"loss": lambda p, b, k, model_state: b["y"]},
            r"must return a pair, the losses and the model_state .*, got",
        ),
        ({"loss": lambda p, b, k, model_state: (b["y"], {})}, "must return a model_state of the same tree, "),
        (
            {
                "loss": lambda p, b, k, model_state: (
                    b["y"],
                    jax.tree.map(lambda x: x.astype(jnp.bfloat16), model_state),
                )
            },
            r"the loss changes model_state\['BatchNorm_0'\]\['mean'\] from float32\[8\] to bfloat16\[8\]",
        ),
        (
            {"loss": lambda p, b, k: (b["y"], {}), "model_state": None},
            r"it is tuple of shape None; to return a model state .* give Task\(model_state=\)",
        ),
        ({"model_state": lambda key: None}, r"Task\(model_state=\) must return arrays, got None"),
        (
            {"model_state": lambda key: {"mean": jnp.zeros((0, 2))}},
            r"model_state\['mean'\] has shape \(0, 2\): an empty array",
        ),
    ],
)
def test_a_state_that_cannot_be_kept_is_refused(tmp_path, parts, message):
    with pytest.raises(ValueError, match=message):
        run(linen(**parts), tmp_path)


def test_a_model_that_grows_cannot_have_a_state(tmp_path):
    growth = training.Growth(depths=(1, 2), at=(0.5,))
    with pytest.raises(ValueError, match="only parameters can grow"):
        run(linen(depth=lambda params: 1), tmp_path, methods=training.Methods(growth=growth))


def statistics_among_parameters():
    variables = lambda key: Net().init(key, X, train=False)  # noqa: E731
    net = lambda key: nnx.split(NNXNet(nnx.Rngs(key)))[1]  # noqa: E731
    return {"linen": variables, "linen, deeper": lambda key: {"net": variables(key)}, "nnx": net}


@pytest.mark.parametrize("init", statistics_among_parameters().values(), ids=statistics_among_parameters())
def test_statistics_among_the_parameters_are_refused(tmp_path, init):
    loss = lambda params, batch, key: batch["y"]  # noqa: E731
    task = training.Task(init, loss, training.shuffled(ARRAYS, 8, 0))
    with pytest.raises(
        ValueError, match=r"params\[.*holds statistics of BatchNorm.*: init must return the"
    ) as refused:
        run(task, tmp_path)
    assert "\n" not in str(refused.value)


if __name__ == "__main__":  # on several devices
    layout = training.Layout(training.make_mesh("data:4"), shard_state=True)
    shared = run(linen(), sys.argv[1], optax.sgd(0.1), layout=layout)
    print(json.dumps([leaf.tolist() for leaf in jax.tree.leaves((shared.params, shared.model_state))]))
