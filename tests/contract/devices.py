"""Train with every optimizer on eight devices in several layouts: a program, for test_devices.py.

XLA_FLAGS=--xla_force_host_platform_device_count=8 python -m tests.contract.devices

Prints one line of JSON: layout → optimizer → largest difference of a parameter from the run on one device.
Model, data and steps serve the other programs that train with every optimizer.
"""

import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import optimiz
from tests.contract.table import TABLE

STEPS = 10
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(STEPS, 16, 8)).astype(np.float32), RNG.normal(size=(STEPS, 16, 4)).astype(np.float32)
ADAMW = optimiz.adamw(0.01)
CHOSEN = "OPTIMIZ_TESTS_METHODS"  # in the environment: "few", or "all", which is the default
_FEW = {"adafactor, factored", "adamw", "guard", "lars", "sgd_sai", "signum"}
_ALL = {name: row.make(0.01) for name, row in TABLE.items()} | {
    "adafactor, factored": optimiz.adafactor(0.01, min_dim_size_to_factor=4),
    "accumulate": optimiz.accumulate(ADAMW, 2),
    "guard": optimiz.guard(ADAMW, give_up_after=1),
}


def optimizers():
    """Those that are trained, by name."""
    few = os.environ.get(CHOSEN) == "few"
    return {name: tx for name, tx in _ALL.items() if name in _FEW or not few}


# A run is a dict: optimizer → its parameters and its state. One program steps them all: so it is compiled
# once and not for each of them.


def params():
    rng = np.random.default_rng(1)
    shapes = {"w1": (8, 16), "b1": (16,), "w2": (16, 4)}
    return {name: jnp.asarray(rng.normal(size=shape) / 4, jnp.float32) for name, shape in shapes.items()}


def loss(p, x, y):
    hidden = jnp.tanh(x @ p["w1"] + p["b1"])
    return jnp.mean((hidden @ p["w2"] - y) ** 2)


def fresh(place=lambda p: p):
    """The run before its first step, of parameters that ``place`` has laid out."""
    run = {}
    for name, tx in optimizers().items():
        p = place(params())
        run[name] = p, tx.init(p)
    return run


def gradients(run, x, y):
    return {name: jax.grad(loss)(p, x, y) for name, (p, _) in run.items()}


def apply(run, gradients):
    stepped = {}
    for name, (p, state) in run.items():
        updates, state = _ALL[name].update(gradients[name], state, p)
        stepped[name] = optax.apply_updates(p, updates), state
    return stepped


def step(run, x, y):
    return apply(run, gradients(run, x, y))


def train(run, step, place=lambda x: x, steps=range(STEPS)):
    for (
        i
    ) in steps:  # one after the other: programs of several CPU devices that run at once can block one another
        run = jax.block_until_ready(step(run, place(X[i]), place(Y[i])))
    return run


def on_one_device():
    return train(fresh(), jax.jit(step))


def with_pmap():
    """The same parameters on every device, gradients averaged by hand."""

    def replica(run, x, y):
        return apply(run, jax.lax.pmean(gradients(run, x, y), "data"))

    replicated = jax.tree.map(lambda a: jnp.broadcast_to(a, (8, *a.shape)), fresh())
    run = train(replicated, jax.pmap(replica, axis_name="data"), lambda a: a.reshape(8, 2, -1))
    run = jax.device_get(run)
    for leaf in jax.tree.leaves(run):  # every replica took the same decisions
        np.testing.assert_array_equal(leaf, np.broadcast_to(leaf[0], leaf.shape))
    return jax.tree.map(lambda a: a[0], run)


def spread(mesh):
    """Where each array of a run lies: split along its first axis that the mesh divides, or else replicated."""

    def layout(leaf):
        first = next((i for i, n in enumerate(leaf.shape) if n % mesh.size == 0), None)
        return NamedSharding(mesh, P(*("data" if i == first else None for i in range(len(leaf.shape)))))

    # A function of its own, for JAX keeps the shapes of a function that it knows, whatever is trained now.
    return jax.tree.map(layout, jax.eval_shape(lambda: fresh()))


def with_sharded_state():
    """Data over eight devices, parameters and state spread over the same eight."""
    mesh = Mesh(np.array(jax.devices()), ("data",))
    run = jax.jit(fresh, out_shardings=spread(mesh))()
    split = NamedSharding(mesh, P("data"))
    return train(run, jax.jit(step, out_shardings=spread(mesh)), lambda a: jax.device_put(a, split))


def with_explicit_axes():
    """Parameters whose sharding is part of their type; the state must get it, and keep it."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Explicit,))
    specs = {"w1": P(None, "data"), "b1": P("data"), "w2": P("data", None)}

    def place(p):
        return {name: jax.device_put(leaf, NamedSharding(mesh, specs[name])) for name, leaf in p.items()}

    @jax.jit
    def from_one_device(run, x, y):  # the model is not what is tested here
        return gradients(run, x, y)

    with jax.set_mesh(mesh):
        run = fresh(place)
        kinds = [jax.typeof(leaf) for leaf in jax.tree.leaves(run)]
        for x, y in zip(X, Y, strict=True):
            g = from_one_device(jax.tree.map(lambda a: jnp.asarray(np.asarray(a)), run), x, y)
            run = jax.jit(apply)(run, {name: place(leaves) for name, leaves in g.items()})
            assert [jax.typeof(leaf) for leaf in jax.tree.leaves(run)] == kinds
    return run


def differences(run, other):
    """Optimizer → the largest difference of a parameter between two runs."""

    def largest(p, q):
        return max(float(np.abs(np.asarray(p[name]) - np.asarray(q[name])).max()) for name in p)

    return {name: largest(run[name][0], other[name][0]) for name in run}


LAYOUTS = (with_pmap, with_sharded_state, with_explicit_axes)


if __name__ == "__main__":
    alone = on_one_device()
    print(json.dumps({layout.__name__: differences(layout(), alone) for layout in LAYOUTS}))
