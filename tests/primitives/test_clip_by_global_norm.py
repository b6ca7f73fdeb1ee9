import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optimiz import groups
from optimiz.primitives.clip_by_global_norm import clip_by_global_norm

TREE = {"w": np.array([[3.0, -1.0], [0.5, 2.0]]), "b": np.array([-2.0, 0.0]), "s": np.array(1.5)}


def clipped(tx, updates, params=None):
    return tx.update(updates, tx.init(updates), params)


def clipped_in_one(max_norm, updates):
    return jax.jit(lambda u: clipped(clip_by_global_norm(max_norm), u))(updates)


@pytest.mark.parametrize("scale", [0.1, 1.0, 1e15, 1e-15, 1e30, 1e-30, 1e-36, 1e37])
@pytest.mark.parametrize("relative", [0.0, 0.25, 0.999, 1.001, 4.0])
def test_equals_the_equation_at_every_scale(scale, relative):
    updates = jax.tree.map(lambda x: jnp.asarray(x * scale, jnp.float32), TREE)
    wide = jax.tree.map(lambda x: np.asarray(x, np.float64), updates)
    norm = np.sqrt(sum(np.sum(x**2) for x in jax.tree.leaves(wide)))
    got, state = clipped(clip_by_global_norm(np.float32(norm * relative)), updates)
    wanted = jax.tree.map(lambda x: np.float32(x * min(1, relative)), wide)
    smallest = np.finfo(np.float32).tiny  # below which float32 has fewer digits
    chex.assert_trees_all_close(got, wanted, rtol=1e-6, atol=smallest)
    np.testing.assert_allclose(state.global_norm, norm, rtol=1e-6)


def test_is_a_drop_in_for_optax():
    rng = np.random.default_rng(0)
    for dtype, tolerance in ((np.float32, 1e-6), (np.float64, 1e-12)):
        with jax.enable_x64(dtype == np.float64):
            ours, theirs = clip_by_global_norm(2.0), optax.clip_by_global_norm(2.0)
            for _ in range(20):
                updates = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), dtype), TREE)  # noqa: B023
                got, wanted = clipped(ours, updates)[0], clipped(theirs, updates)[0]
                chex.assert_trees_all_close(got, wanted, rtol=0, atol=tolerance)


def test_what_is_within_the_bound_is_not_touched():
    updates = {"w": jnp.array([0.3, -0.4]), "b": jnp.array([0.1], jnp.bfloat16)}
    chex.assert_trees_all_equal(clipped(clip_by_global_norm(0.6), updates)[0], updates)


@pytest.mark.parametrize("max_norm", [0.0, 1.0])
def test_a_zero_gradient_stays_zero_where_optax_divides_it_by_zero(max_norm):
    zero = jnp.zeros(3)
    with jax.debug_nans(True):
        updates, state = clipped(clip_by_global_norm(max_norm), zero)
    np.testing.assert_array_equal(updates, zero)
    assert state.global_norm == 0
    assert np.isnan(clipped(optax.clip_by_global_norm(0.0), zero)[0]).all()


def test_a_huge_gradient_is_clipped_where_optax_sets_it_to_zero():
    updates = jnp.array([3e30, -4e30])
    np.testing.assert_allclose(clipped_in_one(1.0, updates)[0], [0.6, -0.8], rtol=1e-6)
    np.testing.assert_array_equal(clipped(optax.clip_by_global_norm(1.0), updates)[0], 0)


def test_even_a_norm_that_float32_cannot_hold_is_clipped():
    updates, state = clipped_in_one(1e-3, jnp.full(4, 3e38))
    np.testing.assert_allclose(updates, 5e-4, rtol=1e-6)
    assert np.isinf(state.global_norm)
    updates, _ = clipped_in_one(1.0, jnp.full(2, 3e38 + 3e38j, jnp.complex64))
    np.testing.assert_allclose(updates, 0.5 + 0.5j, rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_makes_no_clean_step_where_optax_makes_one(bad):
    updates = {"good": jnp.ones(3), "bad": jnp.array([1.0, bad])}
    got, state = clipped(clip_by_global_norm(0.5), updates)
    assert all(np.isnan(x).all() for x in jax.tree.leaves(got))
    assert not np.isfinite(state.global_norm)
    theirs = clipped(optax.clip_by_global_norm(0.5), updates)[0]
    assert (np.asarray(theirs["good"]) == 0).all() == np.isinf(bad)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_the_norm_is_summed_in_float32_where_that_of_optax_stalls(dtype):
    updates = [jnp.full(1, 1.0, dtype)] * 600
    got, state = clipped(clip_by_global_norm(1.0), updates)
    assert float(state.global_norm) == pytest.approx(600**0.5)
    assert got[0].dtype == dtype
    theirs = float(optax.tree.norm(updates))
    assert dtype == jnp.float16 or theirs == 16.0  # 256 + 1 = 256 in bfloat16
    huge = jnp.full(4, 6e4, jnp.float16)
    np.testing.assert_allclose(clipped(clip_by_global_norm(1.0), huge)[0], 0.5, rtol=1e-3)


def test_a_mixed_tree_is_summed_in_its_widest_dtype_and_keeps_its_own():
    with jax.enable_x64(True):
        updates = {"a": jnp.full(2, 3e100), "b": jnp.full(2, 4.0, jnp.bfloat16), "c": jnp.ones(1, jnp.float32)}
        got, state = clipped(clip_by_global_norm(1.0), updates)
        assert jax.tree.map(lambda x: x.dtype, got) == jax.tree.map(lambda x: x.dtype, updates)
        np.testing.assert_allclose(got["a"], 0.5**0.5, rtol=1e-12)
        assert state.global_norm.dtype == jnp.float32


@pytest.mark.parametrize("number", [1.0, np.float32(1), np.float64(1), jnp.float32(1), jnp.bfloat16(1)])
def test_updates_keep_their_dtype_whatever_number_the_bound_is(number):
    updates = jnp.full(4, 2.0, jnp.bfloat16)
    got = clipped(clip_by_global_norm(number), updates)[0]
    assert got.dtype == jnp.bfloat16
    np.testing.assert_array_equal(got, 0.5)


def test_what_is_frozen_or_masked_has_no_part_in_the_norm():
    params = {"head": jnp.array([3.0, 4.0]), "stem": jnp.array([1e6])}
    tx = groups.freeze(clip_by_global_norm(1.0), groups.path("stem"))
    got = clipped(tx, params, params)[0]
    np.testing.assert_allclose(got["head"], [0.6, 0.8], rtol=1e-6)
    np.testing.assert_array_equal(got["stem"], 0)
    tx = optax.masked(clip_by_global_norm(1.0), {"head": True, "stem": False})
    np.testing.assert_allclose(clipped(tx, params, params)[0]["head"], [0.6, 0.8], rtol=1e-6)


@pytest.mark.parametrize("tree", [{}, None, {"a": None}, {"a": jnp.zeros((0, 3))}, optax.MaskedNode()])
def test_a_tree_without_entries_has_norm_zero(tree):
    got, state = clipped(clip_by_global_norm(1.0), tree)
    chex.assert_trees_all_equal(got, tree)
    assert state.global_norm == 0


def test_a_traced_bound_and_many_at_once():
    updates = jnp.array([3.0, 4.0])
    got = jax.vmap(lambda c: clipped(clip_by_global_norm(c), updates)[0])(jnp.array([1.0, 0.0, 10.0]))
    np.testing.assert_allclose(got, [[0.6, 0.8], [0, 0], [3, 4]], rtol=1e-6)


def test_the_bound_has_a_derivative():
    def length(scale):
        return jnp.sum(clipped(clip_by_global_norm(1.0), scale * jnp.array([0.3, 0.4]))[0])

    assert float(jax.grad(length)(1.0)) == pytest.approx(0.7)
    assert float(jax.grad(length)(4.0)) == pytest.approx(0.0, abs=1e-6)


def test_refuses_a_bad_bound_and_a_gradient_of_another_shape():
    for bad in (-1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match=r"max_norm must be in \[0, inf\), got"):
            clip_by_global_norm(bad)
    with pytest.raises(TypeError, match="max_norm must be a number, got '1'"):
        clip_by_global_norm("1")
    with pytest.raises(ValueError, match=r"gradient at \['w'\] has shape \(1,\), but the parameter has"):
        clipped(clip_by_global_norm(1.0), {"w": jnp.ones(1)}, {"w": jnp.ones(4)})
