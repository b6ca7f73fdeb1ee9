import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optimiz
from optimiz import groups, schedules
from optimiz.primitives.accumulate import accumulate
from optimiz.primitives.guard import guard

PARAMS = {"w": np.array([[1.0, -2.0], [3.0, 0.5]]), "b": np.array([0.1, -0.2])}


def parameters(dtype=jnp.float32):
    return jax.tree.map(lambda p: jnp.asarray(p, dtype), PARAMS)


def optimizer():
    schedule = schedules.over_steps(schedules.warmup_cosine(0.1, 0.2), 20)
    return optimiz.adamw(schedule, weight_decay=0.1)


def run(tx, stream, params):
    state, update, out = tx.init(params), jax.jit(tx.update), []
    for g in stream:
        updates, state = update(g, state, params)
        params = optax.apply_updates(params, updates)
        out.append((updates, params, state))
    return out


def stream(n, dtype=jnp.float32):
    rng = np.random.default_rng(0)
    return [jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), dtype), PARAMS) for _ in range(n)]


@pytest.mark.quick(2)
@pytest.mark.parametrize("every", [1, 3, 4])
@pytest.mark.parametrize("x64", [False, True])
def test_equals_one_big_batch(every, x64):
    """Least squares over 12 examples a step, in one batch or in ``every`` micro-batches."""
    rng = np.random.default_rng(0)

    def trained(tx, batches):
        def body(carry, batch):
            params, state = carry
            x, y = batch
            g = jax.grad(lambda p: jnp.mean((x @ p["w"] + p["b"] - y) ** 2))(params)
            updates, state = tx.update(g, state, params)
            return (optax.apply_updates(params, updates), state), params

        params = parameters(batches[0].dtype)
        return jax.jit(lambda: jax.lax.scan(body, (params, tx.init(params)), batches))()

    with jax.enable_x64(x64):
        big = tuple(jnp.asarray(rng.normal(size=(20, 12, 2)), float) for _ in range(2))
        micro = tuple(batch.reshape(20 * every, 12 // every, 2) for batch in big)
        (last, big_state), path = trained(optimizer(), big)
        (accumulated, state), accumulated_path = trained(accumulate(optimizer(), every), micro)
        starts = jax.tree.map(lambda p: p[::every], accumulated_path)
        chex.assert_trees_all_close(
            (accumulated, starts, state.inner_state),
            (last, path, big_state),
            rtol=0,
            atol=1e-12 if x64 else 2e-6,
        )


def test_sums_over_the_number_of_valid_tokens_in_all_micro_batches_are_the_mean_of_the_whole():
    token, valid = np.array([[1.0, 2, 3], [4, 5, 6]]), np.array([[1, 1, 1], [1, 0, 0]])

    def stepped(of):
        gradients = [
            jax.grad(lambda w, t=t, v=v: of((w * t * v).sum(), v.sum()))(1.0)
            for t, v in zip(token, valid, strict=True)
        ]
        return -float(run(accumulate(optax.sgd(1.0), 2), gradients, jnp.float32(1))[-1][0])

    whole = (token * valid).sum() / valid.sum()
    assert stepped(lambda total, count: 2 * total / valid.sum()) == pytest.approx(whole, rel=1e-6)
    assert stepped(lambda total, count: total / count) == pytest.approx((2 + 4) / 2)  # the mean of the means


@pytest.mark.quick(2)
@pytest.mark.parametrize("every", [1, 2, 5])
def test_equals_optax_where_all_is_finite(every):
    ours = run(accumulate(optimizer(), every), stream(20), parameters())
    theirs = run(optax.MultiSteps(optimizer(), every), stream(20), parameters())
    for (ours_u, ours_p, _), (theirs_u, theirs_p, _) in zip(ours, theirs, strict=True):
        chex.assert_trees_all_close((ours_u, ours_p), (theirs_u, theirs_p), rtol=0, atol=1e-6)
    chex.assert_trees_all_close(ours[-1][2].inner_state, theirs[-1][2].inner_opt_state, rtol=0, atol=1e-6)


def counting(calls):
    def update_fn(updates, state, params=None):
        del params
        jax.debug.callback(lambda: calls.append(1))
        return jax.tree.map(jnp.negative, updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update_fn)


def test_runs_the_optimizer_only_when_a_step_is_due():
    ours, theirs = [], []
    run(accumulate(counting(ours), 4), stream(8), parameters())
    run(optax.MultiSteps(counting(theirs), 4), stream(8), parameters())
    jax.effects_barrier()
    assert (len(ours), len(theirs)) == (2, 8)


def test_a_bad_micro_batch_shows_in_its_step_and_not_before_it_nor_after():
    g, bad = jnp.ones(2), jnp.array([1.0, jnp.nan])
    history = run(accumulate(optax.sgd(1.0), 2), [bad, g, g, g], g)
    np.testing.assert_array_equal([updates for updates, *_ in history[:1]], [[0, 0]])
    np.testing.assert_array_equal(history[1][0], [-1, np.nan])
    np.testing.assert_array_equal([updates for updates, *_ in history[2:]], [[0, 0], [-1, -1]])
    theirs = run(optax.MultiSteps(optax.sgd(1.0), 2), [bad, g, g, g], g)
    assert np.isnan(theirs[0][0]).any() and np.isnan(theirs[2][0]).any()


def test_a_guard_inside_skips_the_window_and_one_around_leaves_out_the_micro_batch():
    ones, bad = jnp.ones(1), jnp.array([jnp.nan])
    micro = [ones, bad, 3 * ones, 5 * ones, 7 * ones]
    inside = run(accumulate(guard(optax.sgd(1.0), 3), 2), micro, ones)
    assert [float(updates[0]) for updates, *_ in inside] == [0, 0, 0, -4, 0]
    around = run(guard(accumulate(optax.sgd(1.0), 2), 3), micro, ones)
    assert [float(updates[0]) for updates, *_ in around] == [0, 0, -2, 0, -6]


@pytest.mark.quick(2)
@pytest.mark.parametrize("param", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("gradient", [jnp.float32, jnp.bfloat16])
def test_waits_with_exact_zeros_of_the_parameters_dtype(param, gradient):
    params = parameters(param)
    tx = accumulate(optimizer(), 3)
    history = run(tx, stream(6, gradient), params)
    for i, (updates, after, state) in enumerate(history):
        chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)
        chex.assert_trees_all_equal_shapes_and_dtypes(state, tx.init(params))
        assert all(m.dtype == jnp.float32 for m in jax.tree.leaves(state.mean))
        assert int(state.micro_step) == (i + 1) % 3
        if i % 3 < 2:
            assert all((np.asarray(u) == 0).all() for u in jax.tree.leaves(updates))
            chex.assert_trees_all_equal(after, params if i == 0 else history[i - 1][1])
        else:
            chex.assert_trees_all_equal(state.mean, jax.tree.map(jnp.zeros_like, state.mean))


def test_the_mean_is_float32_and_finite():
    bf16 = jnp.ones(1, jnp.bfloat16)
    updates = run(accumulate(optax.sgd(1.0), 600), [bf16] * 600, bf16)[-1][0]  # bfloat16 would stop at 256
    assert updates.tolist() == [-1.0]
    huge = jnp.full(1, 3e38)
    assert run(accumulate(optax.sgd(0.5), 4), [huge] * 4, huge)[-1][0].tolist() == [np.float32(-1.5e38)]


def test_a_scan_equals_a_loop():
    tx, params, micro = accumulate(optimizer(), 4), parameters(), stream(50)

    def body(carry, g):
        updates, state = tx.update(g, carry[1], carry[0])
        return (optax.apply_updates(carry[0], updates), state), None

    stacked = jax.tree.map(lambda *g: jnp.stack(g), *micro)
    scanned, state = jax.jit(lambda c: jax.lax.scan(body, c, stacked)[0])((params, tx.init(params)))
    chex.assert_trees_all_close((scanned, state), run(tx, micro, params)[-1][1:], rtol=1e-5)


def test_passes_the_extra_arguments_of_the_last_micro_batch_on():
    def update_fn(updates, state, params=None, *, value, **extra_args):
        return jax.tree.map(lambda g: -value * g, updates), state

    tx = accumulate(optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update_fn), 2)
    state = tx.init(jnp.ones(1))
    for value in (3.0, 5.0):
        updates, state = tx.update(jnp.ones(1), state, value=jnp.array(value), unknown=None)
    assert updates.tolist() == [-5.0]


def test_every_may_be_traced_or_injected():
    g = jnp.ones(1)

    def steps(every):
        return jnp.stack([updates[0] for updates, *_ in run(accumulate(optax.sgd(1.0), every), [g] * 4, g)])

    np.testing.assert_allclose(
        jax.vmap(steps)(jnp.array([1, 2, 3])), [[-1, -1, -1, -1], [0, -1, 0, -1], [0, 0, -1, 0]], rtol=1e-6
    )
    tx = optax.inject_hyperparams(lambda learning_rate, every: accumulate(optimiz.sgd(learning_rate), every))
    assert [float(u[0]) for u, *_ in run(tx(0.5, 2), [g] * 4, g)] == [0, -0.5, 0, -0.5]


def test_accumulates_one_group_of_parameters():
    params = {"head": jnp.ones(2), "stem": jnp.ones(2)}
    tx = groups.freeze(accumulate(optimiz.sgd(1.0), 2), groups.path("stem"))
    history = run(tx, [params] * 2, params)
    assert [u["head"].tolist() for u, *_ in history] == [[0, 0], [-1, -1]]
    assert [u["stem"].tolist() for u, *_ in history] == [[0, 0], [0, 0]]


@pytest.mark.parametrize("tree", [{}, {"a": None}, {"a": jnp.zeros((0, 3))}, {"a": optax.MaskedNode()}])
def test_a_tree_without_entries(tree):
    tx = accumulate(optimiz.sgd(0.1, momentum=0.9), 2)
    updates, _ = tx.update(tree, tx.init(tree), tree)
    chex.assert_trees_all_equal(updates, tree)


def test_its_state_may_be_donated():
    tx, params = accumulate(optimizer(), 2), parameters()
    update, state = jax.jit(tx.update, donate_argnums=1), tx.init(params)
    for g in stream(4):
        _, state = update(g, state, params)
    assert int(state.inner_state[-1].count) == 2


def test_refuses_what_is_no_number_of_micro_batches_and_a_gradient_of_another_shape():
    with pytest.raises(ValueError, match=r"every must be in \[1, 2147483647\], got 0"):
        accumulate(optax.sgd(0.1), every=0)
    with pytest.raises(TypeError, match=r"every must be an integer, got 2.0"):
        accumulate(optax.sgd(0.1), every=2.0)
    tx = accumulate(optax.sgd(0.1), 2)
    with pytest.raises(ValueError, match=r"gradient at \['w'\] has shape \(1,\), but the parameter has"):
        tx.update({"w": jnp.ones(1)}, tx.init({"w": jnp.ones(4)}))
    changes_dtype = accumulate(optax.adam(0.1), 2)
    params = jnp.ones(2, jnp.bfloat16)
    _, state = changes_dtype.update(jnp.ones(2), changes_dtype.init(params), params)
    with pytest.raises(TypeError, match=r"accumulate must keep .* at \[0\].mu differ: bfloat16\[2\] before"):
        changes_dtype.update(jnp.ones(2), state, params)
    with pytest.raises(TypeError, match="accumulate must keep"):  # within jit at the first
        jax.jit(changes_dtype.update)(jnp.ones(2), changes_dtype.init(params), params)


def test_it_takes_explicit_mesh_axes():
    """Its idle update, the zeros of a branch, has the parameters' sharding, also where they are closed over."""
    mesh = jax.make_mesh((1,), ("d",), axis_types=(jax.sharding.AxisType.Explicit,))
    params = jax.device_put(jnp.ones((8, 4)), jax.NamedSharding(mesh, jax.P("d")))
    tx = accumulate(optimiz.adamw(0.1), 2)
    with jax.set_mesh(mesh):
        state = tx.init(params)
        eager, after = tx.update(params, state, params)
        jitted, _ = jax.jit(lambda state: tx.update(params, state, params))(state)
        step, _ = tx.update(params, after, params)
    assert jax.typeof(eager) == jax.typeof(jitted) == jax.typeof(step) == jax.typeof(params)
    assert jax.typeof(params).sharding.spec == jax.P("d", None)
