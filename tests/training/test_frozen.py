"""Arrays that the loss reads and nothing changes: a run is the same as if they were constants of its loss."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

import optimiz
from optimiz import compare, plan, training
from tests.training import layered

RNG = np.random.default_rng(0)
ARRAYS = {"x": RNG.normal(size=(24, 4)).astype(np.float32)}
ARRAYS["y"] = np.sin(ARRAYS["x"].sum(1))
BASE = {"w": RNG.normal(size=(4, 8)).astype(np.float32), "count": np.arange(3, dtype=np.int8)}


def init(key):
    return {"v": jax.random.normal(key, (8,))}


def loss(params, batch, key, frozen):
    return (jnp.tanh(batch["x"] @ frozen["w"]) @ params["v"] - batch["y"]) ** 2


def evaluate(params, frozen):
    return {"loss": jnp.mean(loss(params, ARRAYS, None, frozen))}


TASK = training.Task(init, loss, training.shuffled(ARRAYS, 8, 0), evaluate, frozen=lambda key: BASE)
CLOSED = training.Task(
    init,
    lambda params, batch, key: loss(params, batch, key, BASE),
    TASK.batches,
    lambda params: evaluate(params, BASE),
)


def run(task, directory, steps=6, tx=None, **more):
    settings = training.Settings(steps=steps, log_every=3, evaluate_every=4, save_every=2)
    return training.fit(task, tx or optimiz.adamw(0.01), settings, directory, identity={}, **more)


def test_a_run_is_that_of_a_loss_that_closes_over_them_and_saves_what_it_would(tmp_path):
    result, other = run(TASK, tmp_path / "frozen"), run(CLOSED, tmp_path / "closed")
    np.testing.assert_allclose(result.params["v"], other.params["v"], rtol=1e-5)
    losses = [
        [row["evaluation"]["loss"] for row in found.history if "evaluation" in row] for found in (result, other)
    ]
    np.testing.assert_allclose(*losses, rtol=1e-5)
    names = [
        json.loads((tmp_path / name / "checkpoints/000000006/manifest.json").read_text())["arrays"].keys()
        for name in ("frozen", "closed")
    ]
    assert names[0] == names[1]


def test_a_run_is_resumed_to_the_bit_and_leaves_the_arrays_of_the_task_alone(tmp_path):
    held = jax.tree.map(jnp.asarray, BASE)
    task, tx = dataclasses.replace(TASK, frozen=lambda key: held), optax.adamw(0.01)
    whole = run(task, tmp_path / "whole", tx=tx)
    run(task, tmp_path / "parts", tx=tx, steps=4)
    resumed = run(task, tmp_path / "parts", tx=tx, resume=True)
    np.testing.assert_array_equal(resumed.params["v"], whole.params["v"])
    jax.tree.map(np.testing.assert_array_equal, held, BASE)  # no step has consumed them


def test_a_comparison_reads_them(tmp_path):
    arms, settings = [compare.Arm("sgd", 0.1, optimiz.sgd)], training.Settings(steps=2)
    (compared,) = compare.run_matrix(
        arms, [0], lambda seed: TASK, settings, tmp_path / "compared", identity={}, metric="loss"
    )
    alone = training.fit(TASK, optimiz.sgd, settings, tmp_path / "alone", identity={}, learning_rate=0.1)
    assert compared.test == {"loss": float(evaluate(alone.params, BASE)["loss"])}


@pytest.mark.long
def test_a_reference_is_calibrated_with_them():
    assert training.calibrate(TASK, optax.sgd(0.1), about={}, n=2).prices()


def test_they_are_planned_apart_from_the_state_and_split_by_rules_of_their_own():
    layout = training.Layout(training.make_mesh("data:1"), frozen_partition=lambda tree: {"w": P("model")})
    with pytest.raises(ValueError, match=r"frozen\['w'\] names axis 'model'"):
        layout.frozen({"w": BASE["w"]})
    planned = plan.step(TASK, optax.sgd(0.1), "cpu")
    assert planned.arguments == {"parameters": 32, "frozen": 131, "state": 4 + 8, "batch": 4 * 8 * 5}


@pytest.mark.long
def test_on_a_mesh_they_are_split_and_the_result_is_the_same(tmp_path, program):
    found = program("tests.training.test_frozen", tmp_path, devices=2)
    alone = run(TASK, tmp_path / "alone")
    np.testing.assert_allclose(found["v"], alone.params["v"], rtol=1e-5)
    assert found["held"] == [4, 4]  # columns of w on each device


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"frozen": BASE}, r"Task\(frozen=\) must be a function, key → arrays that nothing changes, or None"),
        ({"frozen": lambda key: None}, r"Task\(frozen=\) must return arrays, got None"),
    ],
)
def test_refusals(tmp_path, parts, message):
    with pytest.raises((TypeError, ValueError), match=message):
        run(dataclasses.replace(TASK, **parts), tmp_path)


def test_a_model_that_grows_has_none(tmp_path):
    task = dataclasses.replace(layered.task(depth=1), frozen=lambda key: BASE)
    methods = training.Methods(growth=training.Growth(depths=(1, 2), at=(0.5,)))
    with pytest.raises(ValueError, match=r"Methods\(growth=\) cannot go with Task\(frozen=\)"):
        run(task, tmp_path, methods=methods)


def main(directory):
    held = []

    def evaluate_on(params, frozen):
        held.extend(shard.data.shape[1] for shard in frozen["w"].addressable_shards)
        return evaluate(params, frozen)

    rules = lambda tree: {"w": P(None, "data"), "count": P()}  # noqa: E731
    layout = training.Layout(training.make_mesh("data:2"), frozen_partition=rules)
    result = run(dataclasses.replace(TASK, evaluate=evaluate_on), f"{directory}/mesh", layout=layout)
    print(json.dumps({"v": result.params["v"].tolist(), "held": held[:2]}))


if __name__ == "__main__":
    import sys

    main(sys.argv[1])
