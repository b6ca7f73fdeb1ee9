import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optimiz
from optimiz import groups
from optimiz.numerics import Directions
from optimiz.primitives.scale_by_groups import scale_by_groups

PARAMS = {
    "embed": jnp.array([1.0, 2.0]),
    "head": jnp.array([3.0]),
    "layers": [{"w": jnp.ones((2, 2))}, {"w": jnp.ones((2, 2))}],
}
DECAY = groups.layerwise_decay(0.5)


def test_a_tree_a_prefix_a_number_and_a_function():
    full = DECAY(PARAMS)
    prefix = {"embed": 0.125, "head": 1.0, "layers": [0.25, 0.5]}
    for multipliers in (full, prefix, DECAY):
        tx = scale_by_groups(multipliers)
        updates, state = jax.jit(tx.update)(PARAMS, tx.init(PARAMS))
        assert state == optax.EmptyState()
        assert updates["embed"].tolist() == [0.125, 0.25]
        assert updates["head"].tolist() == [3.0]
        assert [float(layer["w"][0, 0]) for layer in updates["layers"]] == [0.25, 0.5]
    half, _ = scale_by_groups(0.5).update(PARAMS, optax.EmptyState())
    assert half["head"].tolist() == [1.5]


def test_both_directions_of_a_line_search_are_scaled():
    directions = Directions(search={"w": jnp.array([1.0, 2.0])}, step={"w": jnp.array([3.0, 4.0])})
    tx = scale_by_groups(lambda params: {"w": 0.5})
    scaled, _ = tx.update(directions, tx.init(directions.step))
    np.testing.assert_array_equal(scaled.search["w"], [0.5, 1.0])
    np.testing.assert_array_equal(scaled.step["w"], [1.5, 2.0])


def test_stacked_layers_are_scaled_one_by_one():
    stacked = {"embed": jnp.ones(2), "layers": {"w": jnp.ones((2, 3, 4)), "b": jnp.ones((2, 3))}}
    tx = scale_by_groups(groups.layerwise_decay(0.5, scanned={"^layers/": 0}))
    updates, _ = tx.update(stacked, tx.init(stacked))
    assert updates["layers"]["w"][:, 0, 0].tolist() == [0.25, 0.5]
    assert updates["layers"]["b"].tolist() == [[0.25] * 3, [0.5] * 3]


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
@pytest.mark.parametrize("multiplier", [0.3, np.float64(0.3), np.full((4, 1), 0.3)])
def test_keeps_dtype_and_rounds_once(dtype, multiplier):
    update = jnp.linspace(-3, 3, 20, dtype=dtype).reshape(4, 5)
    tx = scale_by_groups(multiplier)
    scaled, _ = tx.update(update, tx.init(update))
    expected = (np.asarray(update, np.float32) * np.float32(0.3)).astype(dtype)
    assert scaled.dtype == dtype
    np.testing.assert_array_equal(scaled, expected)


@pytest.mark.parametrize("x64", [False, True])
def test_wide_updates_stay_wide(x64):
    with jax.enable_x64(x64):
        update = jnp.ones((3, 1))  # the default dtype
        scaled, _ = scale_by_groups(np.full((3, 1), 0.1)).update(update, optax.EmptyState())
        assert scaled.dtype == update.dtype
        np.testing.assert_allclose(scaled, 0.1, rtol=1e-15 if x64 else 1e-7)


@pytest.mark.parametrize("multipliers", [DECAY, DECAY(PARAMS)], ids=["function", "tree"])
def test_within_masked_and_partition(multipliers):
    tx = optax.chain(optax.sgd(1.0), scale_by_groups(multipliers))
    masked = optax.masked(tx, groups.path("^layers/1"))
    updates, _ = masked.update(PARAMS, masked.init(PARAMS))
    assert updates["layers"][1]["w"][0, 0] == -0.5
    assert updates["layers"][0]["w"][0, 0] == 1.0  # untouched

    part = optax.partition(
        {"body": tx, "rest": optax.sgd(1.0)},
        groups.label({"body": groups.path("^(embed|layers)"), "rest": groups.everything}),
    )
    updates, _ = jax.jit(part.update)(PARAMS, part.init(PARAMS), PARAMS)
    assert updates["embed"].tolist() == [-0.125, -0.25]
    assert updates["head"].tolist() == [-3.0]


def test_within_inject_hyperparams_multi_steps_and_tree_map_params():
    @optax.inject_hyperparams
    def layerwise(learning_rate):
        return optax.chain(optax.adam(learning_rate), scale_by_groups(DECAY))

    tx = layerwise(1.0)
    state = tx.init(PARAMS)
    _, later = jax.jit(tx.update)(PARAMS, state, PARAMS)
    assert jax.tree.structure(later) == jax.tree.structure(state)
    specs = optax.tree_map_params(tx, lambda _: "spec", state)
    assert optax.tree.get(specs, "mu")["head"] == "spec"

    steps = optax.MultiSteps(optax.chain(optax.sgd(1.0), scale_by_groups(DECAY)), 2)
    state = steps.init(PARAMS)
    for expected in (0.0, -3.0):
        updates, state = steps.update(PARAMS, state, PARAMS)
        assert updates["head"].tolist() == [expected]


def test_a_traced_multiplier_is_not_checked():
    @jax.jit
    def scaled(multiplier):
        return scale_by_groups({"a": multiplier}).update({"a": jnp.ones(2)}, optax.EmptyState())[0]

    assert scaled(0.5)["a"].tolist() == [0.5, 0.5]


def test_abstract_init_empty_trees_and_extra_arguments():
    tx = scale_by_groups(DECAY)
    assert jax.eval_shape(tx.init, PARAMS) == optax.EmptyState()
    assert tx.update({}, tx.init({})) == ({}, optax.EmptyState())
    updates, _ = tx.update(PARAMS, tx.init(PARAMS), PARAMS, value=1.0, unknown=None)
    assert updates["head"].tolist() == [3.0]


@pytest.mark.parametrize("bad", [-0.1, float("nan"), float("inf"), np.array([1.0, -1.0])])
def test_a_multiplier_outside_its_domain(bad):
    with pytest.raises(ValueError, match=r"\['a'\]\[0\] must be finite and at least 0"):
        scale_by_groups({"a": [bad], "b": 1.0})
    tx = scale_by_groups(lambda params: {"a": [bad], "b": 1.0})
    with pytest.raises(ValueError, match=r"\['a'\]\[0\] must be finite and at least 0"):
        tx.init({"a": [jnp.ones(2)], "b": jnp.ones(2)})


@pytest.mark.parametrize("bad", ["0.1", True])
def test_a_multiplier_of_another_kind(bad):
    with pytest.raises(TypeError, match=r"the multiplier at \['a'\] must be a number"):
        scale_by_groups({"a": bad})


def test_a_multiplier_that_does_not_broadcast():
    for shape in ((3,), (2, 1, 1)):
        with pytest.raises(ValueError, match=r"\['a'\] has shape .* the update's \(2, 2\)"):
            scale_by_groups({"a": np.ones(shape)}).update({"a": jnp.ones((2, 2))}, optax.EmptyState())


def test_trees_that_do_not_fit():
    with pytest.raises(ValueError, match="b"):
        scale_by_groups({"a": 1.0}).update({"b": jnp.ones(2)}, optax.EmptyState())


@pytest.mark.parametrize("tx", [scale_by_groups(2.0), optimiz.sgd_sai(0.1), optimiz.sqrt_size_sgd(0.1)])
def test_a_leaf_of_integers_without_a_gradient_stays(tx):
    params = {"seen": jnp.arange(3), "w": jnp.ones(2)}
    grads = {"seen": jnp.zeros(3, jnp.int32), "w": jnp.ones(2)}
    updates, _ = tx.update(grads, tx.init(params), params)
    assert updates["seen"].dtype == jnp.int32
