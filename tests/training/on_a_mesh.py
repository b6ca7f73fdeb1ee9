"""Print where the arrays of a run on eight devices lie, and whether it resumes elsewhere, for test_sharding.py.

XLA_FLAGS=--xla_force_host_platform_device_count=8 python -m tests.training.on_a_mesh DIRECTORY

Prints one line of JSON.
"""

import collections
import contextlib
import json
import math
import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from optimiz import training
from optimiz.training.compiled_step import compile_step
from optimiz.training.step import StepSpec
from optimiz.training.train_state import initial_state, keys, laid_out, state_shardings
from tests.training import layouts

TX = layouts.OPTIMIZERS["adamw"]


def held(tree):
    """The bytes of a tree on each device."""
    by_device = dict.fromkeys(jax.devices(), 0)
    for leaf in jax.tree.leaves(tree):
        for shard in leaf.addressable_shards:
            by_device[shard.device] += shard.data.nbytes
    return sorted(by_device.values())


def memory(tx, layout):
    """Bytes of the state by device, as it is and as it is reckoned; and of all arrays that making it left."""
    task = layouts.task()
    shapes = jax.eval_shape(lambda: initial_state(task, tx, seed=0))
    before = sum(array.nbytes for array in jax.live_arrays())
    state = laid_out(layout, lambda: initial_state(task, tx, seed=0))
    made = sum(array.nbytes for array in jax.live_arrays()) - before
    shardings = state_shardings(shapes, layout)
    return {
        "parameters": held(state.params),
        "optimizer": held(state.opt_state),
        "reckoned": [
            training.bytes_per_device(shapes.params, shardings.params),
            training.bytes_per_device(shapes.opt_state, shardings.opt_state),
        ],
        "global": sum(leaf.nbytes for leaf in jax.tree.leaves(state)),
        "made": made,
    }


def traffic(tx, layout):
    """What a compiled step communicates: kind → bytes of the arrays that come of it."""
    task = layouts.task()
    params = jax.eval_shape(task.init, keys(0)[0])
    state, batch = jax.eval_shape(tx.init, params), task.batches(0)
    places = layout.params(params), layout.opt_state(state, params)
    step = jax.jit(
        layouts.one_step(tx),
        in_shardings=(*places, jax.tree.map(lambda _: layout.batch, batch)),
        out_shardings=(*places, layout.whole),
    )
    found = collections.Counter()
    program = step.lower(params, state, batch).compile().as_text()
    kinds = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
    for arrays, kind in re.findall(rf"= (.*) ({kinds})(?:-start)?\(", program):
        for dtype, shape in re.findall(r"(\w+)\[([\d,]*)\]", arrays):
            size = math.prod(int(length) for length in shape.split(",") if length)
            found[kind] += size * {"f32": 4, "s32": 4, "u32": 4, "s8": 1, "pred": 1}[dtype]
    return found


def leave_after(steps, task):
    def batches(step):
        if step == steps:
            raise KeyError
        return task.batches(step)

    return training.Task(task.init, task.loss, batches, logits=task.logits)


def moved(directory):
    """A run that is stopped on eight devices and read on others: is the state the same to the bit?"""
    there = layouts.layout("ZeRO-1")
    settings = training.Settings(steps=6, save_every=3)
    with contextlib.suppress(KeyError):
        training.fit(leave_after(3, layouts.task()), TX, settings, directory, identity={}, layout=there)
    task = layouts.task()
    like = jax.eval_shape(lambda: initial_state(task, TX, seed=0))
    described = json.loads((directory / "run.json").read_bytes())
    read = {}
    for name in ("ZeRO-1", "split parameters", "one device"):
        layout, wanted = layouts.layout(name), like
        if layout is not None:
            wanted = jax.tree.map(
                lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
                like,
                state_shardings(like, layout),
            )
        state = training.storage.checkpoint.restore(
            directory / "checkpoints", lambda record, wanted=wanted: wanted, described
        ).state
        if layout is not None:
            assert all(
                a.sharding == b.sharding for a, b in zip(*map(jax.tree.leaves, (state, wanted)), strict=True)
            )
        read[name] = b"".join(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state))
    explicit = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Explicit,) * 2)
    here = training.Layout(explicit, layouts.split_parameters)
    result = training.fit(task, TX, settings, directory, identity={}, layout=here, resume=True)
    whole = training.fit(task, TX, settings, directory / "whole", identity={})
    losses, wanted = ([row["loss"] for row in r.history if "loss" in row] for r in (result, whole))
    return {
        "same bits": len(set(read.values())) == 1,
        "difference": float(np.abs(np.subtract(losses, wanted)).max()),
    }


def summed_tokens():
    """A task whose examples have from 0 to 8 valid tokens, which their weights count."""
    rng = np.random.default_rng(0)
    x_BTD, tokens_B = rng.normal(size=(24, 8, 16)), rng.permutation(np.arange(24) % 9)
    batch = {"x": x_BTD, "y": rng.normal(size=(24, 8)), "weight": tokens_B.astype(np.float32)}

    def init(key):
        first, second = jax.random.split(key)
        return {"hidden": jax.random.normal(first, (16, 32)) / 4, "out": jax.random.normal(second, (32, 8)) / 6}

    def loss(params, batch, key):
        found_BT = (jnp.tanh(batch["x"] @ params["hidden"]) @ params["out"]).sum(-1)
        valid_BT = jnp.arange(8) < batch["weight"][:, None]
        nats_B = jnp.where(valid_BT, jnp.square(found_BT - batch["y"]), 0).sum(-1)
        return nats_B / jnp.maximum(batch["weight"], 1)

    return training.Task(init, loss, lambda step: batch)


def in_parts(layout, parts):
    """The loss and the parameters after one step of a rate of 1 on a batch in so many parts."""
    task, tx = summed_tokens(), optax.sgd(1.0)
    state = laid_out(layout, lambda: initial_state(task, tx, seed=0))
    step = compile_step(StepSpec.of(task, tx, state, task.batches(0), micro_batches=parts), layout).executable
    state, metrics = jax.block_until_ready(step(state, layout.place(task.batches(0))))
    return [metrics.loss, *jax.tree.leaves(state.params)]


def micro_batches():
    """The largest difference of micro-batches on a mesh from the mean over all tokens on one device."""
    with jax.enable_x64():
        task = summed_tokens()
        params, batch = jax.tree.map(np.asarray, task.init(keys(0)[0])), task.batches(0)

        def mean(params):
            nats = task.loss(params, batch, None) * np.maximum(batch["weight"], 1)
            return nats.sum() / batch["weight"].sum()

        value, grads = jax.value_and_grad(mean)(params)
        expected = [value, *jax.tree.leaves(jax.tree.map(np.subtract, params, grads))]
        eight, both = training.make_mesh("data:8"), training.make_mesh("data:4,model:2")
        found = {
            "data parallel": in_parts(training.Layout(eight), 3),
            "fully sharded": in_parts(
                training.Layout(eight, lambda params: dict.fromkeys(params, P("data")), shard_state=True), 2
            ),
            "tensor parallel": in_parts(
                training.Layout(both, lambda params: {"hidden": P(None, "model"), "out": P("model")}), 2
            ),
        }
        return {
            name: max(float(np.abs(one - other).max()) for one, other in zip(each, expected, strict=True))
            for name, each in found.items()
        }


def refused(call):
    try:
        call()
    except (ValueError, training.RunError) as error:
        return str(error)


def main(directory):
    batch = {"x": np.zeros((12, 16), np.float32)}
    report = {
        "memory": {
            optimizer: {
                name: memory(layouts.OPTIMIZERS[optimizer], layouts.layout(name))
                for name in ("data parallel", "ZeRO-1", "split parameters")
            }
            for optimizer in ("adamw", "low_bit adamw")
        },
        "traffic": {
            optimizer: {
                name: traffic(layouts.OPTIMIZERS[optimizer], layouts.layout(name))
                for name in ("data parallel", "ZeRO-1")
            }
            for optimizer in ("adamw", "low_bit adamw")
        },
        "moved": moved(Path(directory)),
        "micro-batches": micro_batches(),
        "refused": {
            "batch": refused(lambda: layouts.layout("data parallel").place(batch)),
            "mesh": refused(lambda: training.make_mesh("data:3")),
        },
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main(sys.argv[1])
