import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optimiz
from optimiz import groups, schedules
from optimiz.primitives.clip_by_global_norm import clip_by_global_norm
from optimiz.primitives.guard import guard

PARAMS = {"w": jnp.array([[1.0, -2.0], [3.0, 0.5]]), "b": jnp.array([0.1, -0.2])}
BAD = {"nan": np.nan, "inf": np.inf, "-inf": -np.inf}


def full():
    """Everything that a bad step could disturb: a norm, moments, counters, a schedule, decay."""
    schedule = schedules.over_steps(schedules.warmup_cosine(0.1, 0.2), 20)
    return optax.chain(clip_by_global_norm(1.0), optimiz.adamw(schedule, weight_decay=0.1))


def gradients(n):
    rng = np.random.default_rng(0)
    return [jax.tree.map(lambda p: jnp.asarray(rng.normal(size=p.shape), p.dtype), PARAMS) for _ in range(n)]


def spoilt(g, bad=np.nan):
    return g | {"b": g["b"].at[1].set(bad)}


def run(tx, stream, params=PARAMS):
    state, update, out = tx.init(params), jax.jit(tx.update), []
    for g in stream:
        updates, state = update(g, state, params)
        params = optax.apply_updates(params, updates)
        out.append((updates, params, state))
    return out


@pytest.mark.parametrize("test", ["gradient", "update"])
@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_a_bad_step_leaves_everything_as_it_was_and_the_next_is_as_if_it_had_not_been(bad, test):
    good = gradients(8)
    tx = guard(full(), give_up_after=2, test=test)
    without = run(tx, good)
    with_bad = run(tx, [spoilt(good[0], bad), *good[:3], spoilt(good[3], bad), spoilt(good[0], bad), *good[3:]])
    for i in (4, 5):
        chex.assert_trees_all_equal(with_bad[i][0], jax.tree.map(jnp.zeros_like, PARAMS))
        chex.assert_trees_all_equal(with_bad[i][1], with_bad[3][1])
        chex.assert_trees_all_equal(with_bad[i][2].inner_state, with_bad[3][2].inner_state)
    assert [int(state.skipped_in_a_row) for *_, state in with_bad] == [1, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0]
    assert [int(state.skipped) for *_, state in with_bad] == [1, 1, 1, 1, 2, 3, 3, 3, 3, 3, 3]
    kept = [entry for i, entry in enumerate(with_bad) if i not in (0, 4, 5)]
    for got, wanted in zip(kept, without, strict=True):
        chex.assert_trees_all_equal(got[:2], wanted[:2])
        chex.assert_trees_all_equal(got[2].inner_state, wanted[2].inner_state)


def test_a_good_step_is_that_of_the_optimizer():
    for got, wanted in zip(run(guard(full(), 3), gradients(4)), run(full(), gradients(4)), strict=True):
        chex.assert_trees_all_close(got[0], wanted[0], rtol=1e-6)


def breaks_at(step):
    """An optimizer that makes a NaN of its own, at one of its steps."""

    def update_fn(updates, state, params=None):
        del params
        return jax.tree.map(lambda g: jnp.where(state == step, jnp.nan, -g), updates), state + 1

    return optax.GradientTransformation(lambda params: jnp.zeros([], jnp.int32), update_fn)


def test_of_the_update_it_is_not_fooled_by_a_nan_made_inside_the_optimizer_as_optax_is():
    g = jnp.ones(2)
    seen = [updates.tolist() for updates, *_ in run(guard(breaks_at(2), 9, "update"), [g] * 4, g)]
    assert seen == [[-1, -1], [-1, -1], [0, 0], [0, 0]]  # its state no longer moves, and so it stays broken
    updates, _, state = run(guard(breaks_at(0), 1, "update"), [g] * 2, g)[-1]
    assert np.isnan(updates).all() and int(state.inner_state) == 0
    assert np.isnan(run(optax.apply_if_finite(breaks_at(0), 9), [g], g)[-1][0]).all()


def test_takes_what_the_optimizer_makes_of_a_good_gradient_unless_it_tests_the_update():
    good = jnp.array([2.0])
    overflows = optax.stateless(lambda g, _: jax.tree.map(lambda x: x * jnp.inf, g))
    for test, skipped in (("gradient", 0), ("update", 1)):
        _, state = guard(overflows, 3, test).update(good, guard(overflows, 3, test).init(good))
        assert int(state.skipped) == skipped


def test_sophia_needs_a_test_of_the_update_where_its_curvature_is_bad_and_the_gradient_is_not():
    def loss(p):  # p^1.5, whose gradient at 0 is 0 and whose second derivative is not finite
        return jnp.sum(p**1.5)

    params = jnp.array([1.0, 0.0])
    for test, skipped in (("gradient", 0), ("update", 1)):
        tx = guard(optimiz.sophia_h(0.1, update_interval=1), 3, test)
        updates, state = tx.update(jax.grad(loss)(params), tx.init(params), params, obj_fn=loss)
        assert int(state.skipped) == skipped and bool(jnp.isfinite(updates).all()) == (test == "update")


def test_gives_up_with_nan_in_every_entry_and_keeps_the_last_good_state():
    good = gradients(2)
    tx = guard(full(), give_up_after=2)
    history = run(tx, [good[0], *[spoilt(good[1])] * 5])
    for i, (updates, _, state) in enumerate(history[1:], start=1):
        values = np.concatenate([np.ravel(u) for u in jax.tree.leaves(updates)])
        assert np.isnan(values).all() if i > 2 else (values == 0).all()
        assert int(state.skipped_in_a_row) == int(state.skipped) == i
        chex.assert_trees_all_equal(state.inner_state, history[0][2].inner_state)
    # Back at good parameters, the run goes on.
    updates, state = jax.jit(tx.update)(good[1], history[-1][2], history[0][1])
    chex.assert_trees_all_equal(updates, run(tx, good)[1][0])
    assert int(state.skipped_in_a_row) == 0


def test_where_it_gives_up_optax_lets_the_bad_gradient_into_the_moments():
    *_, state = run(optax.apply_if_finite(optax.adam(0.1), 1), [jnp.full(2, jnp.nan)] * 2, jnp.ones(2))[-1]
    assert np.isnan(state.inner_state[0].mu).all()
    *_, state = run(guard(optimiz.adamw(0.1), 1), [jnp.full(2, jnp.nan)] * 2, jnp.ones(2))[-1]
    assert np.isfinite(state.inner_state[0].mu).all()


def test_an_infinite_gradient_is_bad_also_where_the_optimizer_would_take_its_sign():
    p, g = jnp.ones(1), jnp.array([jnp.inf])
    skipped, given_up = run(guard(optimiz.sign_sgd(0.5), 1), [g] * 2, p)
    assert skipped[0].tolist() == [0.0] and np.isnan(given_up[0]).all()
    assert run(optimiz.sign_sgd(0.5), [g], p)[0][0].tolist() == [-0.5]


def test_give_up_after_zero_skips_nothing_and_may_be_traced():
    def updates_after(k):
        return run(guard(optax.sgd(1.0), k), [jnp.full(1, jnp.nan)] * 2, jnp.ones(1))

    assert np.isnan(updates_after(0)[0][0]).all()
    first, second = jax.vmap(lambda k: tuple(x[0] for x in updates_after(k)))(jnp.arange(3))
    np.testing.assert_array_equal(jnp.isnan(first[:, 0]), [True, False, False])
    np.testing.assert_array_equal(jnp.isnan(second[:, 0]), [True, True, False])


def test_replicas_decide_alike_on_the_gradient_that_they_share():
    tx = guard(optimiz.adamw(0.1), 3)
    local = jnp.array([[1.0, 2.0], [jnp.nan, 2.0]])

    def replica(g):
        return tx.update(jax.lax.pmean(g, "data"), tx.init(jnp.ones(2)), jnp.ones(2))

    updates, state = jax.vmap(replica, axis_name="data")(local)
    np.testing.assert_array_equal(updates, 0)
    np.testing.assert_array_equal(state.skipped, 1)


def test_passes_extra_arguments_on():
    def update_fn(updates, state, params=None, *, value, **extra_args):
        return jax.tree.map(lambda g: -value * g, updates), state

    tx = guard(optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update_fn), 1)
    updates, _ = tx.update(jnp.ones(1), tx.init(jnp.ones(1)), value=3.0, unknown=None)
    assert updates.tolist() == [-3.0]
    tx = guard(optax.sgd(1.0), 1)
    assert tx.update(jnp.ones(1), tx.init(jnp.ones(1)), value=3.0)[0].tolist() == [-1.0]


@pytest.mark.quick(1)
@pytest.mark.parametrize("param", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("gradient", [jnp.float32, jnp.bfloat16])
def test_keeps_the_types_of_state_and_updates_in_one_trace_of_a_scan(param, gradient):
    params = jax.tree.map(lambda p: p.astype(param), PARAMS)
    tx = guard(full(), 3)
    stream = jax.tree.map(lambda *g: jnp.stack(g).astype(gradient), *gradients(50))
    stream["b"] = stream["b"].at[jnp.array([3, 4, 20])].set(jnp.nan)

    def body(carry, g):
        updates, state = tx.update(g, carry[1], carry[0])
        assert jax.tree.map(lambda u: u.dtype, updates) == jax.tree.map(lambda p: p.dtype, params)
        return (optax.apply_updates(carry[0], updates), state), None

    (scanned, state), _ = jax.jit(lambda c: jax.lax.scan(body, c, stream))((params, tx.init(params)))
    looped = run(tx, [jax.tree.map(lambda g, i=i: g[i], stream) for i in range(50)], params)[-1][1]
    chex.assert_trees_all_close(scanned, looped, rtol=2e-2 if param == jnp.bfloat16 else 1e-5)
    assert int(state.skipped) == 3 and int(state.inner_state[1][-1].count) == 47


def test_the_optimizer_may_return_another_dtype_which_apply_if_finite_refuses():
    g = jnp.ones(2, jnp.bfloat16)
    promotes = optax.scale(jnp.float32(-1.0))
    assert run(guard(promotes, 1), [g, g * jnp.nan], g)[1][0].dtype == jnp.float32
    with pytest.raises(TypeError):
        run(optax.apply_if_finite(promotes, 1), [g], g)


@pytest.mark.parametrize("tree", [{}, {"a": None}, {"a": jnp.zeros((0, 3))}, {"a": optax.MaskedNode()}])
def test_a_tree_without_entries_is_good(tree):
    tx = guard(optimiz.sgd(0.1, momentum=0.9), 1)
    updates, state = tx.update(tree, tx.init(tree), tree)
    chex.assert_trees_all_equal(updates, tree)
    assert int(state.skipped) == 0


def test_guards_one_group_of_parameters():
    params = {"head": jnp.ones(2), "stem": jnp.ones(2)}
    tx = groups.freeze(guard(optimiz.adamw(0.1), 1), groups.path("stem"))
    bad = {"head": jnp.ones(2), "stem": jnp.full(2, jnp.nan)}
    updates, _ = tx.update(bad, tx.init(params), params)
    assert (np.asarray(updates["head"]) != 0).all()
    updates, _ = tx.update({"head": bad["stem"], "stem": bad["head"]}, tx.init(params), params)
    np.testing.assert_array_equal(updates["head"], 0)


def test_its_state_may_be_donated_and_its_counters_saturate():
    tx = guard(optimiz.adamw(0.1), 3)
    last = jnp.array(2**31 - 1, jnp.int32)
    state = tx.init(PARAMS)._replace(skipped=last)
    _, state = jax.jit(tx.update, donate_argnums=1)(spoilt(PARAMS), state, PARAMS)
    assert (int(state.skipped), int(state.skipped_in_a_row)) == (2**31 - 1, 1)


def test_refuses_another_test():
    with pytest.raises(ValueError, match="test must be one of 'gradient', 'update', got 'loss'"):
        guard(optax.sgd(0.1), 3, test="loss")


def test_refuses_what_is_no_number_of_steps():
    with pytest.raises(ValueError, match=r"give_up_after must be in \[0, 2147483647\], got -1"):
        guard(optax.sgd(0.1), give_up_after=-1)
    with pytest.raises(TypeError, match=r"give_up_after must be an integer, got 1.5"):
        guard(optax.sgd(0.1), give_up_after=1.5)


@pytest.mark.parametrize("windows", [lambda tx: optax.MultiSteps(tx, 2), lambda tx: optimiz.accumulate(tx, 2)])
def test_around_windows_it_leaves_out_a_bad_micro_batch(windows):
    """The updates of good micro-batches are those of a run without bad ones."""

    def updates(gradients):
        tx, params = optimiz.guard(windows(optimiz.adamw(0.1)), 3), jnp.ones(2)
        state = tx.init(params)
        for g in gradients:
            update, state = jax.jit(tx.update)(jnp.full(2, g), state, params)
            if jnp.isfinite(g):
                yield update.tolist()

    good = list(updates([1.0, 2.0, 3.0, 4.0]))
    assert list(updates([jnp.nan, 1.0, 2.0, jnp.inf, 3.0, jnp.nan, 4.0])) == good
    assert good[1] != [0.0, 0.0] != good[3]


def test_inside_windows_of_optax_a_bad_micro_batch_ends_in_nan_and_inside_of_accumulate_it_does_not():
    def last(windows):
        tx, params = windows(optimiz.guard(optimiz.adamw(0.1), 1)), jnp.ones(2)
        state = tx.init(params)
        for g in (jnp.nan, 1.0, 1.0, 1.0, 1.0, 1.0):
            update, state = tx.update(jnp.full(2, g), state, params)
        return update

    assert jnp.isnan(last(lambda tx: optax.MultiSteps(tx, 2))).all()
    assert jnp.all(last(lambda tx: optimiz.accumulate(tx, 2)) < 0)


@pytest.mark.quick(2)
@pytest.mark.parametrize(
    "wrapped",
    [
        lambda tx: optimiz.guard(tx, 3),
        lambda tx: optimiz.accumulate(tx, 2),
        lambda tx: optimiz.low_bit(tx, optimiz.numerics.Int8(), min_size=4),
        lambda tx: optax.chain(tx, optimiz.kahan()),
    ],
)
@pytest.mark.parametrize("make", [lambda: optax.noisy_sgd(0.1, key=jax.random.key(0)), lambda: optax.sm3(0.1)])
@pytest.mark.parametrize("jit", [False, True])
def test_wrappers_take_a_state_with_a_typed_key_or_of_other_shapes(wrapped, make, jit):
    params = {"w": jnp.ones((200, 200)), "b": jnp.ones(3)}
    tx = wrapped(make())
    update, state = jax.jit(tx.update) if jit else tx.update, tx.init(params)
    structure = jax.tree.structure(state)
    for _ in range(2):
        updates, state = update(params, state, params)
    assert jax.tree.structure(state) == structure
    assert all(jnp.all(jnp.isfinite(u)) and jnp.any(u != 0) for u in jax.tree.leaves(updates))
