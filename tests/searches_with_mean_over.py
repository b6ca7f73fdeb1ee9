"""Search along a line on devices that each see a part of the batch: a program, for test_mean_over.py.

XLA_FLAGS=--xla_force_host_platform_device_count=8 python -m tests.searches_with_mean_over OPTIMIZER … LAYOUT …

Prints one line of JSON: layout → optimizer → the largest relative difference of a loss from the run on one
device, and whether the devices of a ``pmap`` kept the same bits.
"""

import json
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import optimiz

STEPS = 10
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(16, 6)), RNG.normal(size=16)
PARAMS = {"w": RNG.normal(size=(6, 5)), "v": RNG.normal(size=5)}
OPTIMIZERS = {
    "lbfgs": optax.lbfgs(),  # its zoom asks for the slope at a trial; the others for the value alone
    "backtracking": optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(20)),
    "salsa": optimiz.salsa(init_step=1e-3, every=3, first=3),
}


def loss(params, x, y):
    return jnp.mean((jnp.tanh(x @ params["w"]) @ params["v"] - y) ** 2)


def shared(value_fn):
    return optimiz.mean_over("data", value_fn)


def step(run, x, y, tx, reduced=shared):
    params, state = run
    value_fn = reduced(lambda params: loss(params, x, y))
    value, grad = jax.value_and_grad(value_fn)(params)
    updates, state = tx.update(grad, state, params, value=value, grad=grad, value_fn=value_fn)
    return (optax.apply_updates(params, updates), state), value


def losses(step, run, x, y):
    found = []
    for _ in range(STEPS):
        run, value = step(run, x, y)
        found.append(np.asarray(value))
    return run, np.array(found)


def fresh(tx):
    params = jax.tree.map(jnp.asarray, PARAMS)
    return params, tx.init(params)


def on_one_device(tx):
    return losses(jax.jit(partial(step, tx=tx, reduced=lambda value_fn: value_fn)), fresh(tx), X, Y)[1]


def with_pmap(tx):
    n = jax.device_count()
    run = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (n, *leaf.shape)), fresh(tx))
    compiled = jax.pmap(partial(step, tx=tx), axis_name="data")
    run, found = losses(compiled, run, X.reshape(n, -1, 6), Y.reshape(n, -1))
    same = all((np.asarray(leaf) == np.asarray(leaf)[:1]).all() for leaf in jax.tree.leaves((run, found.T)))
    return found[:, 0], same


def with_shard_map(tx, check_vma):
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))
    specs = {"in_specs": (P(), P("data"), P("data")), "out_specs": P()}
    compiled = jax.jit(jax.shard_map(partial(step, tx=tx), mesh=mesh, check_vma=check_vma, **specs))
    return losses(compiled, fresh(tx), X, Y)[1], True


LAYOUTS = {
    "pmap": with_pmap,
    "shard_map that checks": partial(with_shard_map, check_vma=True),
    "shard_map that does not check": partial(with_shard_map, check_vma=False),
}


def main(arguments):
    report = {}
    for name in [name for name in arguments if name in OPTIMIZERS]:
        tx = OPTIMIZERS[name]
        alone = on_one_device(tx)
        for layout in [layout for layout in arguments if layout in LAYOUTS]:
            found, same = LAYOUTS[layout](tx)
            difference = float(np.abs(found / alone - 1).max())
            report.setdefault(layout, {})[name] = {"difference": difference, "same": same, "last": found[-1]}
    print(json.dumps(report, default=float))


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)  # so that the order in which devices sum decides nothing
    main(sys.argv[1:])
