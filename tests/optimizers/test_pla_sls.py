from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optimiz import groups, numerics
from optimiz.optimizers.pla_sls import pla_sls
from optimiz.primitives.scale_by_adam import scale_by_adam
from optimiz.primitives.scale_by_armijo import scale_by_armijo
from tests.contract import searches
from tests.golden import line_search, problem_p
from tests.golden.problem_p import THREE_UNITS, three_units

ONE_UNIT = groups.units_by(groups.everything, rest=False)
AS_THE_CODE = {"init_step": 1.0, "max_step": jnp.inf, "on_failure": "keep", "tolerance": 0.0}


@pytest.fixture(scope="module")
def with_the_codes_joint_slope():
    """The preset's chain, but that the joint searches measure the slope of the last unit."""
    tx = optax.chain(
        scale_by_adam(0.9, 0.999, 1e-8, for_search=True),
        scale_by_armijo(
            0.3,
            shrink=0.9,
            growth=partial(numerics.grow_each_step, factor=2 ** (1 / 500)),
            search_due=numerics.search_every(1),
            max_trials=100,
            units=three_units,
            others="prefix",
            together=6,
            together_slope=lambda slopes: slopes[-1],
            **AS_THE_CODE,
        ),
    )
    return problem_p.run(tx)


def test_equals_the_authors_code_but_for_the_slope_of_the_joint_searches(with_the_codes_joint_slope):
    problem_p.check_rows(with_the_codes_joint_slope, problem_p.PLA_SLS)
    problem_p.check_same(with_the_codes_joint_slope, line_search.adam_sls(units=THREE_UNITS))


def test_with_one_unit_it_is_adam_sls():
    problem_p.check(pla_sls(ONE_UNIT, 0.3, **AS_THE_CODE), problem_p.ADAM_SLS)


@pytest.mark.long
def test_departure_other_units_are_frozen_in_a_search_unless_prefix_is_given():
    tried = []

    def value_fn(p):
        jax.debug.callback(lambda p: tried.append(p), p)
        return loss(p)

    def loss(p):
        return p["x"] ** 2 + p["y"] ** 2

    def second_search(others):
        units = groups.units_by(groups.path("x"))
        tx = pla_sls(units, init_step=0.25, growth=1.0, together=0, others=others)
        p = {"x": jnp.array(1.0), "y": jnp.array(1.0)}
        p, state = searches.step(tx, loss, p)
        searches.step(tx, loss, p, state, value_fn=value_fn)
        jax.effects_barrier()
        return float(p["x"]), float(tried[-1]["x"])

    before, trial = second_search("frozen")
    assert trial == before == 0.75
    before, trial = second_search("prefix")
    assert trial < before - 0.2


def test_departure_a_joint_search_measures_the_slope_of_all_units():
    # Along signs, f falls by η (2 + 1) to first order; the code asks for a share of the last unit's 1 alone.
    units = groups.units_by(groups.path("x"))
    tx = pla_sls(units, 0.9, init_step=0.5, growth=1.0, shrink=0.5, max_trials=30)
    p = {"x": jnp.array(1.0), "y": jnp.array(0.5)}
    state = searches.step(tx, lambda p: p["x"] ** 2 + p["y"] ** 2, p)[1][-1]
    # f(w) - f(w - η d) = 3 η - 2 η²; it is at least 0.9 · 3 η for η ≤ 0.15.
    assert state.step_size.tolist() == [0.125, 0.125]
    np.testing.assert_allclose(state.slope, [3.0, 3.0], rtol=1e-6)


def test_departure_units_with_small_step_sizes_are_not_merged():
    """The code gives the two smallest one mean; here each keeps to the distance of its own minimum."""

    def loss(p):
        return (1e9 * p["x"]) ** 2 + (1e9 * p["y"]) ** 2 + p["z"] ** 2

    tx = pla_sls(groups.units_by(groups.path("x"), groups.path("y")), 0.5, shrink=0.5, together=0, growth=1.0)
    p, state = {"x": jnp.array(1e-9), "y": jnp.array(1e-8), "z": jnp.array(1.0)}, None
    for _ in range(3):
        state = searches.step(tx, loss, p, state)[1]
    assert (state[-1].step_size / jnp.array([1e-9, 1e-8, 1.0])).tolist() == pytest.approx(
        [0.75, 0.75, 0.1], abs=0.25
    )


@pytest.mark.quick(1)
@pytest.mark.parametrize("check", [searches.check_bounded, searches.check_recovers, searches.check_rounding])
def test_departure_guards(check):
    check(partial(pla_sls, ONE_UNIT))


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        *searches.BAD,
        *searches.BAD_ADAM,
        ({"others": "all"}, ValueError, "others must be one of 'frozen', 'prefix', got 'all'"),
        ({"together": -1}, ValueError, r"together must be in \[0, .*\], got -1"),
    ],
)
def test_refuses_bad_arguments_by_name(kwargs, error, message):
    with pytest.raises(error, match=message):
        pla_sls(ONE_UNIT, **kwargs)


def test_refuses_units_that_are_no_function():
    with pytest.raises(TypeError, match=r"units must be a function .*, got 0\.1"):
        pla_sls(0.1)


def test_refuses_a_gradient_of_another_shape():
    with pytest.raises(ValueError, match=r"gradient has shape \(1,\)"):
        searches.step(pla_sls(ONE_UNIT), jnp.sum, jnp.ones(4), grad=jnp.ones(1))
