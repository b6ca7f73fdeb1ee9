"""Matrices that eight devices share: a program, for test_scale_by_muon.py.

XLA_FLAGS=--xla_force_host_platform_device_count=8 python -m tests.primitives.muon_devices LAYOUT ...

Prints one line of JSON: layout → the collectives of one compiled update by kind, the largest difference of a
direction from that on one device, and the share of its floating-point operations that a device does.
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

from optimiz.numerics import NewtonSchulz
from optimiz.primitives import scale_by_muon

LAYERS, SHAPES = 3, {"query": (32, 8, 4), "out": (8, 4, 32), "up": (32, 64), "down": (64, 32)}
GROUPS = len(SHAPES)  # of equal matrices
STACKED = {"^stacked/": 0}
TWO_STEPS = NewtonSchulz(((1.5, -0.5, 0.0),) * 2)  # as many collectives as of five, and compiled sooner
SPLIT = {  # the axis along which an array is split
    "replicated": {},
    "fsdp": dict.fromkeys(SHAPES, 0),
    "layers": {"up": 0},
    "tensor parallel": {"query": 1, "out": 0, "up": 1, "down": 0},
}
ROWS_AND_COLUMNS = {"query": P("data", "model"), "up": P("data", "model"), "down": P("model", "data")}
_KINDS = "all-gather|all-reduce|all-to-all|collective-permute|reduce-scatter"


def arrays(split):
    rng = np.random.default_rng(0)
    shapes = {
        f"layers/{i}/{'attention/' if name in ('query', 'out') else ''}{name}": shape
        for i in range(LAYERS)
        for name, shape in SHAPES.items()
    }
    if split == "layers":
        shapes = {"stacked/up": (16, 32, 64)}
    return {path: jnp.asarray(rng.normal(size=shape), jnp.float32) for path, shape in shapes.items()}


def optimizer(split):
    scanned = STACKED if split == "layers" else None
    return scale_by_muon(0.95, True, newton_schulz=TWO_STEPS, ns_dtype=jnp.float32, scanned=scanned)


def shardings(split, mesh):
    def of(path, x):
        if split == "rows and columns":
            return NamedSharding(mesh, ROWS_AND_COLUMNS.get(path.rpartition("/")[2], P("data", None, "model")))
        axis = SPLIT[split].get(path.rpartition("/")[2])
        return NamedSharding(mesh, P(*[tuple(mesh.shape) if i == axis else None for i in range(x.ndim)]))

    return {path: of(path, x) for path, x in arrays(split).items()}


def measured(layout):
    split, axes, *dimensions = layout.split(", ")
    tx, gradients = optimizer(split), arrays(split)
    start = tx.init(gradients)
    alone = jax.jit(tx.update).lower(gradients, start).compile()
    wanted = jax.device_get(alone(gradients, start)[0])

    kind = {"auto": AxisType.Auto, "explicit": AxisType.Explicit}[axes]
    shape = {"data": 4, "model": 2} if dimensions else {"data": 8}
    mesh = jax.make_mesh(tuple(shape.values()), tuple(shape), axis_types=(kind,) * len(shape))
    where = shardings(split, mesh)
    places = where, type(start)(where)
    with jax.set_mesh(mesh):
        given = {} if axes == "explicit" else {"out_shardings": places}
        arguments = jax.device_put((gradients, start), places)
        program = jax.jit(tx.update, **given).lower(*arguments).compile()
        directions, _ = program(*arguments)
    assert all(x.sharding.is_equivalent_to(where[path], x.ndim) for path, x in directions.items())
    return {
        "collectives": collections.Counter(re.findall(rf" ({_KINDS})(?:-start)?\(", program.as_text())),
        "difference": max(float(np.abs(np.asarray(x) - wanted[path]).max()) for path, x in directions.items()),
        "work": program.cost_analysis()["flops"] / alone.cost_analysis()["flops"],
    }


if __name__ == "__main__":
    print(json.dumps({layout: measured(layout) for layout in sys.argv[1:]}))
