"""Train with every optimizer on eight devices in several layouts: a program, for test_devices.py.

python -m tests.devices

Prints one line of JSON: optimizer → layout → largest difference of a parameter from the run on one device.
"""

import json
import os

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"  # before JAX starts

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from tests.test_contract import TABLE

STEPS = 10
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(STEPS, 16, 8)).astype(np.float32), RNG.normal(size=(STEPS, 16, 4)).astype(np.float32)


def params():
    rng = np.random.default_rng(1)
    shapes = {"w1": (8, 16), "b1": (16,), "w2": (16, 4)}
    return {name: jnp.asarray(rng.normal(size=shape) / 4, jnp.float32) for name, shape in shapes.items()}


def loss(p, x, y):
    hidden = jnp.tanh(x @ p["w1"] + p["b1"])
    return jnp.mean((hidden @ p["w2"] - y) ** 2)


def train(tx, p, state, update, place=lambda x: x):
    for x, y in zip(X, Y, strict=True):
        p, state = update(p, state, place(x), place(y))
    return p, state


def step(tx, p, state, x, y):
    updates, state = tx.update(jax.grad(loss)(p, x, y), state, p)
    return optax.apply_updates(p, updates), state


def on_one_device(tx):
    return train(tx, params(), tx.init(params()), jax.jit(lambda *a: step(tx, *a)))[0]


def with_pmap(tx):
    """The same parameters on every device, gradients averaged by hand."""

    def replica(p, state, x, y):
        g = jax.lax.pmean(jax.grad(loss)(p, x, y), "data")
        updates, state = tx.update(g, state, p)
        return optax.apply_updates(p, updates), state

    def replicate(tree):
        return jax.tree.map(lambda a: jnp.broadcast_to(a, (8, *a.shape)), tree)

    update = jax.pmap(replica, axis_name="data")
    p, state = train(
        tx, replicate(params()), replicate(tx.init(params())), update, lambda a: a.reshape(8, 2, -1)
    )
    for leaf in jax.tree.leaves((p, state)):  # every replica took the same decisions
        np.testing.assert_array_equal(leaf, np.broadcast_to(leaf[0], leaf.shape))
    return jax.tree.map(lambda a: a[0], p)


def with_sharded_state(tx):
    """Data over eight devices, parameters and state spread over the same eight."""
    mesh = Mesh(np.array(jax.devices()), ("data",))

    def spread(leaf):
        axes = ["data" if n % 8 == 0 else None for n in leaf.shape]
        first = axes.index("data") if "data" in axes else None
        return NamedSharding(mesh, P(*("data" if i == first else None for i in range(len(axes)))))

    specs = jax.tree.map(spread, params()), jax.tree.map(spread, jax.eval_shape(tx.init, params()))
    p = jax.device_put(params(), specs[0])
    state = jax.jit(tx.init, out_shardings=specs[1])(p)
    update = jax.jit(lambda *a: step(tx, *a), out_shardings=specs)
    p, state = train(tx, p, state, update, lambda a: jax.device_put(a, NamedSharding(mesh, P("data"))))
    return p


def with_explicit_axes(tx):
    """Parameters whose sharding is part of their type; the state must get it, and keep it."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Explicit,))
    specs = {"w1": P(None, "data"), "b1": P("data"), "w2": P("data", None)}
    with jax.set_mesh(mesh):
        p = {name: jax.device_put(leaf, NamedSharding(mesh, specs[name])) for name, leaf in params().items()}
        state = tx.init(p)
        kinds = [jax.typeof(leaf) for leaf in jax.tree.leaves(state)]
        for x, y in zip(X, Y, strict=True):
            # The gradient comes from one device: the model is not what is tested here.
            plain = jax.tree.map(lambda a: jnp.asarray(np.asarray(a)), p)
            g = jax.grad(loss)(plain, x, y)
            g = {name: jax.device_put(leaf, NamedSharding(mesh, specs[name])) for name, leaf in g.items()}
            updates, state = jax.jit(tx.update)(g, state, p)
            p = optax.apply_updates(p, updates)
            assert [jax.typeof(leaf) for leaf in jax.tree.leaves(state)] == kinds
    return p


LAYOUTS = (with_pmap, with_sharded_state, with_explicit_axes)


def differences(tx):
    alone = on_one_device(tx)

    def largest(p):
        return max(float(np.abs(np.asarray(p[name]) - np.asarray(alone[name])).max()) for name in alone)

    return {layout.__name__: largest(layout(tx)) for layout in LAYOUTS}


if __name__ == "__main__":
    print(json.dumps({name: differences(row.make(0.01)) for name, row in TABLE.items()}))
