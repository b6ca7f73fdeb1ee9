"""The clock counts exactly the nanoseconds that it is charged."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optimiz.training import Clock
from optimiz.training.budget.clock import as_moment, as_nanoseconds


def test_a_million_steps_are_exact_where_a_float32_sum_is_not():
    @jax.jit
    def run(clock, total):
        def step(carry, _):
            clock, total = carry
            return (clock.charge(0.1), total + jnp.float32(0.1)), None

        return jax.lax.scan(step, (clock, total), length=10**6)[0]

    clock, total = run(Clock.start(200_000), jnp.zeros(()))
    assert as_nanoseconds(clock.spent) == 10**5 * 10**9
    assert float(clock.fraction) == 0.5
    assert round(float(total)) == 100_958


def test_a_charge_is_the_product_in_integers():
    rng = np.random.default_rng(0)
    charge = jax.jit(lambda clock, price, times: clock.charge(price, times), static_argnums=1)
    clock, expected = Clock.start(1e9), 0
    for exponent in (-9, -8, -6, -3, 0, 2):
        price = float(rng.uniform(1, 10) * 10.0**exponent)
        times = int(rng.integers(1_000_000, 2_000_000))
        clock, expected = charge(clock, price, times), expected + times * round(price * 1e9)
    clock, expected = charge(clock, 0.999999999, 2_000_000), expected + 2_000_000 * 999_999_999
    assert as_nanoseconds(charge(clock, 3.5, 0).spent) == expected
    assert clock.spent.dtype == jnp.int32


def test_the_order_of_charges_does_not_matter():
    prices = [0.1, 0.2, 0.3, 1e-7, 12.345678901] * 7
    there = back = Clock.start(1000)
    for price in prices:
        there = there.charge(price)
    for price in reversed(prices):
        back = back.charge(price)
    np.testing.assert_array_equal(there.spent, back.spent)


def test_a_traced_choice_is_charged_by_its_number_of_times():
    @jax.jit
    def step(clock, active):
        for depth, price in {2: 0.25, 4: 0.5, 8: 1.0}.items():
            clock = clock.charge(price, times=active == depth)
        return clock

    clock = Clock.start(10)
    for active in (2, 4, 4, 8):
        clock = step(clock, active)
    assert as_nanoseconds(clock.spent) == 2_250_000_000


@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.parametrize(
    ("price", "budget", "steps"), [(0.1, 0.7, 7), (0.3, 1.0, 4), (12_342.857142858, 86_400, 7)]
)
def test_the_budget_is_spent_at_the_step_that_crosses_it_and_not_before(price, budget, steps, x64):
    with jax.enable_x64(x64):
        clock, end = Clock.start(budget), as_moment(round(budget * 1e9))
        for made in range(steps):
            assert clock.before(end)
            np.testing.assert_allclose(clock.fraction, made * price / budget, rtol=1e-6)
            clock = clock.charge(price)
        assert not clock.before(end) and float(clock.fraction) == 1
        assert float(clock.charge(price).fraction) == 1
        assert clock.fraction.dtype == (jnp.float64 if x64 else jnp.float32)


def test_moments_are_compared_by_seconds_first():
    clock = Clock.start(10).charge(2.5)
    later = [as_moment(2_500_000_001), as_moment(3_000_000_000), as_moment(9_100_000_000)]
    sooner = [as_moment(2_500_000_000), as_moment(1_900_000_000), as_moment(0)]
    assert all(clock.before(moment) for moment in later)
    assert not any(clock.before(moment) for moment in sooner)


@pytest.mark.parametrize("seconds", [0.0, -1.0, 1e-10, 1e10, math.nan, math.inf])
def test_a_price_or_a_budget_that_no_clock_counts_is_refused_by_name(seconds):
    with pytest.raises(ValueError, match=r"budget must be in \[1e-09, 1e\+09\], got "):
        Clock.start(seconds)
    with pytest.raises(ValueError, match=r"seconds must be in \[1e-09, 1e\+09\], got "):
        Clock.start(1.0).charge(seconds)


@pytest.mark.parametrize("seconds", ["1", None, True])
def test_what_is_no_number_is_refused_by_name(seconds):
    with pytest.raises(TypeError, match="budget must be a number, got "):
        Clock.start(seconds)
    with pytest.raises(TypeError, match="seconds must be a number, got "):
        Clock.start(1.0).charge(seconds)


@pytest.mark.parametrize(("price", "whole"), [(0.2253, 383_488), (1.031, 83_802)], ids=["BERT", "T5"])
def test_how_much_a_day_buys(price, whole):
    """golden, arXiv 2307.06440: micro-batches of BERT and updates of T5 in 24 h, but for the crossing one."""
    day = as_moment(86_400 * 10**9)
    clock = Clock.start(86_400).charge(price, times=whole)
    assert clock.before(day) and not clock.charge(price).before(day)
