"""A plan is what the device's own compiler says, on any machine; what cannot be planned is refused by name."""

import dataclasses
import importlib.util
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

import optimiz
from optimiz import groups, plan, training
from optimiz.training import Task

SHAPES = {
    "words": jax.ShapeDtypeStruct((1024, 256), jnp.float32),
    "bias": jax.ShapeDtypeStruct((256,), jnp.float32),
}
SIZE = 1024 * 256 + 256
MATRIX = jax.ShapeDtypeStruct((2048, 2048), jnp.float32)
TPU = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs the extra tpu")
GPU = pytest.mark.skipif(importlib.util.find_spec("jax_cuda13_plugin") is None, reason="needs the extra gpu")
TARGETS = ["cpu", pytest.param("v5e", marks=TPU), pytest.param("h200", marks=GPU)]


@pytest.mark.parametrize("target", TARGETS)
def test_an_update_of_adamw_is_planned(target):
    planned = plan.update(optimiz.adamw(1e-3), SHAPES, target)
    assert planned.arguments["parameters"] == planned.arguments["gradients"] == 4 * SIZE
    assert planned.padding["parameters"] == 0  # whole tiles
    assert 8 * SIZE <= planned.arguments["state"] <= 8 * SIZE + 64
    assert 28 * SIZE <= planned.bound <= 28 * SIZE + 4096  # results of a TPU are padded to its tiles
    assert planned.traffic.least == planned.traffic.greatest
    if target != "cpu":  # whose backend writes each result in a loop of its own
        assert planned.traffic.greatest <= 1.03 * planned.bound and planned.temporary <= 0.1 * SIZE
        assert planned.fits and 0 < planned.seconds_at_least < 1
    for said in ("parameters", "state", "gradients", "peak", "moved", "kernels"):
        assert said in str(planned)


MATRICES = {f"layer_{i}": jax.ShapeDtypeStruct((512, 512), jnp.float32) for i in range(8)}


@pytest.mark.parametrize("target", TARGETS)
def test_an_offloaded_state_is_on_the_host_and_few_parameters_have_theirs_on_the_device(target):
    planned = plan.update(optimiz.adamw(1e-3), MATRICES, target, offload_state=True)
    matrix = 4 * 512 * 512
    assert planned.host == 16 * matrix and planned.arguments["state"] < 64
    assert re.search(rf"on the host +{planned.host / 2**20:.2f} MiB", str(planned))
    if target == "cpu":  # its two memories are one
        assert planned.link_seconds_at_least is None
        return
    assert planned.traffic.from_host == planned.traffic.to_host == planned.host
    assert planned.seconds_at_least >= planned.link_seconds_at_least == planned.host / planned.link
    # Before and after their update; with the arguments on the device less than it would hold without copies.
    assert planned.temporary <= {"v5e": 16, "h200": 8}[target] * matrix
    assert planned.peak < plan.update(optimiz.adamw(1e-3), MATRICES, target).peak


@TPU
def test_split_parameters_are_held_in_parts_and_a_global_norm_is_reduced():
    rules = groups.label({P("data", "model"): groups.path("words"), P(): groups.everything})
    tx = optax.chain(optimiz.clip_by_global_norm(1.0), optimiz.adamw(1e-3))
    planned = plan.update(tx, SHAPES, "v5e:2x2", mesh="data:2,model:2", rules=rules)
    assert planned.arguments["parameters"] == 4 * (1024 * 256 // 4 + 256)
    assert set(planned.collectives) == {"all-reduce"}


def test_an_update_knows_its_mesh_as_a_step_of_training_does():
    seen = []

    def update(updates, state, params=None):
        seen.append(jax.sharding.get_abstract_mesh().axis_names)
        return updates, state

    plan.update(optax.GradientTransformation(lambda _: optax.EmptyState(), update), SHAPES, "cpu")
    assert seen == [("data",)]


@TPU
def test_what_tiles_add_to_arguments_is_counted_and_shown():
    planned = plan.update(optimiz.sgd(1e-3), {"w": jax.ShapeDtypeStruct((1030, 300), jnp.float32)}, "v5e")
    padded = 4 * (
        1152 * 304 - 1030 * 300
    )  # the first dimension lies along the 128 of a tile: 1032 × 384 is more
    assert planned.padding["parameters"] == planned.padding["gradients"] == padded
    assert planned.peak >= sum(planned.arguments.values()) + sum(planned.padding.values())
    assert "padding of parameters" in str(planned)


@GPU
def test_a_norm_is_summed_again_in_a_branch_only():
    planned = plan.update(optimiz.lars(1e-3), SHAPES, "h200")  # reads both arrays for norms, and once more
    assert planned.traffic.least <= 1.03 * (planned.bound + 8 * SIZE) < planned.traffic.greatest


@TPU
@pytest.mark.long
@pytest.mark.parametrize("target", ["v5e", "v6e"])
@pytest.mark.parametrize("fmt", [optimiz.Int8(), optimiz.Float8()])
def test_eight_bit_state_is_decoded_and_encoded_where_it_lies(target, fmt):
    """The bound of one pass is 16 bytes per parameter; that of two is 22, and copies made it 65."""
    stack = jax.ShapeDtypeStruct((48, 768, 3072), jnp.float32)  # more than the cores' own memory
    planned = plan.update(optimiz.low_bit(optimiz.adamw(1e-3), fmt), {"w": stack}, target)
    assert planned.traffic.greatest <= 16.2 * stack.size


@TPU
@pytest.mark.long
def test_matrices_that_a_tpu_turns_over_are_decoded_and_encoded_where_they_lie():
    turned = jax.ShapeDtypeStruct((6400, 1600), jnp.float32)
    planned = plan.update(optimiz.low_bit(optimiz.adamw(1e-3), optimiz.Int8()), {"w": turned}, "v5e")
    assert planned.traffic.greatest <= 16.2 * turned.size


@pytest.mark.long
@pytest.mark.parametrize("target", [pytest.param("v5e", marks=TPU), pytest.param("h200", marks=GPU)])
def test_two_codes_of_a_byte_are_decoded_and_encoded_where_they_lie(target):
    """The bound of one pass is 14.1 bytes per parameter; without a kernel it was 44 and 95."""
    planned = plan.update(optimiz.low_bit(optimiz.adamw(1e-3), optimiz.Int4()), {"w": MATRIX}, target)
    assert planned.traffic.greatest <= 14.3 * MATRIX.size


@pytest.mark.long
@pytest.mark.parametrize("target", [pytest.param("v5e", marks=TPU), pytest.param("h200", marks=GPU)])
def test_bfloat16_parameters_are_rounded_at_random_within_the_same_pass(target):
    tx = optax.chain(optimiz.low_bit(optimiz.adamw(1e-3), optimiz.Int8()), optimiz.stochastic_rounding(0))
    planned = plan.update(tx, {"w": jax.ShapeDtypeStruct(MATRIX.shape, jnp.bfloat16)}, target)
    assert planned.traffic.greatest <= 10.2 * MATRIX.size


@pytest.mark.long
@pytest.mark.parametrize("target", [pytest.param("v5e:2x2", marks=TPU), pytest.param("h200:4", marks=GPU)])
def test_of_parts_that_hold_whole_blocks_nothing_is_exchanged(target):
    rules = groups.label({P("data", "model"): groups.everything})
    tx = optimiz.low_bit(optimiz.adamw(1e-3), optimiz.Int8())
    planned = plan.update(tx, {"w": MATRIX}, target, mesh="data:2,model:2", rules=rules)
    assert not planned.collectives and planned.traffic.greatest <= 16.3 * MATRIX.size / 4


@TPU
def test_what_does_not_fit_is_said_and_not_raised():
    huge = {"w": jax.ShapeDtypeStruct((2**16, 2**16), jnp.float32)}
    planned = plan.update(optimiz.adamw(1e-3), huge, "v5e")
    assert planned.fits is False and planned.failure and planned.arguments["parameters"] == 2**34
    assert "no" in str(planned)


WIDE = Task(
    init=lambda key: {"w": jax.random.normal(key, (64, 1024)), "v": jnp.zeros((1024, 16))},
    loss=lambda params, batch, key: jnp.sum((jnp.tanh(batch["x"] @ params["w"]) @ params["v"]) ** 2, axis=1),
    batches=lambda step: {"x": np.ones((32, 64), np.float32)},
)
WIDE_SIZE = 64 * 1024 + 1024 * 16


def test_a_whole_step_is_the_one_that_a_run_compiles(tmp_path):
    planned = plan.step(WIDE, optimiz.adamw(1e-3), "cpu")
    training.fit(WIDE, optimiz.adamw(1e-3), training.Settings(steps=1), tmp_path / "run", identity={})
    lines = (tmp_path / "run/timings.jsonl").read_text().splitlines()
    (compiled,) = (row for row in map(json.loads, lines) if row["event"] == "compile")
    assert planned.temporary == compiled["temporary_bytes"]
    # The compiler leaves out a scalar that it does not need.
    assert sum(planned.arguments.values()) == pytest.approx(compiled["argument_bytes"], abs=8)
    assert planned.arguments["parameters"] == 4 * WIDE_SIZE and planned.arguments["batch"] == 4 * 32 * 64
    assert 8 * WIDE_SIZE < planned.arguments["state"] < 8 * WIDE_SIZE + 64
    assert planned.peak >= sum(planned.arguments.values())
    # Forward and backward are five products of matrices, of which x needs no gradient.
    assert planned.flops == pytest.approx(2 * 32 * (2 * 64 * 1024 + 3 * 1024 * 16), rel=0.5)


def test_the_state_of_a_model_is_of_the_step_too():
    task = Task(
        init=lambda key: {"w": jnp.zeros((8, 4))},
        loss=lambda params, batch, key, model_state: ((batch["x"] @ params["w"]).sum(1), model_state),
        batches=lambda step: {"x": jax.ShapeDtypeStruct((2, 8), jnp.float32)},
        model_state=lambda key: {"mean": jnp.zeros(100)},
    )
    planned = plan.step(task, optax.sgd(0.1), "cpu")
    # A counter and a random key of eight bytes, besides.
    assert planned.arguments == {"parameters": 4 * 32, "state": 400 + 4 + 8, "batch": 64}


def test_a_search_is_offered_the_loss_and_an_estimate_the_logits():
    task = dataclasses.replace(WIDE, logits=lambda params, batch, key: batch["x"] @ params["w"] @ params["v"])
    for tx in (optimiz.armijo_sgd(), optimiz.sophia_g(1e-3, classes=16)):
        assert plan.step(task, tx, "cpu").arguments["parameters"] == 4 * WIDE_SIZE


@TPU
def test_a_batch_is_split_and_its_gradients_are_reduced():
    planned = plan.step(WIDE, optimiz.adamw(1e-3), "v5e:2x2")
    assert planned.arguments["batch"] == 4 * 32 * 64 // 4
    assert planned.arguments["parameters"] == 4 * WIDE_SIZE
    assert planned.collectives["all-reduce"].bytes >= 4 * WIDE_SIZE
    zero = plan.step(WIDE, optimiz.adamw(1e-3), "v5e:2x2", shard_state=True, offload_state=True)
    assert zero.arguments["state"] < 64 and zero.host == pytest.approx(2 * WIDE_SIZE)
    odd = dataclasses.replace(WIDE, batches=lambda step: {"x": np.ones((6, 64), np.float32)})
    with pytest.raises(ValueError, match="a batch of 6 examples cannot be split along data:4"):
        plan.step(odd, optimiz.adamw(1e-3), "v5e:2x2")


def test_a_call_of_any_function_is_planned():
    def train(params, x):
        loss, grads = jax.value_and_grad(lambda p: jnp.mean((x @ p["w"]) ** 2))(params)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), loss

    arguments = {
        "params": {"w": jax.ShapeDtypeStruct((256, 64), jnp.float32)},
        "batch": jax.ShapeDtypeStruct((32, 256), jnp.float32),
    }
    planned = plan.call(train, arguments, "cpu", donate=["params"])
    assert planned.arguments == {"params": 256 * 64 * 4, "batch": 32 * 256 * 4}
    assert planned.peak >= sum(planned.arguments.values())


def test_functions_and_values_that_an_update_needs_are_passed_on():
    value = jax.ShapeDtypeStruct((), jnp.float32)
    search = optax.with_extra_args_support(optimiz.armijo_sgd())
    planned = plan.update(
        search, SHAPES, "cpu", value=value, grad=SHAPES, value_fn=lambda p: jnp.sum(p["words"] ** 2)
    )
    assert planned.arguments["extra"] == 4 * SIZE + 4


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v9", "target must begin with one of v2, .*, cpu, got 'v9'"),
        ("cpu:8", "the number of CPU devices is JAX's"),
        pytest.param("v5e:3x5x7", "there is no slice", marks=TPU),
        pytest.param("h200:x", "takes a number of devices", marks=GPU),
    ],
)
def test_an_unknown_target_is_refused(name, message):
    with pytest.raises(ValueError, match=message):
        plan.update(optimiz.adamw(1e-3), SHAPES, name)


def test_a_mesh_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r'mesh "data:3" needs 3 devices, got \d+'):
        plan.update(optimiz.adamw(1e-3), SHAPES, "cpu", mesh="data:3")


@pytest.mark.parametrize("argument", ["specs", "donate"])
def test_what_names_no_argument_is_refused(argument):
    given = {argument: {"z": P()} if argument == "specs" else ["z"]}
    with pytest.raises(ValueError, match=rf"{argument} must name arguments \(x\), got 'z'"):
        plan.call(lambda x: x, {"x": jax.ShapeDtypeStruct((2,), jnp.float32)}, "cpu", **given)


@pytest.mark.parametrize(("target", "extra"), [("v5e", "tpu"), ("h200", "gpu")])
def test_a_compiler_that_is_missing_is_named_with_its_extra(target, extra, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=rf'pip install "optimiz-jax\[{extra}\]"'):
        plan.target(target)
