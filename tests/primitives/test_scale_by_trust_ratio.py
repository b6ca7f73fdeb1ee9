import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optimiz import groups
from optimiz.primitives.decoupled_weight_decay import decoupled_weight_decay
from optimiz.primitives.scale_by_trust_ratio import scale_by_trust_ratio

PARAMS = {"kernel": jnp.array([[3.0, 0.0], [0.0, -4.0]]), "bias": jnp.array([6.0, 8.0])}
UPDATES = {"kernel": jnp.array([[0.0, 2.0], [0.0, 0.0]]), "bias": jnp.array([0.0, 0.5])}


def scaled(tx, updates=UPDATES, params=PARAMS):
    return tx.update(updates, tx.init(params), params)[0]


@pytest.mark.quick(2)
@pytest.mark.parametrize("args", [(), (0.0, 0.1), (0.0, 0.1, 0.5)])
def test_equals_that_of_optax(args):
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        u, p = ({k: jnp.asarray(rng.normal(size=s)) for k, s in (("a", (5, 7)), ("b", ()))} for _ in range(2))
        ours, theirs = (
            scaled(scale_by_trust_ratio(*args), u, p),
            scaled(optax.scale_by_trust_ratio(*args), u, p),
        )
    chex.assert_trees_all_close(ours, theirs, rtol=1e-14)


@pytest.mark.parametrize(("bounds", "norm"), [((0.0, 3.0), 3.0), ((7.0, None), 7.0), ((2.0, 9.0), 5.0)])
def test_the_norm_of_the_parameters_is_bounded(bounds, norm):
    got = scaled(scale_by_trust_ratio(min_norm=bounds[0], max_norm=bounds[1]))
    np.testing.assert_allclose(got["kernel"], [[0.0, norm], [0.0, 0.0]], rtol=1e-6)


def test_the_ratio_is_one_where_a_norm_is_zero():
    zero = jax.tree.map(jnp.zeros_like, PARAMS)
    chex.assert_trees_all_equal(scaled(scale_by_trust_ratio(), params=zero), UPDATES)
    chex.assert_trees_all_equal(scaled(scale_by_trust_ratio(), updates=zero), zero)
    got = scaled(scale_by_trust_ratio(min_norm=7.0), params=zero)  # but a least norm is not zero
    np.testing.assert_allclose(got["kernel"], [[0.0, 7.0], [0.0, 0.0]])


@pytest.mark.parametrize(
    "mask",
    [
        {"kernel": True, "bias": False},
        lambda tree: jax.tree.map(lambda x: x.ndim > 1, tree),
        groups.no_decay(),
    ],
)
def test_mask_may_be_a_tree_a_function_or_a_rule(mask):
    got = scaled(scale_by_trust_ratio(mask=mask))
    np.testing.assert_allclose(got["kernel"], [[0.0, 5.0], [0.0, 0.0]])
    np.testing.assert_array_equal(got["bias"], UPDATES["bias"])
    chex.assert_trees_all_equal(scaled(scale_by_trust_ratio(mask=False)), UPDATES)  # a prefix


def test_a_decay_has_a_norm_of_its_own_and_is_added_to_what_has_no_ratio():
    tx = scale_by_trust_ratio(decay=decoupled_weight_decay(0.5), mask={"kernel": True, "bias": False})
    got = scaled(tx)
    # 5 / (2 + 0.5 × 5)
    np.testing.assert_allclose(got["kernel"], np.array([[1.5, 2.0], [0.0, -2.0]]) * 5 / 4.5, rtol=1e-6)
    np.testing.assert_allclose(got["bias"], [3.0, 4.5])


def test_a_scheduled_decay_keeps_its_count():
    tx = scale_by_trust_ratio(decay=decoupled_weight_decay(lambda count: jnp.asarray([0.0, 0.5])[count]))
    zero = jax.tree.map(jnp.zeros_like, PARAMS)
    state = tx.init(PARAMS)
    first, state = tx.update(zero, state, PARAMS)
    second, state = tx.update(zero, state, PARAMS)
    chex.assert_trees_all_equal(first, zero)
    chex.assert_trees_all_close(second, PARAMS, rtol=1e-6)  # λ θ, of norm λ ‖θ‖


def test_each_stacked_layer_is_a_block_of_its_own():
    rng = np.random.default_rng(1)
    stacked = [
        {"layers": {"w": jnp.asarray(rng.normal(size=(3, 4, 2)), jnp.float32)}, "head": jnp.ones(2)}
        for _ in range(2)
    ]
    got = scaled(scale_by_trust_ratio(scanned={"^layers/": 0}), *stacked)
    for i in range(3):
        alone = scaled(scale_by_trust_ratio(), *(t["layers"]["w"][i] for t in stacked))
        np.testing.assert_allclose(got["layers"]["w"][i], alone, rtol=1e-6)
    with pytest.raises(ValueError, match="matches no parameter"):
        scale_by_trust_ratio(scanned={"^layer$": 0}).init(stacked[0])


@pytest.mark.parametrize("scale", [1e30, 1e-30])
def test_norms_neither_overflow_nor_underflow_where_those_of_optax_do(scale):
    updates = jax.tree.map(lambda u: scale * u, UPDATES)
    wanted = scaled(scale_by_trust_ratio())
    chex.assert_trees_all_close(scaled(scale_by_trust_ratio(), updates), wanted, rtol=1e-6)
    theirs = scaled(optax.scale_by_trust_ratio(), updates)["kernel"][0, 1]
    assert float(theirs) == (0.0 if scale > 1 else pytest.approx(2e-30))
    params = jax.tree.map(lambda p: scale * p, PARAMS)
    got = scaled(scale_by_trust_ratio(), params=params)
    chex.assert_trees_all_close(got, jax.tree.map(lambda u: scale * u, wanted), rtol=1e-6)


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_what_is_not_finite_stays_so(bad):
    updates = {"kernel": UPDATES["kernel"].at[1, 1].set(bad), "bias": UPDATES["bias"]}
    got = scaled(scale_by_trust_ratio(), updates)
    assert not np.isfinite(got["kernel"]).any() and np.isfinite(got["bias"]).all()


def test_norms_of_bfloat16_are_float32():
    params = jnp.ones(257, jnp.bfloat16)  # of norm 16.03, which bfloat16 rounds to 16
    norm = scaled(scale_by_trust_ratio(), jnp.ones(1), params[:1])
    assert norm.dtype == jnp.float32
    got = scaled(scale_by_trust_ratio(), jnp.ones(257, jnp.float32), params)
    np.testing.assert_allclose(got, 1.0, rtol=1e-6)
    assert scaled(scale_by_trust_ratio(), params, params).dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"trust_coefficient": 0.0}, r"trust_coefficient must be in \(0, inf\)"),
        ({"eps": -1.0}, "eps must be in"),
        ({"min_norm": -1.0}, "min_norm must be in"),
        ({"max_norm": 0.0}, "max_norm must be in"),
        ({"min_norm": 2.0, "max_norm": 1.0}, r"max_norm must be in \[2, inf\)"),
    ],
)
def test_refuses_bad_arguments_by_name(kwargs, message):
    with pytest.raises(ValueError, match=message):
        scale_by_trust_ratio(**kwargs)


def test_traced_bounds_are_taken():
    got = jax.jit(lambda low, high: scaled(scale_by_trust_ratio(min_norm=low, max_norm=high)))(1.0, 3.0)
    np.testing.assert_allclose(got["kernel"][0, 1], 3.0, rtol=1e-6)


def test_needs_parameters_of_the_same_shapes():
    tx = scale_by_trust_ratio()
    with pytest.raises(ValueError, match="needs the parameters"):
        tx.update(UPDATES, tx.init(PARAMS))
    with pytest.raises(ValueError, match=r"\['bias'\] has shape \(1,\)"):
        scaled(tx, UPDATES | {"bias": jnp.ones(1)})


def test_a_mask_function_that_reads_values_reads_those_of_the_parameters():
    tx = scale_by_trust_ratio(mask=lambda params: jax.tree.map(lambda p: bool(p > 0), params))
    params = {"a": jnp.array(2.0), "b": jnp.array(-2.0)}
    updates, _ = tx.update({"a": jnp.array(-1.0), "b": jnp.array(1.0)}, tx.init(params), params)
    assert jax.tree.map(float, updates) == {"a": -2.0, "b": 1.0}
