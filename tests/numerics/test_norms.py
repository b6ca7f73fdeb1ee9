import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optimiz import numerics


@pytest.mark.parametrize("scale", [1.0, 1e25, 1e-25, 3e38, 1e-37])
def test_one_block_out_of_range_changes_no_other(scale):
    rng = np.random.default_rng(0)
    x, y = (rng.uniform(0.1, 1, size=(4, 5)).astype(np.float32) for _ in range(2))
    y *= np.float32(scale)
    alone = numerics.block_norm(jnp.asarray(x), (0, 1))
    got = jax.jit(lambda *xs: numerics.block_norms(lambda: list(xs), [(0, 1), (1,)]))(x, y)
    np.testing.assert_array_equal(got[0], alone)
    wanted = np.linalg.norm(y.astype(np.float64), axis=1, keepdims=True)
    with np.errstate(over="ignore"):
        np.testing.assert_allclose(got[1], wanted.astype(np.float32), rtol=1e-6)


def test_a_second_pass_is_made_only_where_a_sum_cannot_be_trusted():
    passes = []

    def sums(given):
        passes.append(given)
        return [
            jnp.sum(jnp.square(x * (1 if given is None else s))) for x, s in zip(xs, given or xs, strict=True)
        ]

    xs = [jnp.array([3.0, 4.0]), jnp.array([3e-30, 4e-30])]
    (one, root), (up, small) = numerics.of_scaled_roots(list, sums)
    assert passes[0] is None and [float(one), float(up)] == [1.0, 2.0**63]
    np.testing.assert_allclose([root, small / up], [5.0, 5e-30], rtol=1e-6)
    with jax.enable_x64(True):
        np.testing.assert_allclose(numerics.block_norm(jnp.array([3e-300, 4e200]), (0,)), [4e200], rtol=1e-14)


def test_what_is_known_to_be_zero_has_norm_zero_also_where_it_is_compiled():
    def norms(x):
        return numerics.block_norms(lambda: [x, jnp.zeros_like(x)], [(0,), (0,)])

    for dtype in (np.float32, np.float64):
        with jax.enable_x64(dtype == np.float64):
            assert [norm.tolist() for norm in jax.jit(norms)(np.array([3.0, 4.0], dtype))] == [[5.0], [0.0]]


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32, jnp.complex64])
@pytest.mark.parametrize("scale", [1e30, 1.0, 1e-30])
def test_block_norm_neither_overflows_nor_underflows(dtype, scale):
    x = (np.random.default_rng(2).normal(size=(3, 4, 5)) * scale).astype(dtype)
    got = numerics.block_norm(jnp.asarray(x), numerics.block_axes(3, 0))
    wanted = np.sqrt((np.abs(x.astype(np.complex128)) ** 2).sum(axis=(1, 2), keepdims=True))
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, wanted, rtol=1e-6)


def test_block_norm_is_zero_without_entries_and_nan_if_one_is_not_finite():
    assert numerics.block_norm(jnp.zeros((0, 3)), (0, 1)).tolist() == [[0.0]]
    assert numerics.block_norm(jnp.array(-3.0), ()) == 3.0
    for bad in (jnp.nan, jnp.inf):
        assert np.isnan(numerics.block_norm(jnp.array([1.0, bad]), (0,)))
