"""Low-bit state and stochastic rounding on eight devices: a program, for test_low_bit_devices.py.

XLA_FLAGS=--xla_force_host_platform_device_count=8 python -m tests.contract.low_bit_devices

Prints one line of JSON: layout → format → share of the stored bytes that differ from one device's.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import optimiz

STEPS = 3
SHAPES = {"aligned": (16, 256), "across": (16, 128), "rows": (16, 40), "vector": (256,), "small": (8,)}
# A shard of "across" holds half a block of its last axis; "rows" ends in the middle of one.
SPECS = {
    "aligned": P(None, "data"),
    "across": P(None, "data"),
    "rows": P("data", None),
    "vector": P("data"),
    "small": P(None),
}
FORMATS = {"int8": optimiz.Int8(block=32), "int4": optimiz.Int4(block=16), "bfloat16": optimiz.BFloat16()}


def optimizer(name):
    tx = optimiz.low_bit(optimiz.adamw(0.01), FORMATS[name], min_size=100)
    return optax.chain(tx, optimiz.stochastic_rounding(0))


def params():
    rng = np.random.default_rng(1)
    return {name: jnp.asarray(rng.normal(size=shape), jnp.bfloat16) for name, shape in SHAPES.items()}


def gradients(i):
    rng = np.random.default_rng([2, i])
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}


def train(name, place=lambda tree: tree, jit=jax.jit, kind=lambda leaf: (leaf.shape, leaf.dtype)):
    tx = optimizer(name)

    @jit
    def step(p, state, g):
        updates, state = tx.update(g, state, p)
        return optax.apply_updates(p, updates), state

    p = place(params())
    state = jit(tx.init)(p)
    kinds = [kind(leaf) for leaf in jax.tree.leaves(state)]
    for i in range(STEPS):
        p, state = step(p, state, place(gradients(i)))
        assert [kind(leaf) for leaf in jax.tree.leaves(state)] == kinds
    return p, state


def sharded(mesh):
    def place(tree):
        return {name: jax.device_put(leaf, NamedSharding(mesh, SPECS[name])) for name, leaf in tree.items()}

    return place


def with_sharded_parameters(name):
    return train(name, sharded(Mesh(np.array(jax.devices()), ("data",))))


def with_explicit_axes(name):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh):
        p, state = train(name, sharded(mesh), kind=jax.typeof)
    mu = state[0].inner_state[0].mu
    assert all(jax.typeof(mu[name]).sharding.spec == SPECS[name] for name in SPECS)
    return p, state


def with_pmap(name):
    run = train(name, lambda tree: jax.tree.map(lambda x: jnp.stack([jnp.asarray(x)] * 8), tree), jax.pmap)
    for leaf in jax.tree.leaves(run):
        np.testing.assert_array_equal(leaf, np.broadcast_to(leaf[0], leaf.shape))
    return jax.tree.map(lambda x: x[0], run)


def differing(run, other):
    pairs = [
        np.asarray(a).ravel().view(np.uint8) != np.asarray(b).ravel().view(np.uint8)
        for a, b in zip(jax.tree.leaves(run), jax.tree.leaves(other), strict=True)
        if a.ndim
    ]
    return float(np.mean(np.concatenate(pairs)))


LAYOUTS = (with_sharded_parameters, with_explicit_axes, with_pmap)

if __name__ == "__main__":
    alone = {name: train(name) for name in FORMATS}
    print(
        json.dumps({f.__name__: {name: differing(f(name), alone[name]) for name in FORMATS} for f in LAYOUTS})
    )
