"""Kernels on the parts of eight devices, interpreted: a program, for test_parts.py.

XLA_FLAGS=--xla_force_host_platform_device_count=8 python -m tests.numerics.block_kernels.parts

Prints one line of JSON: kernel → layout → share of the stored bytes that differ from one device's.
"""

import functools
import json

import jax
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import optimiz
from optimiz.numerics.block_kernels import fused_update, gpu, leaf_kernel, tpu, tpu_turned
from optimiz.numerics.block_kernels.in_parts import in_parts, with_whole_blocks

# Of the state, and of the parameters if they are laid out otherwise. Devices hold whole blocks, or parts of
# blocks; a last block is short; blocks of a stack of matrices, and scales of each; only the state is split;
# pairs of blocks.
LAYOUTS = {
    "whole": ((64, 512), P("x", "y")),
    "across": ((64, 768), P("x", "y")),
    "ragged": ((64, 700), P("x", None)),
    "stacked": ((4, 16, 512), P("x", None, "y")),
    "state": ((64, 512), P("x", "y"), P()),
    "layers": ((4, 16, 512), P("x", None, "y"), None, None, optimiz.sgd_sai(0.01, scanned={"": 0})),
    "pairs": ((64, 512), P("x", "y"), P("x", "y"), optimiz.Int4()),
    "pairs across": ((64, 768), P("x", "y"), P("x", "y"), optimiz.Int4()),
}


def step(tx, shardings, params, state, gradients):
    return optimiz.update_and_apply(tx, gradients, state, params, shardings=shardings)


def differing(kernel, shape, spec, spec_of_params=None, fmt=None, inner=None):
    fmt = fmt or optimiz.Int8()

    def update_leaf(jaxpr, aliases, arguments, given):
        whole, _ = leaf_kernel.leaf_of(jaxpr)
        mesh = given.mesh.abstract_mesh
        block = fmt.size(whole) * leaf_kernel.tiles_of_byte(jaxpr)
        spec = with_whole_blocks(given.spec, whole, block, mesh.shape)
        run = functools.partial(leaf_kernel.on_tiles, kernel, jaxpr, aliases, interpret=True)
        return in_parts(run, jaxpr, whole, mesh, spec, arguments)

    tx = optax.chain(optimiz.low_bit(inner or optimiz.lion(0.01), fmt), optimiz.stochastic_rounding(0))
    rng = np.random.default_rng(0)
    params, gradients = (jax.numpy.asarray(rng.normal(size=shape), "bfloat16") for _ in range(2))
    state = tx.init(params)
    expected = jax.jit(functools.partial(step, tx, None))(params, state, gradients)
    mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("x", "y"))
    of_params = spec if spec_of_params is None else spec_of_params

    def laid(tree, spec):
        def place(x):
            is_split = x.shape == shape or x.dtype in (np.int8, np.uint8)
            return jax.device_put(x, NamedSharding(mesh, spec if is_split else P()))

        return jax.tree.map(place, tree)

    given = laid(params, of_params), laid(state, spec), laid(gradients, of_params)
    out = jax.tree.map(lambda x: x.sharding, given[:2])
    plain, fused_update.update_leaf = fused_update.update_leaf, update_leaf
    try:
        found = jax.jit(functools.partial(step, tx, out), out_shardings=out)(*given)
    finally:
        fused_update.update_leaf = plain
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    bytes_of = lambda x: np.asarray(x).reshape(-1).view(np.uint8)  # noqa: E731
    return float(np.mean(np.concatenate([bytes_of(a) != bytes_of(b) for a, b in pairs])))


if __name__ == "__main__":
    kernels = {"tpu": tpu, "gpu": gpu}
    report = {k: {n: differing(each, *its) for n, its in LAYOUTS.items()} for k, each in kernels.items()}
    report["tpu_turned"] = {"whole": differing(tpu_turned, (64, 400), P("x", "y"))}
    print(json.dumps(report))
