"""A layered model that is small enough to be grown, thinned and killed often; as a program, one that dies.

python -m tests.training.layered METHOD DIRECTORY DIE_AT

trains as ``fit`` in this module does, and kills itself when it asks for batch number DIE_AT.
"""

import os
import signal
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax

import optimiz
from optimiz import training
from optimiz.training import (
    Growth,
    LayerDrop,
    Methods,
    Reference,
    RhoLoss,
    SelectiveBackprop,
    Settings,
    Task,
    Timing,
    Work,
)

WIDTH, CLASSES = 4, 3
SIZES = {"": 8, "selective_backprop": 4, "rho_loss": 16}  # of the batches, by selection
METHODS = {
    "growth": Methods(growth=Growth(depths=(1, 2, 4), at=(0.25, 0.5))),
    "layer_drop": Methods(layer_drop=LayerDrop(gamma=5.0)),
    "selective_backprop": Methods(selection=SelectiveBackprop(batch=8, history=50)),
    "rho_loss": Methods(selection=RhoLoss(batch=8)),
    "all": Methods(
        growth=Growth(depths=(2, 4), at=(0.3,)),
        layer_drop=LayerDrop(gamma=5.0),
        selection=SelectiveBackprop(batch=8, history=50),
    ),
}


def init(key, depth=4, scanned=False):
    del key
    rng = np.random.default_rng(0)
    kernels = rng.normal(size=(depth, WIDTH, WIDTH)).astype(np.float32) / 2
    layers = {"bias": jnp.zeros((depth, WIDTH)), "kernel": jnp.asarray(kernels)}
    if not scanned:
        layers = [jax.tree.map(lambda x, i=i: x[i], layers) for i in range(depth)]
    return {"head": jnp.asarray(rng.normal(size=(WIDTH, CLASSES)), jnp.float32), "layers": layers}


def depth_of(params):
    layers = params["layers"]
    return len(layers) if isinstance(layers, list) else layers["bias"].shape[0]


def layer(x, params):
    return x + jnp.tanh(x @ params["kernel"] + params["bias"])


def logits(params, batch, key, on=None):
    apply, x = training.skippable(layer), batch["x"]
    if isinstance(params["layers"], list):
        for i, layer_params in enumerate(params["layers"]):
            x = apply(None if on is None else on[i], x, layer_params)
    else:
        all_on = jnp.ones(depth_of(params), bool) if on is None else on
        x, _ = jax.lax.scan(lambda x, of: (apply(of[0], x, of[1]), None), x, (all_on, params["layers"]))
    if key is not None:
        x = jnp.where(jax.random.bernoulli(key, 0.9, x.shape), x, 0)
    return x @ params["head"]


def loss(params, batch, key, on=None):
    return optax.softmax_cross_entropy_with_integer_labels(logits(params, batch, key, on), batch["label"])


def task(depth=4, size=8, scanned=False, **parts):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, WIDTH)).astype(np.float32)
    label = np.argmax(np.sin(2 * x[:, :CLASSES]) + x[:, 1:], axis=1)
    arrays = {"x": x, "label": label, "irreducible": rng.uniform(0, 1, 60).astype(np.float32)}

    def mean(params):
        return {"loss": jnp.mean(loss(params, arrays, None)), "depth": depth_of(params)}

    fields = {
        "init": lambda key: init(key, depth, scanned),
        "loss": loss,
        "logits": logits,
        "batches": training.shuffled(arrays, size, seed=0),
        "evaluate": mean,
        "depth": depth_of,
    }
    return Task(**fields | parts)


def prices(**changes):
    """A layer costs 0.1 s a step and 0.03 s a forward pass over 8 examples."""
    times = {}
    for depth in (1, 2, 3, 4):
        times |= {Work("step", depth, 8): 0.05 + 0.1 * depth, Work("hessian", depth, 8): 0.2 * depth}
        times |= {Work("forward", depth, size): 0.03 * depth * size / 8 for size in SIZES.values()}
    timings = {work: Timing(seconds, 0.0, 1) for work, seconds in times.items()}
    return Reference(times=timings, about={}, date="2026-01-01T00:00:00+00:00", environment={}, **changes)


# One of each, so that runs that differ in when they are looked at share a compiled step.
PRICES = prices()
TX = optimiz.adamw(optimiz.schedules.over_budget(optimiz.schedules.linear(0.02)))


def of(method, **parts):
    """The task that a method is tried on."""
    methods = METHODS[method]
    depth = 4 if methods.growth is None else methods.growth.depths[0]
    selection = "" if methods.selection is None else methods.selection.described()["name"]
    return task(depth, SIZES[selection], **parts)


def fit(method, directory, batches=None, tx=TX, **changes):
    found = of(method)
    return training.fit(
        found if batches is None else of(method, batches=batches(found.batches)),
        tx,
        Settings(**{"budget": 8.0, "evaluate_at": (0.4,), "save_every": 4, "log_every": 3} | changes),
        directory,
        identity={},
        reference=PRICES,
        methods=METHODS[method],
        resume=True,
    )


def dying_at(step):
    """Batches that kill the process that asks for one of them."""

    def dying(batches):
        def batch(index):
            if index == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return batches(index)

        return batch

    return dying


if __name__ == "__main__":
    fit(sys.argv[1], sys.argv[2], dying_at(int(sys.argv[3])))
