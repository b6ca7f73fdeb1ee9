"""The search by itself: bookkeeping, guards, what it composes with, and the traps of other implementations."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from optimiz import groups, numerics, training
from optimiz.optimizers.adam_sls import adam_sls
from optimiz.optimizers.armijo_sgd import armijo_sgd
from optimiz.optimizers.momentum_sls import momentum_sls
from optimiz.optimizers.pla_sls import pla_sls
from optimiz.primitives.scale_by_adam import scale_by_adam
from optimiz.primitives.scale_by_armijo import scale_by_armijo
from tests.contract import searches
from tests.golden import line_search, problem_p
from tests.training import tiny

grow = partial(partial, numerics.grow_each_step)
SETTINGS = {"init_step": 1.0, "shrink": 0.5, "search_due": numerics.search_every(1), "max_trials": 20}
UNGUARDED = {"min_step": 0.0, "max_step": jnp.inf, "tolerance": 0.0, "on_failure": "keep"}


def armijo(c=0.5, *, before=(), **kwargs):
    """The search at the end of a chain, so that its state is the last of a tuple, as in the presets."""
    return optax.chain(*before, scale_by_armijo(c, **SETTINGS | {"growth": grow(factor=1.0)} | kwargs))


def square(x):
    return jnp.sum(x**2)


def bowl(p):
    """Two units that do not touch."""
    return jnp.sum(p["x"] ** 2) + 3 * jnp.sum(p["y"] ** 2)


TWO = groups.units_by(groups.path("x"))


def run(tx, loss, params, steps):
    """The state of the search after each update, stacked; and the parameters at the end."""

    def update(carry, _):
        params, state = searches.step(tx, loss, *carry)
        return (params, state), state[-1]

    (params, _), states = jax.jit(lambda p: jax.lax.scan(update, (p, tx.init(p)), length=steps))(params)
    return states, params


# Against others


def test_equals_the_version_of_adam_sls_that_stays_where_it_searched():
    adam = scale_by_adam(0.9, 0.999, 1e-8, for_search=True)
    settings = {"shrink": 0.9, "growth": grow(factor=2 ** (1 / 500)), "max_trials": 100}
    tx = armijo(0.3, before=[adam], move_along="search", **settings, **UNGUARDED)
    ours = problem_p.run(tx)
    problem_p.check_rows(ours, problem_p.PAPER_VERSION)
    problem_p.check_same(ours, line_search.adam_sls(move_along="search"))


def test_equals_the_backtracking_of_optax_on_gradient_descent():
    settings = {"shrink": 0.8, "growth": grow(factor=1.5), "max_step": 1.0, "tolerance": 0.0}
    ours = problem_p.run(armijo(1e-4, max_trials=31, **settings), 40)
    theirs = optax.chain(
        optax.sgd(1.0),
        optax.scale_by_backtracking_linesearch(30, slope_rtol=1e-4, decrease_factor=0.8, increase_factor=1.5),
    )
    with jax.enable_x64(True):

        def step(carry, batch):
            params, state = carry
            value_fn = partial(problem_p.loss, x=batch[0], y=batch[1])
            value, grad = jax.value_and_grad(value_fn)(params)
            updates, state = theirs.update(grad, state, params, value=value, grad=grad, value_fn=value_fn)
            return (optax.apply_updates(params, updates), state), state[-1].learning_rate

        params = jax.tree.map(jnp.asarray, problem_p.PARAMS)
        turns = np.arange(40) % 4
        batches = problem_p.X[turns], problem_p.Y[turns]
        sizes = jax.jit(lambda p: jax.lax.scan(step, (p, theirs.init(p)), batches)[1])(params)
    np.testing.assert_allclose(ours.step_sizes[:, 0], sizes, rtol=1e-12)


def test_equals_jaxopts_armijo_sgd():
    """It multiplies by 1.5 up to 1, shrinks by 0.8 at most 15 times, c = 0.1."""
    eta = 1.0

    def step(w, x, y):
        nonlocal eta
        f, g = line_search.value(w, x, y), line_search.gradient(w, x, y)
        slope = line_search.dot(g, g)
        eta, trials, _ = line_search.backtrack(
            lambda e: line_search.value(line_search.ahead(w, e, g), x, y) <= f - 0.1 * e * slope,
            min(1.5 * eta, 1.0),
            0.8,
            15,
        )
        return line_search.ahead(w, eta, g), [eta], trials

    tx = armijo(0.1, growth=grow(factor=1.5), shrink=0.8, max_trials=15, max_step=1.0)
    problem_p.check_same(problem_p.run(tx), line_search.recorded(step))


@pytest.mark.quick(2)
@pytest.mark.parametrize("curvature", [0.5, 4.0])
@pytest.mark.parametrize("c", [0.1, 0.3, 0.7])
def test_the_accepted_step_size_of_a_parabola(curvature, c):
    """η ≤ 2 (1 - c) / L, and the one before was longer."""
    tx = armijo(c, init_step=10.0, shrink=0.9, max_trials=100)
    _, state = searches.step(tx, lambda x: curvature * x**2 / 2, jnp.array(1.0))
    bound = 2 * (1 - c) / curvature
    assert 0.9 * bound < state[-1].step_size[0] <= bound
    assert state[-1].evaluations == 1 + np.ceil(np.log(10 / bound) / -np.log(0.9))


def test_the_accepted_step_size_along_a_preconditioned_gradient():
    """f = Σ Lᵢ xᵢ²/2 along D g: η ≤ 2 (1 - c) ⟨g, D g⟩ / ⟨D g, L D g⟩."""
    curvature, scale, x, c = np.array([1.0, 9.0]), np.array([2.0, 0.25]), np.array([1.0, -2.0]), 0.3
    precondition = optax.stateless(lambda updates, _: updates * scale)
    tx = armijo(c, before=[precondition], init_step=10.0, shrink=0.9, max_trials=100)
    after, state = searches.step(tx, lambda x: jnp.sum(curvature * x**2) / 2, jnp.asarray(x, jnp.float32))
    direction = scale * curvature * x
    bound = 2 * (1 - c) * (curvature * x) @ direction / (direction @ (curvature * direction))
    size = float(state[-1].step_size[0])
    assert 0.9 * bound < size <= bound
    np.testing.assert_allclose(after, x - size * direction, rtol=1e-6)


# Bookkeeping


def test_how_often_it_searches_when_the_step_size_rests():
    tx = armijo(search_due=numerics.search_when_changing(), max_step=jnp.inf)
    with jax.enable_x64(True):
        states, _ = run(tx, jnp.negative, jnp.zeros((), jnp.float64), 1000)
    searched = np.diff(states.searches, prepend=0)
    assert np.flatnonzero(searched == 0)[0] == 69
    assert [searched[:n].sum() for n in (80, 100, 200, 500, 1000)] == [74, 84, 126, 192, 250]
    assert np.all(np.diff(np.flatnonzero(searched))[-20:] == 10)


def test_how_often_it_searches_when_the_step_size_grows():
    tx = armijo(
        search_due=numerics.search_when_changing(), growth=grow(factor=2 ** (1 / 500)), max_step=jnp.inf
    )
    with jax.enable_x64(True):
        states, _ = run(tx, jnp.negative, jnp.zeros((), jnp.float64), 4000)
    searched = np.diff(states.searches, prepend=0)
    assert searched.sum() == 1402
    assert np.all(np.diff(np.flatnonzero(searched))[-100:] == 3)
    np.testing.assert_allclose(states.step_size[-1], 2.0**8, rtol=1e-9)  # it grew at every step


@pytest.mark.quick(2)
@pytest.mark.parametrize(
    ("growth", "keep_untested", "wanted"),
    [
        (grow(factor=2.0), True, [2, 4, 8, 16, 32, 64]),
        (partial(numerics.grow_each_search, factor=2.0), True, [2, 2, 2, 4, 4, 4]),
        (grow(factor=2.0), False, [2, 2, 2, 4, 4, 4]),
    ],
    ids=["each step", "each search", "each step, kept if tested"],
)
def test_growth_between_searches(growth, keep_untested, wanted):
    tx = armijo(
        growth=growth, search_due=numerics.search_every(3), keep_untested=keep_untested, max_step=jnp.inf
    )
    states, x = run(tx, jnp.negative, jnp.array(0.0), 6)
    assert states.step_size[:, 0].tolist() == wanted
    assert states.evaluations.tolist() == [1, 1, 1, 2, 2, 2]
    # Growth that is not kept lasts for the update all the same.
    assert float(x) == (2 + 4 + 4 + 4 + 8 + 8 if not keep_untested else sum(wanted))


def test_the_first_search_goes_up_and_the_next_do_not():
    tx = armijo(init_step=0.01, expand=2.0)
    states, _ = run(tx, square, jnp.array([1.0]), 2)
    # f = x² accepts η ≤ 1/2: 0.01, 0.02 … 0.32 are, 0.64 is not.
    np.testing.assert_allclose(states.step_size, [[0.32], [0.32]], rtol=1e-6)
    assert states.evaluations.tolist() == [7, 8]


def test_the_first_search_goes_up_no_further_than_the_bound():
    states, _ = run(armijo(init_step=1.0, expand=2.0, max_step=5.0), jnp.negative, jnp.array(0.0), 1)
    assert (float(states.step_size[0, 0]), int(states.evaluations[0])) == (4.0, 3)


def test_a_search_that_comes_to_the_least_step_size_has_failed():
    tx = armijo(init_step=1.0, min_step=0.2)
    _, state = searches.step(tx, square, jnp.array([1.0]), lift=1.0)
    assert (int(state[-1].evaluations), int(state[-1].failures)) == (3, 1)  # 1, 1/2, 1/4


# Failures, and numbers that are not finite


SMOOTHED = armijo(beta=0.5, max_trials=7)


@pytest.mark.parametrize("trial", [100.0, np.nan, np.inf, -np.inf])
def test_a_search_without_success_ends_and_the_next_recovers(trial):
    """Optax's takes a step size of 0 from trials that are all NaN, and keeps it for ever."""
    tx = SMOOTHED
    x, state = searches.step(tx, square, jnp.array([2.0]))
    before = state[-1]
    x, state = searches.step(tx, square, x, state, lift=trial)
    failed = state[-1]
    assert failed.evaluations - before.evaluations == 7
    assert failed.failures == 1
    assert failed.step_size[0] == before.step_size[0] * 0.5
    assert (float(failed.decrease[0]), float(failed.slope[0])) == (0, 0)  # the averages start afresh
    assert np.isfinite(x).all()
    x, state = searches.step(tx, square, x + 1, state)
    assert state[-1].failures == 1
    assert np.isfinite(x).all()


def test_a_failed_search_can_keep_what_is_left():
    tx = armijo(beta=0.5, max_trials=7, on_failure="keep")
    x, state = searches.step(tx, square, jnp.array([2.0]))
    before = state[-1]
    _, state = searches.step(tx, square, x, state, lift=100.0)
    assert state[-1].step_size[0] == before.step_size[0] * 0.5**7
    assert state[-1].decrease[0] == before.decrease[0]
    assert state[-1].slope[0] > 0


def test_a_trial_that_is_not_finite_is_refused_and_a_shorter_one_taken():
    tx = armijo()
    _, state = searches.step(
        tx, square, jnp.array([1.0]), value_fn=lambda x: jnp.where(x[0] < 0.6, jnp.nan, square(x))
    )
    assert state[-1].step_size[0] == 0.125  # x moves by 2 η
    assert state[-1].failures == 0


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_value_that_is_not_finite_moves_nothing_and_costs_no_trial(value):
    tx = armijo(growth=grow(factor=2.0))
    x, state = searches.step(tx, square, jnp.array([1.0]))
    kept = state[-1]
    after, state = searches.step(tx, square, x, state, value=jnp.float32(value))
    np.testing.assert_array_equal(after, x)
    assert state[-1].voids == 1
    assert state[-1]._replace(count=kept.count, voids=kept.voids) == jax.tree.map(np.asarray, kept)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_gradient_that_is_not_finite_shows_and_the_step_size_is_kept(bad):
    """In whichever array it is."""
    p = {"x": jnp.ones(2), "y": jnp.ones(2)}
    tx = armijo()
    _, state = searches.step(tx, bowl, p)
    grad = {"x": jnp.ones(2), "y": jnp.array([1.0, bad])}
    after, following = searches.step(tx, bowl, p, state, grad=grad)
    assert np.isnan(after["y"][1])
    np.testing.assert_array_equal(after["x"], p["x"])
    assert following[-1].voids == 1
    assert following[-1].evaluations == state[-1].evaluations
    np.testing.assert_array_equal(following[-1].step_size, state[-1].step_size)


@pytest.mark.quick(4)
@pytest.mark.parametrize("make", [armijo, adam_sls, momentum_sls], ids=["gradient", "adam_sls", "momentum_sls"])
@pytest.mark.parametrize("size", [1e30, 1e-30])
def test_gradients_at_the_ends_of_float32_leave_everything_finite(make, size):
    tx = make()
    x, state = jnp.ones(3), None
    for grad in (1.0, size, -size, 1.0, -1.0):
        x, state = searches.step(tx, square, x, state, grad=jnp.full(3, grad))
        assert np.isfinite(x).all()
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))
        assert 0 < state[-1].step_size[0] <= 10


def test_a_zero_gradient_costs_no_trial():
    x, state = searches.step(adam_sls(), square, jnp.zeros(2))
    assert x.tolist() == [0, 0]
    assert (int(state[-1].evaluations), int(state[-1].failures)) == (0, 0)


def test_a_decrease_below_rounding_costs_one_trial():
    _, state = searches.step(armijo(), lambda x: 1e4 + 1e-6 * square(x), jnp.ones(1))
    assert (int(state[-1].evaluations), int(state[-1].failures)) == (1, 0)


# Directions that do not descend


def test_momentum_past_the_minimum_is_replaced_counted_and_converges():
    tx = armijo(0.1, before=[optax.trace(0.5)], init_step=1.5, shrink=0.8, growth=grow(factor=1.1))
    states, x = run(tx, lambda x: square(x) / 2, jnp.ones(1), 30)
    assert states.ascents[-1] > 5
    assert states.failures[-1] == 0
    assert states.step_size.min() > 0.02  # it does not collapse
    assert abs(x[0]) < 1e-6


def test_adam_without_a_direction_of_search_does_not_stall():
    """In Optax the step sizes on x² are 1, 0.035, 0.0019, … 2.7e-7."""
    tx = armijo(1e-4, before=[optax.scale_by_adam()], growth=grow(factor=1.5), shrink=0.8, max_step=1.0)
    states, x = run(tx, square, jnp.ones(1), 40)
    assert states.step_size.min() > 1e-3
    assert abs(x[0]) < 0.05


def test_the_replacement_has_the_length_of_what_it_replaces_unit_by_unit():
    p = {"x": jnp.array([3.0]), "y": jnp.array([1.0])}
    uphill = optax.stateless(lambda updates, _: {"x": -0.5 * updates["x"], "y": updates["y"]})
    tx = armijo(0.1, before=[uphill], init_step=1e-2, units=TWO, together=1)
    after, state = searches.step(tx, bowl, p)
    np.testing.assert_allclose(after["x"], 3.0 - 1e-2 * 3.0, rtol=1e-6)  # along +g, as long as -g/2
    np.testing.assert_allclose(after["y"], 1.0 - 1e-2 * 6.0, rtol=1e-6)
    assert state[-1].ascents == 1


def test_an_ascent_can_be_searched_nevertheless():
    tx = armijo(before=[optax.scale(-1.0)], on_ascent="search", beta=0.9)
    x, state = searches.step(tx, square, jnp.ones(1))
    assert x[0] == 3  # no search, as there is nothing to be had
    assert (int(state[-1].ascents), int(state[-1].evaluations)) == (0, 0)


def test_the_sign_of_the_step_is_here():
    """``chain(scale_by_adam(), linesearch)`` goes down; in Optax it goes up without a word."""
    tx = armijo(0.1, before=[optax.scale_by_adam()])
    x, _ = searches.step(tx, square, jnp.array([5.0]))
    assert square(x) < 25


# Units


def units(*order):
    """Problem P's three units under other numbers."""
    return lambda params: jax.tree.map(lambda u: order[u], problem_p.three_units(params))


@pytest.mark.quick(1)
@pytest.mark.parametrize("others", ["frozen", "prefix"])
def test_the_order_of_units_matters_only_if_those_before_have_moved(others):
    params = jax.tree.map(jnp.asarray, problem_p.PARAMS)
    loss = partial(problem_p.loss, x=problem_p.X[0], y=problem_p.Y[0])

    def search_of_the_middle(order):
        tx = armijo(0.3, shrink=0.9, units=units(*order), others=others, tolerance=0.0)
        (state,) = tx.init(params)
        _, state = searches.step(tx, loss, params, (state._replace(searches=jnp.array(1)),))
        return float(state[-1].decrease[1])

    forward, backward = search_of_the_middle((0, 1, 2)), search_of_the_middle((2, 1, 0))
    assert (forward == pytest.approx(backward, rel=1e-5)) == (others == "frozen")


@pytest.mark.long
def test_units_that_are_always_searched_together_are_one():
    one, three = ({"together": 10_000, "units": f} for f in (None, problem_p.three_units))
    settings = {"growth": grow(factor=2 ** (1 / 500)), "shrink": 0.9, "beta": 0.5}
    a, b = (problem_p.run(armijo(0.3, **settings, **u), 30) for u in (one, three))
    np.testing.assert_array_equal(a.forwards, b.forwards)
    np.testing.assert_allclose(np.broadcast_to(a.step_sizes, (30, 3)), b.step_sizes, rtol=1e-12)
    np.testing.assert_allclose(a.losses, b.losses, rtol=1e-12)


def test_one_unit_is_searched_at_a_time_in_turn():
    tx = armijo(units=units(0, 1, 2), together=2, growth=grow(factor=1.0), init_step=1e3, max_step=1e3)
    loss = partial(problem_p.loss, x=problem_p.X[0], y=problem_p.Y[0])
    params = jax.tree.map(jnp.asarray, problem_p.PARAMS)
    states, _ = run(tx, loss, params, 6)
    slopes = np.asarray(states.slope)
    changed = slopes[1:] != slopes[:-1]
    assert changed.tolist() == [[True] * 3, *(np.eye(3, dtype=bool)).tolist(), [True, False, False]]


def test_what_is_in_no_unit_never_moves():
    tx = armijo(units=groups.units_by(groups.path("x"), rest=False))
    p = {"x": jnp.ones(2), "y": jnp.ones(2)}
    after, _ = searches.step(tx, bowl, p)
    np.testing.assert_array_equal(after["y"], p["y"])
    assert bowl(after) < bowl(p)


# What it composes with


def test_the_plain_loop_of_optax_compiles_once_and_keeps_its_state_alike():
    """With steps that are searched, that are not, and that fail; state and parameters are donated."""
    traces = []
    tx = pla_sls(TWO, together=1, init_step=0.3)

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state, lift):
        traces.append(None)
        value, grad = jax.value_and_grad(bowl)(params)
        updates, state = tx.update(
            grad,
            state,
            params,
            value=value,
            grad=grad,
            value_fn=lambda p: bowl(p) + lift,
            step=0,
            unknown="argument",
        )
        return optax.apply_updates(params, updates), state

    params = {"x": jnp.ones(2), "y": jnp.ones(2)}
    state = tx.init(params)
    avals = jax.tree.map(jax.typeof, state)
    for i in range(50):
        if i == 20:
            params = jax.tree.map(jnp.zeros_like, params)  # nothing to search for
        if i == 22:
            params = jax.tree.map(jnp.ones_like, params)
        params, state = step(params, state, jnp.float32(100.0 if i == 10 else 0.0))
        assert jax.tree.map(jax.typeof, state) == avals
    assert len(traces) == 1
    assert state[-1].failures == 1
    assert state[-1].searches < 50
    assert state[-1].count == 50


def test_scalars_are_float32_for_bfloat16_parameters_and_updates_are_bfloat16():
    tx = adam_sls(init_step=0.1)
    params = {"x": jnp.ones(4, jnp.bfloat16)}
    state = tx.init(params)[-1]
    floats = [leaf for leaf in state if jnp.issubdtype(leaf.dtype, jnp.floating)]
    assert {leaf.dtype for leaf in floats} == {jnp.dtype("float32")}
    assert {leaf.dtype for leaf in state} == {jnp.dtype("float32"), jnp.dtype("int32")}

    def loss(p):
        return jnp.sum(p["x"].astype(jnp.float32) ** 2)

    value, grad = jax.value_and_grad(loss)(params)
    updates, after = tx.update(grad, tx.init(params), params, value=value, grad=grad, value_fn=loss)
    assert updates["x"].dtype == jnp.bfloat16
    assert jax.tree.map(jax.typeof, after[-1]) == jax.tree.map(jax.typeof, state)
    np.testing.assert_allclose(updates["x"].astype(np.float32), -0.1, rtol=1e-2)


def test_the_state_has_no_array_of_a_parameters_size():
    (state,) = armijo().init({"x": jnp.ones((100, 100))})
    assert sum(leaf.size for leaf in state) == len(state)


def test_the_loss_may_be_returned_with_something_else():
    x = jnp.array([3.0])
    plain, state = searches.step(armijo(), square, x)
    with_aux, state_with_aux = searches.step(armijo(), square, x, value_fn=lambda x: (square(x), {"logits": x}))
    np.testing.assert_array_equal(plain, with_aux)
    jax.tree.map(np.testing.assert_array_equal, state, state_with_aux)


@pytest.mark.long
def test_three_problems_under_vmap_are_three_runs():
    """One is searched at length, one hardly, and one has nothing to be searched for."""
    tx = adam_sls(0.3, init_step=1.0)
    starts, curvatures = jnp.array([[1.0, 2.0], [100.0, 0.01], [0.0, 0.0]]), jnp.array([1.0, 50.0, 1.0])

    def losses(curvature):
        return lambda x: curvature * square(x)

    def three(start, curvature):
        states, x = run(tx, losses(curvature), start, 10)
        return states, x

    together = jax.vmap(three)(starts, curvatures)
    alone = [three(*problem) for problem in zip(starts, curvatures, strict=True)]
    for i, one in enumerate(alone):
        mine = jax.tree.map(lambda leaf, i=i: leaf[i], together)
        np.testing.assert_array_equal(mine[0].evaluations, one[0].evaluations)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), mine, one)
    assert together[0].evaluations[:, -1].tolist()[2] == 0


def test_freeze_around_it_equals_the_search_on_the_trained_parameters_alone():
    p = {"free": jnp.array([1.0, -1.0]), "fixed": jnp.array([5.0])}

    def loss(p):
        return 2 * jnp.sum((p["free"] - 3.0) ** 2) + jnp.sum(p["fixed"] ** 4)

    def alone(p):
        return loss({"free": p["free"], "fixed": jnp.array([5.0])})

    tx, inner = groups.freeze(adam_sls(0.3, init_step=1.0), groups.path("^fixed")), adam_sls(0.3, init_step=1.0)
    free, state, state_alone = {"free": p["free"]}, None, None
    for _ in range(3):
        p, state = searches.step(tx, loss, p, state)
        free, state_alone = searches.step(inner, alone, free, state_alone)
        np.testing.assert_array_equal(p["free"], free["free"])
    assert p["fixed"].tolist() == [5.0]
    np.testing.assert_array_equal(
        state.inner_states["trained"].inner_state[-1].evaluations, state_alone[-1].evaluations
    )


@pytest.mark.parametrize(
    "wrap",
    [
        lambda tx: optax.masked(tx, {"x": True, "y": False}, mask_compatible_extra_args=True),
        lambda tx: optax.partition(
            {"a": tx, "b": optax.sgd(0.1)}, {"x": "a", "y": "b"}, mask_compatible_extra_args=True
        ),
    ],
    ids=["masked", "partition"],
)
def test_inside_masked_and_partition_it_is_refused(wrap):
    p = {"x": jnp.ones(2), "y": jnp.ones(2)}
    with pytest.raises(ValueError, match=r"inside optax\.masked or optax\.partition .* groups\.freeze"):
        searches.step(wrap(armijo()), bowl, p)


@pytest.mark.long
def test_micro_batches_are_accumulated_inside_value_fn():
    x, y = problem_p.X[0], problem_p.Y[0]

    def in_parts(p):
        return jnp.mean(
            jax.lax.map(lambda part: problem_p.loss(p, *part), (x.reshape(4, 2, 5), y.reshape(4, 2)))
        )

    params = jax.tree.map(jnp.asarray, problem_p.PARAMS)
    whole, state = searches.step(adam_sls(), partial(problem_p.loss, x=x, y=y), params)
    parts, state_of_parts = searches.step(adam_sls(), in_parts, params)
    assert state[-1].evaluations == state_of_parts[-1].evaluations
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), parts, whole)


def test_flax_nnx_optimizer():
    class Model(nnx.Module):
        def __init__(self):
            self.w = nnx.Param(jnp.array([3.0, -2.0]))

    model = Model()
    optimizer = nnx.Optimizer(model, armijo_sgd(0.5, init_step=1.0, shrink=0.5), wrt=nnx.Param)
    graph, _ = nnx.split(model, nnx.Param)

    def value_fn(state):
        return square(nnx.merge(graph, state).w[...])

    value, grads = nnx.value_and_grad(lambda model: square(model.w[...]))(model)
    optimizer.update(model, grads, value=value, grad=grads, value_fn=value_fn)
    # x² accepts η up to 1/2; 1.0014 is halved once, which is a little too long, and once more.
    eta = 2 ** (1 / 500) / 4
    np.testing.assert_allclose(model.w[...], np.array([3.0, -2.0]) * (1 - 2 * eta), rtol=1e-6)


@pytest.mark.long
def test_the_training_loop_runs_it_under_one_random_key_per_update(tmp_path):
    """The keys are those of the updates, however many trials there were; and the same seed is the same run."""
    keys = []
    task = tiny.task()

    def loss(params, batch, key):
        if key is not None:
            jax.debug.callback(lambda data: keys.append(tuple(map(int, data))), jax.random.key_data(key))
        return task.loss(params, batch, key)

    noted = training.Task(task.init, loss, task.batches, task.evaluate)
    tx = adam_sls(init_step=8.0)
    result = training.fit(noted, tx, tiny.settings(steps=6), tmp_path / "a", identity={})
    jax.effects_barrier()
    rows = [row["loss"] for row in result.history if "loss" in row]
    assert len(set(keys)) == 6
    assert len(keys) > 2 * 6
    again = training.fit(task, tx, tiny.settings(steps=6), tmp_path / "b", identity={})
    assert [row["loss"] for row in again.history if "loss" in row] == rows


@pytest.mark.long
def test_a_run_that_is_resumed_between_the_turns_of_two_units_is_uninterrupted(tmp_path):
    task, tx = tiny.task(), pla_sls(groups.units_by(groups.path("w1")), together=2)
    straight = training.fit(task, tx, tiny.settings(steps=10), tmp_path / "straight", identity={})

    def batches(step):
        if step == 7:
            raise KeyboardInterrupt
        return task.batches(step)

    dying = training.Task(task.init, task.loss, batches, task.evaluate)
    settings = tiny.settings(steps=10, save_every=5)
    with pytest.raises(KeyboardInterrupt):
        training.fit(dying, tx, settings, tmp_path / "resumed", identity={})
    assert tiny.checkpoints(tmp_path / "resumed") == ["000000005"]
    resumed = training.fit(task, tx, settings, tmp_path / "resumed", identity={}, resume=True)
    jax.tree.map(np.testing.assert_array_equal, resumed.params, straight.params)
    assert resumed.history == straight.history


def test_inject_hyperparams_and_map_params():
    """Optax's search raises IndexError for the second."""
    tx = optax.inject_hyperparams(adam_sls)(init_step=1.0)
    params = {"x": jnp.array([3.0, -2.0])}
    loss = lambda p: square(p["x"])  # noqa: E731
    state = tx.init(params)
    plain, plain_state = searches.step(adam_sls(init_step=1.0), loss, params)
    value, grad = jax.value_and_grad(loss)(params)
    updates, state = jax.jit(lambda s: tx.update(grad, s, params, value=value, grad=grad, value_fn=loss))(state)
    np.testing.assert_allclose(optax.apply_updates(params, updates)["x"], plain["x"], rtol=1e-6)
    assert state.inner_state[-1].evaluations == plain_state[-1].evaluations
    doubled = optax.tree.map_params(adam_sls(), lambda leaf: 2 * leaf, plain_state)
    np.testing.assert_array_equal(doubled[0].mu["x"], 2 * plain_state[0].mu["x"])
    np.testing.assert_array_equal(doubled[-1].step_size, plain_state[-1].step_size)


# What it refuses


@pytest.mark.parametrize("missing", ["value", "grad", "value_fn"])
def test_a_missing_extra_argument_is_named(missing):
    x = jnp.ones(1)
    given = {"value": square(x), "grad": 2 * x, "value_fn": square} | {missing: None}
    tx = armijo()
    with pytest.raises(
        ValueError, match=rf"a line search needs {missing}: update\(grads, state, params, value="
    ):
        tx.update(2 * x, tx.init(x), x, **given)


def test_update_refuses_what_it_cannot_use():
    x, tx = jnp.ones(2), armijo()
    good = {"value": square(x), "grad": 2 * x, "value_fn": square}
    with pytest.raises(ValueError, match="needs the parameters"):
        tx.update(2 * x, tx.init(x), **good)
    with pytest.raises(TypeError, match=r"value_fn must be a function from parameters to the loss, got 2\.0"):
        tx.update(2 * x, tx.init(x), x, **good | {"value_fn": 2.0})
    with pytest.raises(ValueError, match=r"value must be a scalar, got shape \(2,\)"):
        tx.update(2 * x, tx.init(x), x, **good | {"value": x})
    for wrong in ({"updates": jnp.ones(1)}, {"updates": 2 * x, "grad": jnp.ones(1)}):
        with pytest.raises(ValueError, match=r"the gradient has shape \(1,\)"):
            tx.update(state=tx.init(x), params=x, **good | wrong)


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"c": 1.0}, ValueError, r"c must be in \(0, 1\), got 1.0"),
        ({"init_step": -1.0}, ValueError, r"init_step must be in \(0, inf\), got -1.0"),
        ({"shrink": 0.0}, ValueError, r"shrink must be in \(0, 1\), got 0.0"),
        ({"max_trials": 0}, ValueError, r"max_trials must be in \[1, .*\], got 0"),
        ({"beta": 1.0}, ValueError, r"beta must be in \[0, 1\), got 1.0"),
        ({"expand": 1.0}, ValueError, r"expand must be in \(1, inf\), got 1.0"),
        ({"min_step": -1.0}, ValueError, r"min_step must be in \[0, inf\), got -1.0"),
        ({"max_step": 0.0}, ValueError, r"max_step must be in \(0, inf\), got 0.0"),
        ({"max_step": -np.inf}, ValueError, r"max_step must be in \(0, inf\), got -inf"),
        ({"tolerance": -1.0}, ValueError, r"tolerance must be in \[0, inf\), got -1.0"),
        ({"on_failure": "stop"}, ValueError, "on_failure must be one of 'revert', 'keep', got 'stop'"),
        ({"on_ascent": "stop"}, ValueError, "on_ascent must be one of 'steepest', 'search', got 'stop'"),
        ({"move_along": "both"}, ValueError, "move_along must be one of 'step', 'search', got 'both'"),
        ({"others": "all"}, ValueError, "others must be one of 'frozen', 'prefix', got 'all'"),
        ({"together": 1.5}, TypeError, "together must be an integer, got 1.5"),
        ({"units": 4}, TypeError, r"units must be a function .* or a tree, got 4"),
    ],
)
def test_refuses_bad_arguments_by_name(kwargs, error, message):
    with pytest.raises(error, match=message):
        armijo(**kwargs)
