"""Matrices whose bases eight devices share: a program, for test_scale_in_eigenbases.py.

XLA_FLAGS=--xla_force_host_platform_device_count=8 python -m tests.primitives.eigenbases_devices LAYOUT ...

Prints one line of JSON: layout → the collectives of a compiled update by kind, the numbers of matrices in the
stacks that a device decomposes, the largest difference of a direction from those on one device, and the share
of its floating-point operations that a device does.
"""

import collections
import json
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from optimiz import scale_by_soap

LAYERS, SIDE, LONG = 3, 32, 64
SHAPES = {"query": (SIDE, 8, 4), "up": (SIDE, LONG), "down": (LONG, SIDE)}
STACKED, STACK = {"^stacked/": 0}, 16
UPDATES = 4  # the first finds the bases, the third refreshes them
_KINDS = "all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter"


def optimizer(split):
    scanned = STACKED if split == "layers" else None
    # The shorter side alone where there is one: its basis is determined.
    return scale_by_soap(precondition_frequency=2, max_precond_dim=SIDE, scanned=scanned)


def gradients(split, step):
    rng = np.random.default_rng(step)
    names = [f"layers/{i}/{name}" for i in range(LAYERS) for name in SHAPES]
    shapes = {path: SHAPES[path.rpartition("/")[2]] for path in names}
    if split == "layers":
        shapes = {"stacked/up": (STACK, SIDE, LONG), "stacked/query": (STACK, SIDE, 8, 4)}
    return {path: jnp.asarray(rng.normal(size=shape), jnp.float32) for path, shape in shapes.items()}


def shardings(split, mesh, tree):
    """Parameters, moments, factors and bases are split along their first axis, or replicated."""
    spec = P() if split == "replicated" else P(tuple(mesh.shape))
    return jax.tree.map(lambda x: NamedSharding(mesh, spec if x.ndim else P()), tree)


def measured(layout):
    split, axes, *dimensions = layout.split(", ")
    tx, steps = optimizer(split), [gradients(split, i) for i in range(UPDATES)]
    start = tx.init(steps[0])
    alone = jax.jit(tx.update).lower(steps[0], start).compile()
    wanted, state = [], start
    for g in steps:
        direction, state = alone(g, state)
        wanted.append(jax.device_get(direction))

    kind = {"auto": AxisType.Auto, "explicit": AxisType.Explicit}[axes]
    shape = {"data": 4, "model": 2} if dimensions else {"data": 8}
    mesh = jax.make_mesh(tuple(shape.values()), tuple(shape), axis_types=(kind,) * len(shape))
    places = shardings(split, mesh, (steps[0], start))
    with jax.set_mesh(mesh):
        given = {} if axes == "explicit" else {"out_shardings": places}
        state = jax.device_put(start, places[1])
        put = [jax.device_put(g, places[0]) for g in steps]
        program = jax.jit(tx.update, **given).lower(put[0], state).compile()
        found = []
        for g in put:
            direction, state = program(g, state)
            found.append(direction)
    for x, place in zip(jax.tree.leaves((direction, state)), jax.tree.leaves(places), strict=True):
        assert x.sharding.is_equivalent_to(place, x.ndim)
    text = program.as_text()
    return {
        "collectives": collections.Counter(re.findall(rf" ({_KINDS})(?:-start)?\(", text)),
        "decomposed": sorted(
            {int(n or 1) for n in re.findall(r"f32\[(?:(\d+),)?\d+,\d+\]\S* custom-call\(.*lapack", text)}
        ),
        "difference": max(
            float(np.abs(np.asarray(x) - one[path]).max())
            for one, direction in zip(wanted, found, strict=True)
            for path, x in direction.items()
        ),
        "work": program.cost_analysis()["flops"] / alone.cost_analysis()["flops"],
    }


if __name__ == "__main__":
    print(json.dumps({layout: measured(layout) for layout in sys.argv[1:]}))
