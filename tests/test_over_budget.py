"""A schedule over a budget reads the fraction that is spent, in any optimizer, and ends on its end value."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optimiz
from optimiz.schedules import (
    constant,
    cosine,
    linear,
    one_cycle,
    over_budget,
    over_steps,
    peak,
    spending,
    warm_up,
    wsd,
)

RATE = over_budget(linear(1.0))
PARAMS = {"w": jnp.ones(3)}
GRADIENT = {"w": jnp.array([1.0, -2.0, 0.5])}

OPTIMIZERS = {
    "optax.sgd": optax.sgd,
    "optax.adamw": optax.adamw,
    "inject_hyperparams": optax.inject_hyperparams(optax.adamw),
    "optimiz.adamw": optimiz.adamw,
    "decay of its own schedule": lambda rate: optimiz.adamw(0.1, weight_decay=rate),
    "guard": lambda rate: optimiz.guard(optimiz.adamw(rate), 3),
    "accumulate": lambda rate: optimiz.accumulate(optimiz.adamw(rate), 2),
    "MultiSteps": lambda rate: optax.MultiSteps(optax.adamw(rate), 2).gradient_transformation(),
    "masked": lambda rate: optax.masked(optax.adamw(rate), {"w": True}),
    "partition": lambda rate: optax.partition({"a": optax.adamw(rate)}, {"w": "a"}),
}


@pytest.mark.quick(2)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_drives_any_optimizer_under_jit_and_scan(name):
    """At fractions c / T it is the schedule over T steps, whose count a wrapper may hold back."""
    fractions = jnp.repeat(jnp.arange(8) / 8, 2) if name in ("accumulate", "MultiSteps") else jnp.arange(8) / 8

    def train(tx, params, fractions):
        def step(carry, fraction):
            params, state = carry
            with spending(fraction):
                updates, state = tx.update(GRADIENT, state, params)
            return (optax.apply_updates(params, updates), state), updates

        with spending(0.0):
            start = jax.tree.map(lambda x: jnp.asarray(x, jnp.result_type(x)), (params, tx.init(params)))
        return jax.lax.scan(step, start, fractions)[1]

    make = OPTIMIZERS[name]
    ours = jax.jit(functools.partial(train, make(RATE)))(PARAMS, fractions)
    theirs = jax.jit(functools.partial(train, make(over_steps(linear(1.0), 8))))(PARAMS, fractions)
    np.testing.assert_allclose(ours["w"], theirs["w"], rtol=1e-6)
    assert np.any(ours["w"] != 0)


def test_one_compilation_serves_every_fraction():
    traces = []

    @jax.jit
    def value(fraction):
        traces.append(fraction)
        with spending(fraction):
            return RATE(0)

    assert [float(value(x)) for x in (0.0, 0.25, 1.0, 2.0, -1.0)] == [1.0, 0.75, 0.0, 0.0, 1.0]
    assert len(traces) == 1


def test_the_innermost_fraction_counts_and_the_outer_one_comes_back():
    with spending(0.25):
        with pytest.raises(ZeroDivisionError), spending(0.5):
            assert float(RATE(0)) == 0.5
            raise ZeroDivisionError
        assert float(RATE(10**6)) == 0.75


@pytest.mark.quick(1)
@pytest.mark.parametrize("x64", [False, True])
def test_the_end_is_met_exactly_wherever_the_last_piece_starts(x64):
    with jax.enable_x64(x64):
        for start in np.random.default_rng(0).uniform(0.0, 1.0, 40):
            for shape, end in (
                (warm_up(linear(0.7), start), 0.0),
                (warm_up(linear(0.7, end=0.3), start), 0.3),
                (wsd(0.7, decay=max(1e-3, start * 0.98), floor=0.0), 0.0),
            ):
                with spending(1.0):
                    value = over_budget(shape)(0)
                assert value == value.dtype.type(end), start


def test_an_undecayed_step_before_the_end_is_not_its_end():
    with spending(jnp.float32(1) - jnp.finfo(jnp.float32).eps):
        assert 0 < float(over_budget(linear(1.0))(0)) < 1e-6


def test_values_of_the_triangle():
    """arXiv 2307.06440, BERT: 0, the peak at half the budget, 0; held, where the authors' goes below zero."""
    triangle = over_budget(one_cycle(1e-3, 0.5, start=0.0, floor=0.0, anneal=linear(1.0)))
    with spending(jnp.array(11 * 0.2253 / 86_400)):
        assert float(triangle(0)) == pytest.approx(5.7e-8, rel=1e-2)
    for fraction, expected in {0.0: 0, 0.25: 0.5e-3, 0.5: 1e-3, 0.75: 0.5e-3, 1.0: 0, 1.01: 0}.items():
        with spending(fraction):
            assert float(triangle(0)) == pytest.approx(expected, abs=1e-10)


def test_outside_of_a_budget_it_says_what_to_do():
    message = (
        r"there is no budget here: give training\.Settings a budget, or call init and update inside optimiz"
    )
    with pytest.raises(ValueError, match=message):
        RATE(0)
    with pytest.raises(ValueError, match=message):
        optimiz.adamw(RATE).init(PARAMS)


@pytest.mark.long
def test_its_peak_needs_no_budget():
    assert float(peak(over_budget(warm_up(linear(0.5), 1 / 3)))) == 0.5
    assert float(peak(over_budget(warm_up(cosine(0.5), 0.123456789)))) == 0.5
    bump = over_budget(lambda x: jnp.sin(jnp.pi * x))
    assert float(peak(bump)) == pytest.approx(1.0, abs=1e-7)
    assert float(peak(over_budget(constant(0.25)))) == 0.25


def test_decay_that_follows_the_schedule_and_not_its_peak():
    tx = optimiz.adamw(over_budget(linear(0.5)), weight_decay=0.1, decay_coupling="schedule")
    with spending(0.5):
        updates, _ = tx.update({"w": jnp.zeros(3)}, tx.init(PARAMS), PARAMS)
    np.testing.assert_allclose(updates["w"], -0.1 * 0.5, rtol=1e-6)


@pytest.mark.parametrize(
    ("shape", "error", "message"),
    [
        (1.0, TypeError, "shape must be a function of the progress x, got 1"),
        (lambda x: jnp.ones(3), ValueError, r"shape must return a scalar, got an array of shape \(3,\)"),
    ],
)
def test_bad_arguments(shape, error, message):
    with pytest.raises(error, match=message):
        over_budget(shape)
