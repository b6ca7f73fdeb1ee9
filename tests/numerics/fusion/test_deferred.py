import importlib
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optimiz import numerics

N = 1 << 14  # entries, from which on an array is computed twice rather than held
X, Y = (jnp.asarray(np.random.default_rng(i).normal(size=(4, N // 4)), jnp.float32) for i in range(2))


def normed(x, y):
    """A direction, two sums over it, and an average that it comes from."""
    average = jnp.where(x > 0, 0.9 * y, y) + 0.1 * x
    direction = average / (jnp.sqrt(jnp.abs(y)) + 1e-3)
    scale = jnp.linalg.norm(direction) + jnp.max(direction)
    return direction / scale, average, scale


def branched(x, y):
    twice = 2 * x
    return jax.lax.cond(
        jnp.sum(twice) > 0, lambda: (twice - y, jnp.sum(twice * y)), lambda: (y, jnp.sum(twice))
    )


def looped(x, y):
    return jax.lax.fori_loop(0, 3, lambda i, carry: carry * 0.5 + x, x * y)


def with_barriers(x, y):
    first = jax.lax.optimization_barrier(x * y)
    both, _ = jax.lax.optimization_barrier((first + 1, y))
    return first, both, jnp.sum(both)


def with_random_bits(x, y):
    key = jax.random.key(0)
    return x + jax.random.normal(key, x.shape) * y, jax.random.bits(key)


def untouched(x, y):
    return {"x": x, "twice": [y, y], "constant": jnp.float32(3), "small": x[0, :2]}


@pytest.mark.quick(2)
@pytest.mark.parametrize(
    "function", [normed, branched, looped, with_barriers, with_random_bits, untouched], ids=lambda f: f.__name__
)
def test_a_low_memory_function_has_the_results_of_the_function(function):
    wanted = function(X, Y)
    chex.assert_trees_all_close(jax.jit(numerics.low_memory(function))(X, Y), wanted, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(numerics.low_memory(function)(X, Y), wanted)
    batch = jnp.stack([X, Y])
    mapped = jax.vmap(numerics.low_memory(function), in_axes=(0, None))(batch, Y)
    chex.assert_trees_all_close(jax.tree.map(lambda x: x[0], mapped), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.long
def test_a_low_memory_function_has_the_same_gradient():
    def loss(function):
        return lambda rate: jnp.sum(jnp.square(function(rate * X, Y)[0]) * Y)

    wanted = jax.grad(loss(normed))(jnp.float32(0.5))
    np.testing.assert_allclose(jax.grad(loss(numerics.low_memory(normed)))(jnp.float32(0.5)), wanted, rtol=1e-3)


def test_sums_and_callbacks_are_computed_once():
    calls = []

    def function(x):
        twice = 2 * x
        total = jax.pure_callback(
            lambda x: calls.append(0) or x.sum(), jax.ShapeDtypeStruct((), x.dtype), twice
        )
        return twice / total, jnp.sum(twice / total)

    share, whole = jax.jit(numerics.low_memory(function))(jnp.abs(X))
    assert len(calls) == 1
    np.testing.assert_allclose([jnp.sum(share), whole], 1, rtol=1e-5)


def test_an_update_may_print(capfd):
    def function(x):
        jax.debug.print("sum {}", jnp.sum(2 * x))
        return 2 * x

    jax.block_until_ready(jax.jit(numerics.low_memory(function))(jnp.ones((4, N // 4))))
    jax.effects_barrier()
    assert f"sum {2 * N:.1f}" in capfd.readouterr().out


def temporary_bytes(function):
    return jax.jit(function).lower(X, Y).compile().memory_analysis().temp_size_in_bytes


def test_low_memory_holds_no_array_where_the_function_holds_one():
    def function(x, y):
        direction = x / jnp.sqrt(jnp.abs(y))
        return jnp.sum(jnp.square(direction / jnp.sum(direction)))

    assert temporary_bytes(function) >= X.nbytes
    assert temporary_bytes(numerics.low_memory(function)) < X.nbytes / 16


@pytest.mark.parametrize(("platform", "read"), [("cpu", 3), ("cuda", 2), ("tpu", 2)])
def test_only_a_cpu_reads_a_new_moment_again(platform, read):
    def function(gradient, moment):
        new = 0.9 * moment + gradient
        return new, new / jnp.linalg.norm(new)

    lowered = jax.jit(numerics.low_memory(function)).trace(X, Y).lower(lowering_platforms=(platform,))
    barriers = re.findall(r"optimization_barrier .*:(.*)", lowered.as_text())
    assert sum(line.count(f"tensor<4x{N // 4}xf32>") for line in barriers) == read


def test_arrays_are_reduced_before_they_are_computed_and_none_is_held():
    """As the two moments of low_bit: the codes need the largest entry, and both are made of the gradient."""

    def moments(x, y):
        return 0.9 * y + x, 0.5 * y + jnp.square(x)

    def shares(x, y, apart):
        arrays = numerics.deferred(moments)(x, y)
        largest = lambda *arrays: [jnp.max(jnp.abs(array)) for array in arrays]  # noqa: E731
        scales = numerics.reduced(largest, arrays) if apart else largest(*numerics.materialise(arrays))
        return [
            (array / scale).astype(jnp.bfloat16)
            for array, scale in zip(numerics.materialise(arrays), scales, strict=True)
        ]

    chex.assert_trees_all_close(jax.jit(shares, static_argnums=2)(X, Y, True), shares(X, Y, False), rtol=1e-2)
    assert temporary_bytes(lambda x, y: shares(x, y, False)) >= X.nbytes
    assert temporary_bytes(lambda x, y: shares(x, y, True)) < X.nbytes / 16


def test_what_depends_on_the_platform_is_computed_again_too():
    def scaled(x, y):
        factor = jax.lax.platform_dependent(y, tpu=lambda y: 3 * y, default=lambda y: 2 * y)
        return x * factor, jnp.sum(x * factor)

    wanted = 2 * X * Y, jnp.sum(2 * X * Y)
    chex.assert_trees_all_close(jax.jit(numerics.low_memory(scaled))(X, Y), wanted, rtol=1e-4)
    assert temporary_bytes(lambda x, y: numerics.low_memory(scaled)(x, y)[1]) < X.nbytes / 16


def test_equal_arrays_are_computed_by_one_function_that_is_traced_once():
    jaxpr = jax.make_jaxpr(numerics.low_memory(lambda arrays: [2 * x + 1 for x in arrays]))([X, Y])
    # JAX 0.12 keeps one more equation, of a constant.
    first, second = (equation.params["jaxpr"] for equation in jaxpr.eqns if equation.invars)
    assert first is second


def test_later_results_are_computed_from_a_value_that_was_replaced():
    def both(x):
        average = x + 1
        return average, 2 * average

    @jax.jit
    def replaced(x):
        average, direction = numerics.deferred(both)(x)
        average.value = numerics.materialise(average) * 10
        return numerics.materialise((average, direction))

    average, direction = replaced(X)
    np.testing.assert_allclose(average, 10 * (X + 1), rtol=1e-6)
    np.testing.assert_allclose(direction, 20 * (X + 1), rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.complex64])
@pytest.mark.parametrize("shape", [(), (3,), (4, N // 4)])
def test_any_nan_finds_a_nan_at_any_position(shape, dtype):
    found = jax.jit(lambda x: numerics.any_nan(numerics.deferred(lambda x: x - x)(x)))
    x = np.ones(shape, dtype)
    assert not found(x)
    for position in {0, x.size // 2, x.size - 1}:
        for bad in (np.nan, np.inf, -np.inf):
            broken = x.ravel().copy()
            broken[position] = bad
            assert found(broken.reshape(shape))
    assert not found(np.full(shape, 3e38, dtype))


@pytest.mark.parametrize("shape", [(3,), (4, N // 4)])
def test_any_nan_is_a_sum_where_there_is_no_cpu(shape, monkeypatch):
    """The branch of accelerators, run here."""
    page = importlib.import_module("optimiz.numerics.fusion.deferred")
    monkeypatch.setattr(page, "_any_nan", page._nan_in_sum)
    test_any_nan_finds_a_nan_at_any_position(shape, jnp.float32)


def test_any_nan_of_an_empty_array_is_false():
    assert not numerics.any_nan(numerics.deferred(lambda x: x)(jnp.zeros((3, 0))))


def test_a_function_may_close_over_traced_arrays():
    def step(rate, g):
        return numerics.low_memory(lambda g: optax.scale(rate).update(g, optax.EmptyState())[0])(g)

    np.testing.assert_array_equal(jax.jit(step)(jnp.float32(2), X), 2 * X)
