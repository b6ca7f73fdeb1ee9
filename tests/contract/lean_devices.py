"""Updates that hold nothing, on eight devices: a program, for test_lean_devices.py.

XLA_FLAGS=--xla_force_host_platform_device_count=8 python -m tests.contract.lean_devices

Prints one line of JSON: layout → optimizer → largest difference of an update from the one on one device. The
arrays are large enough to be computed twice rather than held.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import optimiz

SHAPE = (128, 256)
OPTIMIZERS = {
    "guard": optimiz.guard(optax.chain(optimiz.clip_by_global_norm(1.0), optimiz.adamw(0.01)), 1),
    "guarded_lamb": optimiz.guard(optimiz.lamb(0.01, weight_decay=0.1, scanned={"": 0}), 1),  # rows as layers
    "guarded_low_bit": optimiz.guard(optimiz.low_bit(optimiz.signum(0.01), optimiz.Int8(block=32)), 1),
    "lamb": optimiz.lamb(0.01, weight_decay=0.1),
    "sgd_sai": optimiz.low_memory_update(optax.chain(optimiz.clip_by_global_norm(1.0), optimiz.sgd_sai(0.01))),
}


def array(seed):
    return jnp.asarray(np.random.default_rng(seed).normal(size=SHAPE), jnp.float32)


def init(p):
    return {name: tx.init(p) for name, tx in OPTIMIZERS.items()}


def step(p, states, g):
    return {name: tx.update(g, states[name], p)[0] for name, tx in OPTIMIZERS.items()}


def with_explicit_axes(p, g, spec):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh):
        p, g = (jax.device_put(x, NamedSharding(mesh, spec)) for x in (p, g))
        updates = jax.jit(step)(p, init(p), g)
    assert all(jax.typeof(u).sharding.spec == spec for u in updates.values())
    return updates


def with_split_rows(p, g):
    return with_explicit_axes(p, g, P("data", None))


def with_split_columns(p, g):
    return with_explicit_axes(p, g, P(None, "data"))


def with_shard_map(p, g):
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    parts = jnp.stack([g * w for w in jnp.arange(8) / 3.5])  # whose mean is g

    def replica(p, states, part):
        return step(p, states, jax.lax.pmean(part[0], "data"))

    mapped = jax.shard_map(replica, mesh=mesh, in_specs=(P(), P(), P("data")), out_specs=P())
    return jax.jit(mapped)(p, init(p), parts)


def with_pmap(p, g):
    updates = jax.pmap(step)(*jax.tree.map(lambda x: jnp.stack([x] * 8), (p, init(p), g)))
    return {name: u[0] for name, u in updates.items()}


LAYOUTS = (with_split_rows, with_split_columns, with_shard_map, with_pmap)

if __name__ == "__main__":
    p, g = array(0), array(1)
    alone = jax.jit(step)(p, init(p), g)
    report = {
        layout.__name__: {
            name: float(jnp.max(jnp.abs(jax.device_get(u) - alone[name]))) for name, u in updates.items()
        }
        for layout, updates in ((layout, layout(p, g)) for layout in LAYOUTS)
    }
    print(json.dumps(report))
