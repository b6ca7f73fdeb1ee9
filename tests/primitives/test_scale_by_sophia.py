import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optimiz.primitives.hessian_diagonal import gauss_newton_bartlett, hutchinson
from optimiz.primitives.scale_by_sophia import scale_by_sophia

PARAMS = {"w": jnp.array([[1.0, -2.0, 0.5]]), "b": jnp.array([0.25, 3.0])}
G = {"w": jnp.array([[0.5, -1.0, 0.0]]), "b": jnp.array([-2.0, 0.25])}


def constant(value):
    return optax.stateless(lambda updates, params: jax.tree.map(lambda u: jnp.full_like(u, value), updates))


def sophia(estimator, b1=0.0, b2=0.0, eps=1e-12, gamma=1.0, update_interval=1, **kwargs):
    return scale_by_sophia(
        b1, b2, eps, gamma, update_interval=update_interval, hessian_diagonal_fn=estimator, **kwargs
    )


def loss(p):
    """Its Hessian is neither diagonal nor constant."""
    return jnp.sum(p["w"] ** 4) + jnp.sum(p["b"]) ** 2 * jnp.sum(p["w"])


def directions(tx, updates=G):
    return jax.jit(lambda g: tx.update(g, tx.init(PARAMS), PARAMS)[0])(updates)


@pytest.mark.parametrize(("curvature", "gamma"), [(0.0, 1.0), (-5.0, 1.0), (3.0, 0.0), (3.0, 1e-30)])
def test_without_curvature_it_is_the_sign_and_does_not_move_where_there_is_no_momentum(curvature, gamma):
    for eps in (1e-12, 0.0):
        got = directions(sophia(constant(curvature), eps=eps, gamma=gamma))
        chex.assert_trees_all_equal(got, jax.tree.map(jnp.sign, G))


def test_with_boundless_curvature_it_stands_still():
    got = directions(sophia(constant(1.0), gamma=1e30))
    chex.assert_trees_all_close(got, jax.tree.map(jnp.zeros_like, G), atol=1e-29)


def test_divides_and_clips():
    tx = sophia(constant(2.0), b1=0.5, b2=0.75, gamma=4.0)  # m = g / 2, h = 0.25 × 2, denominator 2
    updates, state = tx.update(G, tx.init(PARAMS), PARAMS)
    np.testing.assert_allclose(updates["w"], [[0.125, -0.25, 0.0]], rtol=1e-6)
    np.testing.assert_allclose(updates["b"], [-0.5, 0.0625], rtol=1e-6)
    # m = (0.125 + 9 × 0.25) / 2, h = 0.75 × 0.5 + 0.25 × 2
    updates, _ = tx.update({name: 9 * g for name, g in G.items()}, state, PARAMS)
    np.testing.assert_allclose(updates["b"], [-1.0, 1.1875 / 3.5], rtol=1e-6)


@pytest.mark.quick(2)
@pytest.mark.parametrize("interval", [1, 3, 10])
def test_h_is_refreshed_at_0_k_2k_and_is_the_same_to_the_last_bit_in_between(interval):
    tx = sophia(hutchinson(0), b1=0.9, b2=0.99, update_interval=interval)
    update = jax.jit(lambda g, s: tx.update(g, s, PARAMS, obj_fn=loss))
    state = tx.init(PARAMS)
    for i in range(25):
        before = state
        _, state = update(G, state)
        if i % interval:
            chex.assert_trees_all_equal(state.nu, before.nu)
            chex.assert_trees_all_equal(state.hessian_fn_state, before.hessian_fn_state)
        else:
            assert all(np.any(a != b) for a, b in zip(state.nu.values(), before.nu.values(), strict=True))
        assert int(state.hessian_fn_state.estimates) == i // interval + 1
    assert int(state.count) == 25


@pytest.mark.parametrize("estimator", [hutchinson(0), gauss_newton_bartlett(3, 0)])
def test_between_refreshes_the_estimator_does_not_run(estimator):
    calls = []

    def logits_fn(p):
        jax.debug.callback(lambda: calls.append(1))
        return p["w"] * jnp.sum(p["b"])

    def obj_fn(p):
        return jnp.sum(logits_fn(p) ** 2)

    tx = sophia(estimator, update_interval=10)
    update = jax.jit(lambda s: tx.update(G, s, PARAMS, obj_fn=obj_fn, logits_fn=logits_fn)[1])
    state = tx.init(PARAMS)
    for _ in range(30):
        state = update(state)
    jax.effects_barrier()
    assert len(calls) == 3

    def loop(state):
        return jax.lax.scan(lambda s, _: (update(s), None), state, length=30)[0]

    jax.block_until_ready(jax.jit(loop)(tx.init(PARAMS)))
    jax.effects_barrier()
    assert len(calls) == 6


def test_the_compiled_update_branches_where_it_could_select():
    tx = sophia(hutchinson(0), update_interval=10)
    update = jax.jit(lambda s, p: tx.update(G, s, p, obj_fn=lambda p: jnp.sum((p["w"].T @ p["w"]) ** 2)))
    text = update.lower(tx.init(PARAMS), PARAMS).compile().as_text()
    main = text[text.index("\nENTRY") :]
    assert "conditional(" in main and " dot(" not in main
    assert " dot(" in text  # it is in the branch


def test_step_of_a_refresh_uses_the_new_h_and_that_of_optax_the_old():
    ours, theirs = sophia(constant(8.0)), sophia(constant(8.0), refresh="after_step")
    chex.assert_trees_all_close(directions(ours), jax.tree.map(lambda g: g / 8, G))
    chex.assert_trees_all_equal(directions(theirs), jax.tree.map(jnp.sign, G))
    nu = [tx.update(G, tx.init(PARAMS), PARAMS)[1].nu for tx in (ours, theirs)]
    chex.assert_trees_all_equal(*nu)


@pytest.mark.quick(1)
@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-6), (jnp.float64, 1e-12)])
def test_equals_optax_around_its_own_estimator(dtype, tolerance):
    with jax.enable_x64(True):
        estimator = optax.contrib.hutchinson_estimator_diag_hessian(jax.random.PRNGKey(3))
        ours = optax.chain(
            scale_by_sophia(
                0.965,
                0.99,
                1e-8,
                0.01,
                update_interval=4,
                hessian_diagonal_fn=estimator,
                debias=True,
                refresh="after_step",
            ),
            optax.add_decayed_weights(1e-4),
            optax.scale_by_learning_rate(0.01),
        )
        theirs = optax.contrib.sophia(0.01, update_interval=4, hessian_diagonal_fn=estimator)

        def trained(tx):
            p = jax.tree.map(lambda x: x.astype(dtype), PARAMS)
            state = tx.init(p)
            update = jax.jit(lambda g, s, p: tx.update(g, s, p, obj_fn=loss))
            for _ in range(25):
                updates, state = update(jax.grad(loss)(p), state, p)
                p = optax.apply_updates(p, updates)
            return p

        chex.assert_trees_all_close(trained(ours), trained(theirs), rtol=0, atol=tolerance)


def test_a_tree_without_leaves_which_that_of_optax_refuses():
    tx = sophia(hutchinson(0))
    functions = {"obj_fn": lambda p: jnp.zeros(())}
    updates, state = tx.update({}, tx.init({}), {}, **functions)
    assert updates == {} and float(state.unclipped) == 0
    theirs = optax.contrib.sophia(0.1)
    with pytest.raises(TypeError, match="empty"):
        theirs.update({}, theirs.init({}), {}, **functions)


def test_reports_the_share_that_is_not_clipped_and_the_leaves_without_curvature():
    tx = sophia(gauss_newton_bartlett(3, 0), gamma=4.0, update_interval=2)
    state = tx.init(PARAMS)
    for _ in range(2):  # kept from one refresh to the next
        _, state = tx.update(G, state, PARAMS, logits_fn=lambda p: p["w"])  # b is not part of the model
        assert int(state.without_curvature) == 1
        assert not np.any(state.nu["b"]) and np.all(state.nu["w"] > 0)
    tx = sophia(constant(1.0))
    _, state = tx.update(G, tx.init(PARAMS), PARAMS)  # 0.5, 0 and 0.25, of 5, are below 1
    assert float(state.unclipped) == pytest.approx(0.6)
    assert int(state.without_curvature) == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_seen(bad):
    tx = sophia(constant(1.0))
    broken = G | {"b": jnp.array([bad, 0.25])}
    got = directions(tx, broken)
    assert np.isnan(got["b"]).tolist() == [True, False]
    assert all(np.isnan(x).all() for x in directions(sophia(constant(bad))).values())


def test_moments_are_float32_and_updates_keep_their_dtype():
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), PARAMS)
    for dtypes in ({}, {"mu_dtype": jnp.bfloat16, "nu_dtype": jnp.float16}):
        tx = sophia(constant(1.0), b1=0.9, b2=0.9, **dtypes)
        start = tx.init(params)
        for gradient_dtype in (jnp.bfloat16, jnp.float32):
            g = jax.tree.map(lambda x, dtype=gradient_dtype: x.astype(dtype), G)
            updates, state = jax.jit(tx.update)(g, start, params)
            chex.assert_trees_all_equal_dtypes(updates, g)
            chex.assert_trees_all_equal_shapes_and_dtypes(state, start)
            assert state.mu["w"].dtype == dtypes.get("mu_dtype", jnp.float32)
            assert state.nu["w"].dtype == dtypes.get("nu_dtype", jnp.float32)


def test_refuses_what_does_not_fit():
    tx = sophia(optax.stateless(lambda updates, params: {"w": updates["w"], "b": jnp.ones(1)}))
    state = tx.init(PARAMS)
    with pytest.raises(ValueError, match=r"the curvature at \['b'\] has shape \(1,\)"):
        tx.update(G, state, PARAMS)
    with pytest.raises(ValueError, match=r"the gradient at \['b'\] has shape \(1,\)"):
        tx.update(G | {"b": jnp.ones(1)}, state, PARAMS)
    with pytest.raises(ValueError, match="needs the parameters"):
        tx.update(G, state)
    with pytest.raises(ValueError, match=r"gamma must be in \[0, inf\)"):
        sophia(hutchinson(0), gamma=-1.0)
    with pytest.raises(ValueError, match=r"eps must be in \[0, inf\)"):
        sophia(hutchinson(0), eps=-1.0)
    with pytest.raises(ValueError, match=r"b1 must be in \[0, 1\)"):
        sophia(hutchinson(0), b1=1.0)
    with pytest.raises(ValueError, match=r"b2 must be in \[0, 1\)"):
        sophia(hutchinson(0), b2=1.0)
    with pytest.raises(ValueError, match="update_interval must be in"):
        sophia(hutchinson(0), update_interval=0)
    with pytest.raises(TypeError, match="update_interval must be an integer"):
        sophia(hutchinson(0), update_interval=10.0)
    with pytest.raises(ValueError, match="refresh must be one of 'before_step', 'after_step', got 'never'"):
        sophia(hutchinson(0), refresh="never")
