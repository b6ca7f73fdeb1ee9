"""Train with several optimizers in several layouts over devices: a program, for test_layouts.py.

XLA_FLAGS=--xla_force_host_platform_device_count=8 python -m tests.training.layouts DIRECTORY OPTIMIZERS LAYOUTS
python -m tests.training.layouts DIRECTORY OPTIMIZERS processes ADDRESS PROCESSES INDEX

Prints one line of JSON: layout → optimizer → the losses of 20 steps. Names are joined by commas. ``processes``
runs one of several processes, each with one device, that share a run.
"""

import functools
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import optimiz
from optimiz import groups, training
from optimiz.training.train_state import keys

STEPS, BATCH, CLASSES = 20, 16, 4

SOPHIA_G = functools.partial(optimiz.sophia_g, 3e-3, classes=CLASSES, update_interval=5)
OPTIMIZERS = {
    "adamw": optimiz.adamw(3e-3),
    "sgd_sai": optimiz.sgd_sai(1e-2),
    "lion": optimiz.lion(1e-3),
    "sophia_g": SOPHIA_G(),
    "salsa": optimiz.salsa(init_step=1e-3, every=3, first=3),
    # The first matrix is stored in eight bits. Each of its rows is one block, which split parameters divide.
    "low_bit adamw": optimiz.low_bit(optimiz.adamw(3e-3), optimiz.Int8(), min_size=512),
}


def task(share=(0, 1)):
    """Classification by a network without dropout, on data that its first layer could tell apart."""
    rng = np.random.default_rng(0)
    x_BD = rng.normal(size=(96, 16)).astype(np.float32)
    label_B = (x_BD @ rng.normal(size=(16, CLASSES))).argmax(-1)

    def init(key):
        first, second = jax.random.split(key)
        return {
            "hidden": jax.random.normal(first, (16, 32)) / 4,
            "bias": jnp.zeros(32),
            "out": jax.random.normal(second, (32, CLASSES)) / 6,
        }

    def logits(params, batch, key=None):
        return jnp.tanh(batch["x"] @ params["hidden"] + params["bias"]) @ params["out"]

    def loss(params, batch, key):
        return optax.softmax_cross_entropy_with_integer_labels(logits(params, batch), batch["label"])

    return training.Task(
        init=init,
        loss=loss,
        batches=training.shuffled({"x": x_BD, "label": label_B}, BATCH, 0, share),
        evaluate=lambda params: {"norm": optax.tree.norm(params)},
        logits=logits,
    )


def fit(tx, directory, layout=None):
    result = training.fit(
        task(layout.share if layout else (0, 1)),
        tx,
        training.Settings(steps=STEPS, log_every=10, evaluate_every=10, compare_replicas_every=5),
        directory,
        identity={},
        layout=layout,
    )
    return [row["loss"] for row in result.history if "loss" in row]


def by_hand(step, params, state, place=lambda batch: batch):
    """The losses of a loop that is written by hand."""
    found = []
    for index in range(STEPS):
        params, state, loss = step(params, state, place(task().batches(index)))
        found.append(float(np.ravel(loss)[0]))
    return found


def one_step(tx, shared=lambda value_fn: value_fn):
    """A step for any optimizer; ``shared`` makes one loss of the devices' own."""
    learnt = task()

    def step(params, state, batch):
        value_fn = shared(lambda params: jnp.mean(learnt.loss(params, batch, None)))
        value, grad = jax.value_and_grad(value_fn)(params)
        offered = {"value_fn": value_fn, "logits_fn": lambda params: learnt.logits(params, batch)}
        updates, state = tx.update(grad, state, params, value=value, grad=grad, **offered)
        return optax.apply_updates(params, updates), state, value

    return step


def with_pmap(name):
    """The same parameters on every device, each with its part of the batch."""
    n, tx = jax.device_count(), OPTIMIZERS[name]
    if name == "sophia_g":
        tx = SOPHIA_G(axis_name="data")
    step = one_step(tx, functools.partial(optimiz.mean_over, "data"))

    def in_parts(array):
        return array.reshape(n, -1, *array.shape[1:])

    params = task().init(keys(0)[0])
    run = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (n, *leaf.shape)), (params, tx.init(params)))
    return by_hand(jax.pmap(step, axis_name="data"), *run, lambda batch: jax.tree.map(in_parts, batch))


def with_explicit_axes(name):
    """The mesh is that of ``jax.make_mesh``: how arrays are split is part of their types, also in the loss."""
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh):
        params = jax.device_put(task().init(keys(0)[0]), NamedSharding(mesh, P()))
        state = jax.jit(OPTIMIZERS[name].init)(params)
        split = NamedSharding(mesh, P("data"))
        return by_hand(
            jax.jit(one_step(OPTIMIZERS[name])), params, state, lambda batch: jax.device_put(batch, split)
        )


def part_by_part():
    """Sophia-G on one device that draws labels as those of a ``pmap`` do, each for its part of the batch."""
    learnt, tx = task(), SOPHIA_G(microbatches=jax.device_count())

    def step(params, state, batch):
        def logits_fn(params, index):
            parts = batch["x"].reshape(jax.device_count(), -1, batch["x"].shape[-1])
            return learnt.logits(params, {"x": parts[index]})

        value, grad = jax.value_and_grad(lambda params: jnp.mean(learnt.loss(params, batch, None)))(params)
        updates, state = tx.update(grad, state, params, logits_fn=logits_fn)
        return optax.apply_updates(params, updates), state, value

    params = learnt.init(keys(0)[0])
    return by_hand(jax.jit(step), params, tx.init(params))


def split_parameters(params):
    rules = {P(None, "model"): groups.path("hidden"), P("model", None): groups.path("out")}
    return groups.label(rules | {P(): groups.everything})(params)


def layout(name):
    n = jax.device_count()
    match name:
        case "one device":
            return None
        case "data parallel" | "processes":
            return training.Layout(training.make_mesh(f"data:{n}"))
        case "ZeRO-1":
            return training.Layout(training.make_mesh(f"data:{n}"), shard_state=True)
        case "split parameters":
            mesh = training.make_mesh(f"data:{n // 2},model:2")
            return training.Layout(mesh, split_parameters, shard_state=True)


def losses(directory, optimizer, name):
    match name:
        case "pmap":
            return with_pmap(optimizer)
        case "explicit axes":
            return with_explicit_axes(optimizer)
        case "part by part":
            return part_by_part()
    return fit(OPTIMIZERS[optimizer], directory / optimizer / name, layout(name))


def main(directory, optimizers, layouts, address=None, processes=1, index=0):
    if address:
        training.join(address, int(processes), int(index))
    found = {
        name: {optimizer: losses(Path(directory), optimizer, name) for optimizer in optimizers.split(",")}
        for name in layouts.split(",")
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
