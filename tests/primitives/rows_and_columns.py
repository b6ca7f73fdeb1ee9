"""Matrices whose rows and columns are split by explicit axes of a mesh: a program, for tests of sharing them.

XLA_FLAGS=--xla_force_host_platform_device_count=8 python -m tests.primitives.rows_and_columns METHOD ...

Prints one line of JSON: method → the largest difference of an update from that on one device.
"""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import optimiz
from optimiz.numerics import matrix_scales

EXACT = {"scale": matrix_scales.match_adam(), "ns_dtype": jnp.float32}
METHODS = {
    "muon": lambda: optimiz.muon(0.1, **EXACT),
    "normuon": lambda: optimiz.normuon(0.1, **EXACT),
    "soap": lambda: optimiz.soap(0.1, precondition_frequency=1),
    "kl_soap": lambda: optimiz.kl_soap(0.1, precondition_frequency=1),
}
SPECS = {  # square as matrices, so that the bases of both sides are determined
    "up/kernel": ((16, 16), P("data", "model")),
    "gate/kernel": ((16, 16), P("data", "model")),
    "down/kernel": ((16, 16), P("model", "data")),
    "query/kernel": ((16, 4, 4), P("data", "model", None)),
}
UPDATES = 3  # SOAP's first finds the bases, the second refreshes them


def arrays(seed):
    rng = np.random.default_rng(seed)
    return {path: jnp.asarray(rng.normal(size=shape), jnp.float32) for path, (shape, _) in SPECS.items()}


def updates(method, place):
    tx, params = METHODS[method](), place(arrays(UPDATES))
    state, found = jax.jit(tx.init)(params), []
    update = jax.jit(tx.update)
    for i in range(UPDATES):
        direction, state = update(place(arrays(i)), state, params)
        found.append(direction)
    return found


def measured(method):
    wanted = jax.device_get(updates(method, lambda tree: tree))
    mesh = jax.make_mesh((4, 2), ("data", "model"), axis_types=(AxisType.Explicit,) * 2)
    places = {path: NamedSharding(mesh, spec) for path, (_, spec) in SPECS.items()}
    with jax.set_mesh(mesh):
        found = updates(method, lambda tree: jax.device_put(tree, places))
    for direction in found:
        assert all(x.sharding.is_equivalent_to(places[path], x.ndim) for path, x in direction.items())
    differences = jax.tree.map(lambda x, y: float(np.abs(np.asarray(x) - y).max()), found, wanted)
    return max(jax.tree.leaves(differences))


if __name__ == "__main__":
    print(json.dumps({method: measured(method) for method in sys.argv[1:]}))
