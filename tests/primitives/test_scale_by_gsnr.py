import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optimiz
from tests.golden import fixture_a


def gsnr_after(gradients, **kwargs):
    tx = optimiz.scale_by_gsnr(kwargs.pop("eps", 1e-8), **kwargs)
    state = tx.init(jax.tree.map(jnp.zeros_like, gradients[0]))
    for g in gradients:
        _, state = tx.update(g, state)
    return state


def test_equals_the_release_and_the_paper_on_fixture_a():
    with jax.enable_x64(True):
        released = gsnr_after(fixture_a.gradients()).gsnr
        paper = gsnr_after(fixture_a.gradients(), normalize="max").gsnr
    np.testing.assert_allclose(
        [released["W"], released["b"]], [2.267197962597811, 1.8027755739942533], rtol=1e-7
    )
    # The population variance ranks the two blocks the other way round.
    np.testing.assert_allclose([paper["W"], paper["b"]], [2.48359092564, 2.54950962932], rtol=1e-7)


def test_is_the_root_of_the_size_for_gradients_of_mean_zero():
    g = jax.random.normal(jax.random.key(0), (400, 300))
    assert float(gsnr_after([g]).gsnr) == pytest.approx(120000**0.5, rel=1e-4)


@pytest.mark.parametrize("scale", [1e-4, 1e6])
def test_does_not_see_the_gradients_scale_shape_or_order(scale):
    g = jax.random.normal(jax.random.key(0), (40, 30))
    base = gsnr_after([g]).gsnr
    for other in (scale * g, g.T, g.reshape(-1)):
        np.testing.assert_allclose(gsnr_after([other]).gsnr, base, rtol=2e-4)


def test_latches_once():
    first, later = jnp.array([1.0, -1.0, 0.5]), jnp.array([9.0, 9.0, 8.0])
    np.testing.assert_array_equal(gsnr_after([first, later]).gsnr, gsnr_after([first]).gsnr)


@pytest.mark.parametrize(
    ("g", "unit", "reference"),
    [
        ([0.3], 1.0, 3.0e7),
        ([1.0] * 5, 1.0, 2.236e8),
        ([0.1] * 1000, 1.0, None),  # constant, but for the rounding of its mean
        ([1.0, 1.0001], 2.0e4, 2.0e4),
        ([1.0, -1.0], 1.0, 1.0),
    ],
)
def test_blocks_whose_ratio_means_nothing(g, unit, reference):
    g = jnp.array(g)
    assert float(gsnr_after([g]).gsnr) == pytest.approx(unit, rel=0.01)
    if reference is not None:
        got = gsnr_after([g], degenerate="reference").gsnr
        assert float(got) == pytest.approx(reference, rel=0.01)


def test_a_block_of_zeros_waits_and_the_reference_freezes_it():
    zero, g = jnp.zeros(3), jnp.array([1.0, -1.0, 0.5])
    waiting = gsnr_after([zero])
    assert not waiting.latched and float(waiting.gsnr) == 1.0
    np.testing.assert_array_equal(gsnr_after([zero, g]).gsnr, gsnr_after([g]).gsnr)
    assert float(gsnr_after([zero, g], degenerate="reference").gsnr) == 0.0


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
def test_an_unusable_first_gradient_is_not_latched_and_passes_visibly(bad):
    g = jnp.array([1.0, -1.0, 0.5])
    broken = g.at[1].set(bad)
    tx = optimiz.scale_by_gsnr(1e-8)
    updates, state = tx.update(broken, tx.init(g))
    np.testing.assert_array_equal(updates, broken)
    assert not state.latched and np.isfinite(state.gsnr)
    np.testing.assert_array_equal(tx.update(g, state)[1].gsnr, gsnr_after([g]).gsnr)


def test_max_divides_by_the_largest_ratio_measured():
    g = {"a": jnp.array([3.0, -3.0, 3.0, -3.0]), "b": jnp.array([1.0, -1.0])}  # G = 2 and √2
    tx = optimiz.scale_by_gsnr(0.0, normalize="max")
    updates, _ = tx.update(g, tx.init(g))
    np.testing.assert_allclose(updates["a"], g["a"], rtol=1e-6)
    np.testing.assert_allclose(updates["b"], g["b"] / 2**0.5, rtol=1e-6)


@pytest.mark.long
def test_a_layer_of_a_stack_is_a_block_of_its_own():
    rng = np.random.default_rng(0)
    layers = [jnp.asarray(rng.normal(size=(4, 3)), jnp.float32) * 10.0**i for i in range(3)]
    layers[1] = layers[1] * 0  # this layer has no gradient yet
    head = jnp.asarray(rng.normal(size=5), jnp.float32)
    for axis in (0, 1):
        g = {"layers": jnp.stack(layers, axis), "head": head}
        tx = optimiz.scale_by_gsnr(1e-8, scanned={"^layers": axis})
        updates, state = tx.update(g, tx.init(g))
        assert state.gsnr["layers"].shape == ((3, 1, 1) if axis == 0 else (1, 3, 1))
        for i, layer in enumerate(layers):
            alone, _ = optimiz.scale_by_gsnr(1e-8).update(layer, optimiz.scale_by_gsnr(1e-8).init(layer))
            np.testing.assert_allclose(jnp.take(updates["layers"], i, axis), alone, rtol=1e-6)
        np.testing.assert_array_equal(state.latched["layers"].ravel(), [True, False, True])


def test_statistics_are_float32_and_updates_keep_their_dtype():
    g = jax.random.normal(jax.random.key(0), (1000,)).astype(jnp.bfloat16)
    tx = optimiz.scale_by_gsnr(1e-8)
    updates, state = tx.update(g, tx.init(g))
    assert updates.dtype == jnp.bfloat16 and state.gsnr.dtype == jnp.float32
    wide = gsnr_after([g.astype(jnp.float32)]).gsnr
    np.testing.assert_array_equal(state.gsnr, wide)


def test_a_large_ratio_does_not_overflow_float16():
    g = jnp.array([60000.0, -60000.0, 60000.0, -60000.0], jnp.float16)
    tx = optimiz.scale_by_gsnr(1e-8)
    updates, _ = tx.update(g, tx.init(g))
    assert np.isfinite(updates).all() and np.all(np.sign(updates) == np.sign(g))


def test_state_is_stable_under_scan_and_abstract_init():
    g = {"a": jnp.array([1.0, -1.0]), "empty": jnp.zeros((0, 3)), "none": None}
    tx = optimiz.scale_by_gsnr(1e-8)
    state = jax.jit(tx.init)(g)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, jax.eval_shape(tx.init, g))
    final, _ = jax.lax.scan(lambda s, _: (tx.update(g, s)[1], None), state, length=3)
    chex.assert_trees_all_equal_shapes_and_dtypes(final, state)
    assert bool(final.latched["a"]) and bool(final.latched["empty"])


def test_empty_tree():
    tx = optimiz.scale_by_gsnr(1e-8, normalize="max")
    assert tx.update({}, tx.init({}))[0] == {}


def test_refuses_bad_arguments_by_name():
    with pytest.raises(ValueError, match=r"eps must be in \[0, inf\), got nan"):
        optimiz.scale_by_gsnr(float("nan"))
    with pytest.raises(TypeError, match="eps must be a number, got None"):
        optimiz.scale_by_gsnr(None)
