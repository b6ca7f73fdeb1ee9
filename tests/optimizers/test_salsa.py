import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optimiz.optimizers.salsa import salsa, salsa_class, salsa_packaged
from optimiz.schedules import linear, over_steps
from tests.contract import searches

# What the recommended preset does, with the settings that a test depends on.


def rises(x):
    """Along the sign of the gradient, c = 1/2 accepts step sizes up to |x|."""
    return 2 * x**2


def searched(tx, loss, x, steps):
    """Update by update: parameters, the state of the search, and the trials that were made."""
    rows, state, before = [], None, 0
    for _ in range(steps):
        x, state = searches.step(tx, loss, x, state)
        trials = int(state[-1].evaluations)
        rows.append((float(x), state[-1], trials - before))
        before = trials
    return rows


def test_departure_the_first_search_begins_small_and_goes_up():
    tx = salsa(c=0.5, init_step=1e-3, growth=1.0, expand=3.0)
    [(_, state, trials)] = searched(tx, rises, jnp.array(1.0), 1)
    assert float(state.step_size[0]) == pytest.approx(1e-3 * 3**6)  # 0.729, and 3 times that is too long
    assert trials == 8
    # The class, going down from 0.1 to where this goes up, needs as many as there are powers of 0.9 between.
    small = jnp.array(1e-4)
    [(_, state, trials)] = searched(salsa_class(0.5), rises, small, 1)
    assert trials == 1 + np.ceil(np.log(0.1 * 2 ** (1 / 500) / 1e-4) / -np.log(0.9)) == 67
    [(_, _, trials)] = searched(salsa(c=0.5, init_step=1e-6, growth=1.0, expand=3.0), rises, small, 1)
    assert trials == 6


def test_departure_it_searches_every_few_updates_and_rests_in_between():
    tx = salsa(every=3, first=2, growth=1.5, init_step=0.5, expand=3.0, max_step=1.0)
    rows = searched(tx, jnp.negative, jnp.array(0.0), 9)
    assert [i for i, row in enumerate(rows) if row[2] > 0] == [0, 1, 4, 7]
    sizes = [float(state.step_size[0]) for _, state, _ in rows]
    assert sizes[0] == 0.75  # grown before it was searched; 3 times that is beyond the bound
    assert sizes[1:] == [1.0] * 8  # grown where it was searched, and bounded


def test_departure_a_refused_step_size_is_halved():
    tx = salsa(c=0.5, init_step=3.0, shrink=0.5, growth=1.0)
    [(_, state, trials)] = searched(tx, rises, jnp.array(1.0), 1)
    # 3 and 1.5 are refused, and so is 2.25, for the first search goes up from what it accepts.
    assert (float(state.step_size[0]), trials) == (0.75, 4)


def test_departure_after_a_failed_search_the_averages_start_afresh():
    tx = salsa(every=1, init_step=0.5, shrink=0.5, growth=1.0, max_trials=7)
    x, state = searches.step(tx, rises, jnp.array(4.0))
    assert state[-1].decrease[0] > 0
    size = float(state[-1].step_size[0])
    x, state = searches.step(tx, rises, x, state, lift=1e6)
    assert state[-1].failures == 1
    assert float(state[-1].step_size[0]) == size * 0.5
    assert (float(state[-1].decrease[0]), float(state[-1].slope[0])) == (0, 0)
    _, state = searches.step(tx, rises, x, state)
    assert state[-1].failures == 1


def test_the_class_takes_a_failed_search_for_a_step_size():
    state = searches.step(salsa_class(init_step=1.0), rises, jnp.array(1.0), lift=9.0)[1]
    np.testing.assert_allclose(state[-1].step_size, 2 ** (1 / 500) * 0.9**200, rtol=1e-4)


def test_departure_the_rule_allows_for_the_rounding_of_the_loss():
    def loss(x):
        return 1e4 + 1e-6 * x**2

    assert searches.step(salsa(), loss, jnp.array(1.0))[1][-1].failures == 0
    state = searches.step(salsa_class(), loss, jnp.array(1.0))[1][-1]
    assert (int(state.evaluations), int(state.failures)) == (200, 1)


def test_decay_shortens_the_step_and_the_search_does_not_see_it():
    schedule = over_steps(linear(1.0), 4)
    plain, decayed = salsa(init_step=0.1, every=1), salsa(schedule, init_step=0.1, every=1)
    x = jnp.array([3.0, -2.0])

    def loss(x):
        return jnp.sum(x**2)

    state = None
    for count in range(3):
        straight, after = searches.step(
            plain, loss, x, None if state is None else (state[0], *plain.init(x)[1:-1], state[-1])
        )
        short, state = searches.step(decayed, loss, x, state)
        np.testing.assert_allclose(short - x, schedule(count) * (straight - x), rtol=1e-5)
        np.testing.assert_array_equal(state[-1].step_size, after[-1].step_size)
        x = short


def test_weight_decay_is_multiplied_by_the_step_size_and_is_no_part_of_the_search():
    x = jnp.array([3.0, -2.0])

    def loss(x):
        return jnp.sum(x**2)

    plain, plain_state = searches.step(salsa(), loss, x)
    decayed, state = searches.step(salsa(weight_decay=0.5), loss, x)
    np.testing.assert_allclose(decayed, plain - state[-1].step_size[0] * 0.5 * x, rtol=1e-6)
    np.testing.assert_array_equal(state[-1].step_size, plain_state[-1].step_size)


def test_departure_multipliers_are_in_the_step_and_in_the_search():
    x = {"head": jnp.array(3.0), "rest": jnp.array(-2.0)}
    tx = salsa(c=0.3, multipliers={"head": 10.0, "rest": 1.0}, growth=1.0, expand=3.0)

    def loss(x):
        return x["head"] ** 2 + x["rest"] ** 2

    def accepted(step_size):  # the first direction is the gradient's sign, so the slope is 10 · 6 + 4
        moved = {"head": 3 - 10 * step_size, "rest": -2 + step_size}
        return 13 - loss(moved) >= 0.3 * step_size * 64

    moved, state = searches.step(tx, loss, x)
    size = float(state[-1].step_size[0])
    np.testing.assert_allclose([moved["head"], moved["rest"]], [3 - 10 * size, -2 + size], rtol=1e-5)
    assert accepted(size) and not accepted(3 * size)


@pytest.mark.parametrize(
    ("make", "kwargs", "error", "message"),
    [
        *((make, *bad) for make in (salsa, salsa_class, salsa_packaged) for bad in searches.BAD_ADAM),
        *(
            (make, kwargs, ValueError, message)
            for make in (salsa, salsa_class, salsa_packaged)
            for kwargs, message in [
                ({"c": 1.0}, r"c must be in \(0, 1\), got 1.0"),
                ({"beta": 1.0}, r"beta must be in \[0, 1\), got 1.0"),
                ({"init_step": 0.0}, r"init_step must be in \(0, inf\), got 0.0"),
            ]
        ),
        *(
            (salsa, *bad)
            for bad in searches.BAD
            if bad[0].keys() <= {"shrink", "growth", "max_trials", "max_step"}
        ),
        (salsa, {"expand": 1.0}, ValueError, r"expand must be in \(1, inf\), got 1.0"),
        (salsa, {"decay": 1.0}, TypeError, "decay must be a schedule, .*, got 1.0"),
        (salsa, {"every": 0}, ValueError, r"every must be in \[1, .*\], got 0"),
        (salsa, {"first": 0}, ValueError, r"first must be in \[1, .*\], got 0"),
        (salsa, {"weight_decay": -0.1}, ValueError, "weight_decay must be in"),
        (salsa, {"multipliers": -1.0}, ValueError, "multiplier at .* must be finite and at least 0, got -1.0"),
        (salsa_class, {"units": 3}, TypeError, "units must be a function .*, got 3"),
    ],
)
def test_refuses_bad_arguments_by_name(make, kwargs, error, message):
    with pytest.raises(error, match=message):
        make(**kwargs)


@pytest.mark.parametrize("make", [salsa, salsa_class, salsa_packaged])
def test_refuses_a_gradient_of_another_shape(make):
    with pytest.raises(ValueError, match=r"gradient has shape \(1,\)"):
        searches.step(make(), jnp.sum, jnp.ones(4), grad=jnp.ones(1))


def test_a_thousand_updates_in_bfloat16_are_counted_exactly():
    params = {"w": jnp.ones((4, 3), jnp.bfloat16)}
    tx = salsa()

    def update(state, _):
        extra = {"value": jnp.zeros([], jnp.bfloat16), "grad": params, "value_fn": lambda p: jnp.float32(-1e38)}
        return tx.update(params, state, params, **extra)[1], None

    state, _ = jax.lax.scan(update, tx.init(params), length=1000)
    assert int(state[0].count) == int(state[-1].count) == 1000
    assert int(state[-1].searches) == 5 + 99  # the first five, then every tenth
    assert int(state[-1].last_search) == 4 + 10 * 99
