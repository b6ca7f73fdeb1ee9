import json
import os
import subprocess
import sys
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optimiz.primitives.hessian_diagonal import HessianDiagonalState, gauss_newton_bartlett, hutchinson

ROOT = Path(__file__).parents[2]
RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(6, 4)), jnp.float32)
REGRESSION = {
    "w": jnp.asarray(RNG.normal(size=(4, 3)), jnp.float32),
    "b": jnp.asarray(RNG.normal(size=3), jnp.float32),
}
WEIGHTS = jnp.array([1.0, 0.0, 2.5, 1.0, 0.0, 0.5])


def logits(params, x=X):
    return x @ params["w"] + params["b"]


def exact_diagonal(weights):
    """Of the Gauss-Newton matrix of softmax regression, which is its Hessian."""
    p = jax.nn.softmax(logits(REGRESSION))
    variance = weights[:, None] * p * (1 - p) / jnp.sum(weights)
    return {"w": jnp.square(X).T @ variance, "b": variance.sum(0)}


def first_estimate(tx, params, **functions):
    return jax.jit(lambda params: tx.update(params, tx.init(params), params, **functions)[0])(params)


def estimates(tx, params, number, **functions):
    """That many estimates, along the first axis of each leaf."""
    key = tx.init(params).key

    def one(i):
        return tx.update(params, HessianDiagonalState(key, i), params, **functions)[0]

    return jax.jit(jax.vmap(one))(jnp.arange(number))


def standard_errors_from(wanted, drawn):
    """The distance of each mean from what it should be, in standard errors, as one array."""

    def distance(wanted, drawn):
        return np.ravel((drawn.mean(0) - wanted) / (drawn.std(0, ddof=1) / len(drawn) ** 0.5))

    return np.concatenate(jax.tree.leaves(jax.tree.map(distance, wanted, drawn)))


@pytest.mark.quick(1)
@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("microbatches", [None, 3])
def test_gauss_newton_bartlett_has_the_mean_of_the_exact_diagonal(weights, microbatches):
    def logits_fn(params, i=None):
        rows = slice(None) if i is None else 2 * i + jnp.arange(2)
        return logits(params, X[rows]) if weights is None else (logits(params, X[rows]), weights[rows])

    tx = gauss_newton_bartlett(3, 0, microbatches=microbatches)
    drawn = estimates(tx, REGRESSION, 5_000, logits_fn=logits_fn)
    wanted = exact_diagonal(jnp.ones(6) if weights is None else weights)
    assert np.abs(standard_errors_from(wanted, drawn)).max() < 3.5  # of 15 entries
    assert all((leaf >= 0).all() for leaf in jax.tree.leaves(drawn))


@pytest.mark.parametrize("microbatches", [None, 3])
def test_gradients_are_added_up_before_they_are_squared(microbatches):
    def logits_fn(params, i=None):
        return logits(params) if i is None else logits(params, jax.lax.dynamic_slice_in_dim(X, 2 * i, 2))

    @jax.jit
    def squared_gradient_of_the_mean_loss(params):
        key = jax.random.fold_in(jax.random.key(7), 0)
        labels = jax.random.categorical(key, logits(params))
        if microbatches is not None:
            parts = enumerate(jnp.split(logits(params), microbatches))
            labels = jnp.concatenate([jax.random.categorical(jax.random.fold_in(key, i), z) for i, z in parts])

        def mean_loss(params):
            return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits(params), labels))

        return jax.tree.map(jnp.square, jax.grad(mean_loss)(params))

    tx = gauss_newton_bartlett(3, 7, microbatches=microbatches)
    estimate = first_estimate(tx, REGRESSION, logits_fn=logits_fn)
    square = squared_gradient_of_the_mean_loss(REGRESSION)
    chex.assert_trees_all_close(estimate, jax.tree.map(lambda s: len(X) * s, square), rtol=1e-5)


def test_padding_and_a_batch_of_nothing_else_have_no_curvature():
    def estimate(x, weights):
        return first_estimate(
            gauss_newton_bartlett(3, 0), REGRESSION, logits_fn=lambda p: (logits(p, x), weights)
        )

    chex.assert_trees_all_equal(estimate(X, WEIGHTS), estimate(X.at[1].set(99.0), WEIGHTS))
    chex.assert_trees_all_equal(estimate(X, 0 * WEIGHTS), jax.tree.map(jnp.zeros_like, REGRESSION))


def test_a_gradient_too_large_to_be_squared_stays_finite():
    estimate = first_estimate(gauss_newton_bartlett(2, 0), jnp.zeros(2), logits_fn=lambda p: 1e30 * p)
    assert np.isfinite(estimate).all() and (estimate > 1e36).all()


def test_hutchinson_is_exact_on_a_diagonal_hessian_and_may_be_negative():
    params = {"a": jnp.array([[1.0, -2.0]]), "b": jnp.array(3.0)}

    def loss(p):
        return jnp.sum(p["a"] ** 3) + jnp.cos(p["b"]) / 2

    estimate = first_estimate(hutchinson(0), params, obj_fn=loss)
    np.testing.assert_allclose(estimate["a"], [[6.0, -12.0]], rtol=1e-6)
    np.testing.assert_allclose(estimate["b"], -np.cos(3.0) / 2, rtol=1e-6)


def test_hutchinson_is_unbiased_on_any_other():
    labels = jnp.array([0, 1, 2, 0, 1, 2])

    def loss(params):
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits(params), labels))

    drawn = estimates(hutchinson(0), REGRESSION, 4000, obj_fn=loss)
    assert drawn["w"].std(0).min() > 0  # one draw alone is not exact
    assert np.abs(standard_errors_from(exact_diagonal(jnp.ones(6)), drawn)).max() < 3


def test_hutchinson_takes_the_mean_over_microbatches():
    scales = jnp.array([1.0, 3.0, 8.0])
    tx = hutchinson(0, microbatches=3)
    estimate = first_estimate(tx, jnp.array([1.0, 2.0]), obj_fn=lambda p, i: scales[i] * jnp.sum(p**2))
    np.testing.assert_allclose(estimate, [8.0, 8.0], rtol=1e-6)


def quadratic(p):
    return jnp.sum(p) ** 2


def test_value_fn_will_do_where_it_can():
    params = jnp.ones(5)
    offered = first_estimate(hutchinson(0), params, value_fn=quadratic, value=1.0, grad=params)
    chosen = first_estimate(hutchinson(0), params, value_fn=jnp.sum, obj_fn=quadratic)
    np.testing.assert_array_equal(offered, chosen)
    assert np.any(offered)
    with pytest.raises(ValueError, match="hutchinson needs obj_fn"):
        first_estimate(hutchinson(0, microbatches=2), params, value_fn=quadratic)


def test_every_form_of_a_key_gives_the_same_draws_and_each_estimate_new_ones():
    params = jnp.ones(20)
    drawn = []
    for key in (5, jnp.int32(5), jax.random.key(5, impl="threefry2x32"), jnp.array([0, 5], jnp.uint32)):
        tx = hutchinson(key)
        state = tx.init(params)
        assert state.key.dtype == jnp.uint32
        update = jax.jit(lambda s, tx=tx: tx.update(params, s, params, obj_fn=quadratic))
        first, state = update(state)
        second, _ = update(state)
        assert np.any(first != second)
        drawn.append((first, second))
    for other in drawn[1:]:
        chex.assert_trees_all_equal(other, drawn[0])
    # Another generator is kept by its own data.
    assert hutchinson(jax.random.key(5, impl="rbg")).init(params).key.shape == (4,)


def test_the_state_may_be_donated_and_the_key_still_be_used():
    for key in (jax.random.key(5), jnp.array([0, 5], jnp.uint32)):
        tx = hutchinson(key)
        update = jax.jit(lambda s, p, tx=tx: tx.update(p, s, p, obj_fn=quadratic)[1], donate_argnums=0)
        update(tx.init(jnp.ones(3)), jnp.ones(3))
        update(tx.init(jnp.ones(3)), jnp.ones(3))


@pytest.mark.parametrize("tx", [hutchinson(0), gauss_newton_bartlett(3, 0)])
def test_x64_changes_no_draw(tx):
    functions = {"obj_fn": lambda p: jnp.sum(logits(p) ** 4), "logits_fn": logits}

    narrow = first_estimate(tx, REGRESSION, **functions)
    with jax.enable_x64(True):
        wide = first_estimate(tx, REGRESSION, **functions)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(wide))
    chex.assert_trees_all_close(narrow, wide, rtol=1e-5)


def test_a_tree_of_two_dtypes_which_that_of_optax_refuses():
    params = {"a": jnp.ones(2, jnp.bfloat16), "b": jnp.ones(2)}
    theirs = optax.contrib.hutchinson_estimator_diag_hessian(jax.random.PRNGKey(0))

    def loss(p):
        return jnp.sum(p["a"] ** 2) + jnp.sum(p["b"] ** 3)

    for tx in (hutchinson(0), gauss_newton_bartlett(2, 0)):
        estimate = first_estimate(tx, params, obj_fn=loss, logits_fn=lambda p: p["a"] * p["b"])
        assert {leaf.dtype for leaf in jax.tree.leaves(estimate)} == {jnp.dtype(jnp.float32)}
    with pytest.raises(TypeError):
        theirs.update(params, theirs.init(params), params, obj_fn=loss)


@pytest.mark.parametrize("params", [{}, {"a": jnp.ones(3), "b": jnp.ones((0, 2)), "c": None}])
def test_trees_with_little_or_nothing_in_them(params):
    functions = {
        "obj_fn": lambda p: sum((jnp.sum(x**2) for x in jax.tree.leaves(p)), start=jnp.zeros(())),
        "logits_fn": lambda p: jnp.zeros((4, 3)) + sum(x.sum() for x in jax.tree.leaves(p)),
    }
    for tx in (hutchinson(0), gauss_newton_bartlett(3, 0)):
        estimate = first_estimate(tx, params, **functions)
        chex.assert_trees_all_equal_shapes_and_dtypes(estimate, params)


def test_what_is_missing_or_does_not_fit_is_named():
    tx = gauss_newton_bartlett(3, 0)
    state = tx.init(REGRESSION)

    def update(**functions):
        tx.update(REGRESSION, state, REGRESSION, **functions)

    with pytest.raises(ValueError, match="gauss_newton_bartlett needs logits_fn"):
        update(value_fn=lambda p: 0.0)
    with pytest.raises(ValueError, match=r"logits of shape \[..., 3\], one per class, got shape \(6, 4\)"):
        update(logits_fn=lambda p: X)  # hidden states
    with pytest.raises(ValueError, match=r"weights of logits_fn must have shape \(6,\), got \(5,\)"):
        update(logits_fn=lambda p: (logits(p), jnp.ones(5)))
    with pytest.raises(ValueError, match="needs the parameters"):
        tx.update(REGRESSION, state, logits_fn=logits)
    with pytest.raises(ValueError, match="hutchinson needs obj_fn"):
        hutchinson(0).update(REGRESSION, state, REGRESSION, logits_fn=logits)


@pytest.mark.parametrize(
    "key", ["0", 0.5, None, True, jnp.zeros(3, jnp.uint32), jax.random.split(jax.random.key(0))]
)
def test_refuses_what_is_no_key(key):
    with pytest.raises(TypeError, match="key, unless a random key, must be an integer"):
        hutchinson(key)


def test_refuses_numbers_outside_their_domain():
    with pytest.raises(ValueError, match=r"key, unless a random key, must be in \[0, 2147483647\], got -1"):
        hutchinson(-1)
    with pytest.raises(ValueError, match=r"microbatches must be in \[1, 2147483647\], got 0"):
        hutchinson(0, microbatches=0)
    with pytest.raises(ValueError, match=r"classes must be in \[2, 2147483647\], got 1"):
        gauss_newton_bartlett(1, 0)


REPLICAS = """
import json, jax, jax.numpy as jnp, numpy as np
from optimiz.primitives.hessian_diagonal import gauss_newton_bartlett, hutchinson

mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
x = jnp.asarray(np.random.default_rng(0).normal(size=(8, 3)), jnp.float32)
params = jnp.ones((3, 2))
P = jax.sharding.PartitionSpec
found = {}
for name, make in {
    "hutchinson": lambda axis: hutchinson(0, axis_name=axis),
    "gauss_newton_bartlett": lambda axis: gauss_newton_bartlett(2, 0, axis_name=axis),
}.items():
    def estimate(x, axis="data"):
        tx = make(axis)
        loss = lambda p: jnp.mean(jnp.sum(jnp.tanh(x @ p), 1) ** 2)
        return tx.update(params, tx.init(params), params, obj_fn=loss, logits_fn=lambda p: x @ p)[0]

    found[name] = {
        "one": estimate(x, None)[None],
        "pmap": jax.pmap(estimate, axis_name="data")(x.reshape(4, 2, 3)),
    }
    for check in (True, False):
        mapped = jax.shard_map(estimate, mesh=mesh, in_specs=P("data"), out_specs=P(), check_vma=check)
        found[name][f"shard_map {check}"] = jax.jit(mapped)(x)[None]
print(json.dumps(jax.tree.map(lambda leaf: np.asarray(leaf).tolist(), found)))
"""


@pytest.mark.long
def test_replicas_agree_on_one_estimate_of_all_their_data():
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", REPLICAS], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout)
    for name, ways in found.items():
        replicas = np.array(ways["pmap"])
        assert replicas.shape == (4, 3, 2) and (replicas == replicas[:1]).all()
        for way in ("shard_map True", "shard_map False"):
            np.testing.assert_allclose(ways[way][0], replicas[0], rtol=1e-5)
        if name == "hutchinson":  # the labels of the other are not those that one device draws
            np.testing.assert_allclose(ways["one"][0], replicas[0], rtol=1e-5)
