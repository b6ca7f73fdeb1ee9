"""The kernels of low-bit state, interpreted on this CPU, do what the two passes do."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AbstractDevice, AbstractMesh

import optimiz
from optimiz.numerics.block_kernels import fused_update, gpu, leaf_kernel, tpu, tpu_turned

OPTIMIZERS = {
    "adamw": lambda: optimiz.adamw(0.01),
    "lion": lambda: optimiz.lion(0.01),
    "sgd_sai": lambda: optimiz.sgd_sai(0.01),
    "sgd_sai of layers": lambda: optimiz.sgd_sai(0.01, scanned={"": 0}),
    "sgd_sai of second layers": lambda: optimiz.sgd_sai(0.01, scanned={"": 1}),
}
FORMATS = {"int8": optimiz.Int8(), "float8": optimiz.Float8(), "int4": optimiz.Int4()}
ANY = [(100, 768), (2, 50, 700), (70, 1000), (130, 2304), (200, 2100), (1100, 16)]
TURNED = {"int8": [(2, 150, 1600), (40, 4800)], "float8": [(150, 1600)], "int4": [(150, 1600)]}  # whole blocks
SHAPES = {"int8": ANY, "float8": ANY, "int4": [(100, 768), (130, 2304), (2, 50, 1600)]}  # pairs of blocks


def arrays(shape, dtype, steps):
    rng = np.random.default_rng(0)
    params = jnp.asarray(rng.normal(size=shape), dtype)
    sizes = 10 ** rng.uniform(-3, 3, size=shape)
    return params, [jnp.asarray(rng.normal(size=shape) * sizes, dtype) for _ in range(steps)]


def trained(step, tx, params, gradients):
    state = tx.init(params)
    for each in gradients:
        params, state = step(each, state, params)
    return params, state


def by_two_calls(tx):
    @jax.jit
    def step(gradient, state, params):
        updates, state = tx.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    return step


def together(tx):
    return jax.jit(lambda gradient, state, params: optimiz.update_and_apply(tx, gradient, state, params))


def check_kernel(
    monkeypatch, kernel, name, fmt, shape, dtype, steps=2, *, guarded=False, rounded=False, low_memory=False
):
    tx = optimiz.low_bit(OPTIMIZERS[name](), FORMATS[fmt])
    tx = optimiz.low_memory_update(tx) if low_memory else tx
    if rounded:
        tx = optax.chain(tx, optimiz.stochastic_rounding(0))
    params, gradients = arrays(shape, dtype, steps)
    if guarded:
        tx = optimiz.guard(tx, 3)
        gradients.insert(1, gradients[0].at[-1, -1].set(jnp.nan))
    expected = trained(by_two_calls(tx), tx, params, gradients)
    ran = []

    def in_kernel(jaxpr, aliases, arguments, sharding):
        ran.append(aliases)
        return leaf_kernel.on_tiles(kernel, jaxpr, aliases, arguments, interpret=True)

    monkeypatch.setattr(fused_update, "update_leaf", in_kernel)
    found = trained(together(tx), tx, params, gradients)
    moments = 2 if name == "adamw" else 1
    assert (
        len(ran) == 1 and len(ran[0]) == 1 + 2 * moments
    )  # parameters, codes and scales take their own places
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        # A sum that rounds differently may round to the next code, and so to another parameter next time.
        if a.dtype.itemsize == 1:
            same = np.asarray(a).view(np.uint8) == np.asarray(b).view(np.uint8)
        else:
            a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
            same = np.isclose(a, b, rtol=1e-5 if dtype == "float32" else 0.01, atol=1e-8)
        assert np.mean(~same) < 1e-3


@pytest.mark.parametrize("kernel", [tpu, gpu])
# Two tiles of rows and of columns, both of them ragged, and a last block of 52 entries; three pairs of blocks.
@pytest.mark.parametrize(("fmt", "shape"), [("int8", (130, 2100)), ("int4", (130, 768))])
def test_a_kernel_does_what_two_passes_do(monkeypatch, kernel, fmt, shape):
    check_kernel(monkeypatch, kernel, "lion", fmt, shape, "float32", steps=1)


# Two tiles of rows; three of columns, the last of which has half of its blocks.
@pytest.mark.parametrize(("fmt", "shape"), [("int8", (130, 600)), ("int8", (16, 4800))])
def test_the_kernel_of_matrices_that_a_tpu_turns_over_does_too(monkeypatch, fmt, shape):
    check_kernel(monkeypatch, tpu_turned, "lion", fmt, shape, "float32", steps=1)


# Tiles of a GPU have rows of two layers; scales of each are the same along the other dimension.
@pytest.mark.parametrize(
    ("kernel", "shape"), [(tpu, (2, 3, 33, 512)), (gpu, (2, 3, 33, 512)), (tpu_turned, (2, 3, 130, 200))]
)
@pytest.mark.parametrize("name", ["sgd_sai of layers", "sgd_sai of second layers"])
def test_scales_of_layers_stay_in_the_kernel(monkeypatch, kernel, shape, name):
    check_kernel(monkeypatch, kernel, name, "int8", shape, "float32")


@pytest.mark.parametrize(
    ("device", "call"),
    [
        (AbstractDevice("TPU v5 lite", 1, "tpu"), "tpu_custom_call"),
        (AbstractDevice("NVIDIA H200", None, "cuda"), "xla.gpu.triton"),
    ],
    ids=["tpu", "gpu"],
)
def test_an_update_with_scales_of_layers_is_a_kernel_of_the_device(device, call):
    tx = optimiz.low_bit(OPTIMIZERS["sgd_sai of layers"](), optimiz.Int8())
    params = jax.ShapeDtypeStruct((3, 256, 512), jnp.float32)
    with jax.sharding.use_abstract_mesh(AbstractMesh((1,), ("x",), abstract_device=device)):
        traced = together(tx).trace(params, jax.eval_shape(tx.init, params), params)
        assert call in traced.lower(lowering_platforms=(device.platform,)).as_text()


@pytest.mark.parametrize("kernel", [tpu, gpu])
@pytest.mark.parametrize("guarded", [False, True])
def test_parameters_are_rounded_at_random_in_the_kernel(monkeypatch, kernel, guarded):
    check_kernel(monkeypatch, kernel, "lion", "int8", (40, 768), "bfloat16", 1, guarded=guarded, rounded=True)


@pytest.mark.parametrize("kernel", [tpu, gpu])
@pytest.mark.parametrize("fmt", ["int8", "int4"])
def test_codes_and_scales_stay_in_the_kernel_within_low_memory_update(monkeypatch, kernel, fmt):
    check_kernel(monkeypatch, kernel, "lion", fmt, (40, 768), "float32", low_memory=True)


@pytest.mark.parametrize("kernel", [tpu, gpu])
@pytest.mark.parametrize("fmt", ["int8", "int4"])
def test_a_guard_keeps_codes_and_scales_in_the_kernel(monkeypatch, kernel, fmt):
    check_kernel(monkeypatch, kernel, "lion", fmt, (40, 768), "float32", guarded=True)


@pytest.mark.long
@pytest.mark.parametrize("kernel", [tpu, gpu])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("fmt", "shape"), [(fmt, shape) for fmt in SHAPES for shape in SHAPES[fmt]])
@pytest.mark.parametrize("name", ["adamw", "lion", "sgd_sai"])
def test_kernels_of_any_shape_do_what_two_passes_do(monkeypatch, kernel, dtype, fmt, shape, name):
    check_kernel(monkeypatch, kernel, name, fmt, shape, dtype)


@pytest.mark.long
@pytest.mark.parametrize(("fmt", "shape"), [(fmt, shape) for fmt in TURNED for shape in TURNED[fmt]])
@pytest.mark.parametrize("name", ["adamw", "lion", "sgd_sai"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_turned_kernels_do_what_two_passes_do(monkeypatch, fmt, shape, name, dtype):
    check_kernel(monkeypatch, tpu_turned, name, fmt, shape, dtype)


@pytest.mark.parametrize("wrapped", ["plain", "in a branch", "under vmap"])
def test_without_a_kernel_it_is_the_two_calls(wrapped):
    tx = optimiz.low_bit(optimiz.adamw(0.01), optimiz.Int8())
    if wrapped == "in a branch":
        tx = optimiz.guard(tx, 3)
    params, gradients = arrays((32, 768), "float32", 2)
    step, other = together(tx), by_two_calls(tx)
    if wrapped == "under vmap":
        step, other = (jax.jit(jax.vmap(each)) for each in (step, other))
        params, gradients = params[None], [each[None] for each in gradients]
        step, other = ((lambda g, s, p, f=f: f(g, s, p)) for f in (step, other))
        state = jax.vmap(tx.init)(params)
        found, expected = (f(gradients[0], state, params) for f in (step, other))
    else:
        found, expected = (trained(f, tx, params, gradients) for f in (step, other))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(np.asarray(a, np.float64), np.asarray(b, np.float64), rtol=1e-5, atol=1.01)
