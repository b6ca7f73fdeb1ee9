import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optimiz
from optimiz import schedules
from optimiz.schedules import (
    Shape,
    constant,
    cosine,
    exponential,
    inverse_sqrt,
    linear,
    linear_scaling,
    one_cycle,
    one_minus_sqrt,
    over_steps,
    sqrt_scaling,
    step,
    warm_up,
    warmup_constant,
    warmup_cosine,
    warmup_linear,
    wsd,
)


def over_100(shape):
    return over_steps(shape, 100)


def warm_up_stable_decay(cooldown, k):
    """Warm-up 10, decay 20 of 100 steps, floor 0.1; k is the cooldown in NumPy."""
    table = {0: 0, 1: 0.1, 9: 0.9, 10: 1, 11: 1, 79: 1}
    table |= {count: 0.1 + 0.9 * k((count - 80) / 20) for count in (80, 81, 85, 90, 99, 100)}
    table |= {101: table[100], 250: table[100]}
    return over_100(wsd(1.0, warmup=0.1, decay=0.2, floor=0.1, cooldown=cooldown)), table


TABLES = {
    "constant": (over_steps(constant(0.3), 10), {0: 0.3, 9: 0.3, 10: 0.3, 99: 0.3}),
    "linear": (over_steps(linear(1.0), 100), {0: 1, 1: 0.99, 50: 0.5, 99: 0.01, 100: 0, 150: 0}),
    "cosine": (
        over_steps(cosine(1.0, floor=0.1), 100),
        {
            0: 1,
            1: 0.1 + 0.45 * (1 + np.cos(np.pi / 100)),
            25: 0.1 + 0.45 * (1 + np.sqrt(0.5)),
            50: 0.55,
            75: 0.1 + 0.45 * (1 - np.sqrt(0.5)),
            99: 0.1 + 0.45 * (1 + np.cos(np.pi * 0.99)),
            100: 0.1,
            150: 0.1,
        },
    ),
    "warm-up and cosine": (
        over_steps(warm_up(cosine(1.0, floor=0.1), 0.1), 100),
        {
            0: 0,
            1: 0.1,
            9: 0.9,
            10: 1,
            11: 0.1 + 0.45 * (1 + np.cos(np.pi / 90)),
            55: 0.55,
            99: 0.1 + 0.45 * (1 + np.cos(np.pi * 89 / 90)),
            100: 0.1,
            101: 0.1,
            200: 0.1,
        },
    ),
    "inverse sqrt": (
        over_steps(inverse_sqrt(1.0, warmup=0.01), 1000),
        {
            0: 0,
            1: 0.1,
            9: 0.9,
            10: 1,
            11: np.sqrt(10 / 11),
            40: 0.5,
            90: 1 / 3,
            1000: 0.1,
            5000: 0.1,
        },
    ),
    "step": (
        over_steps(step(1.0, {0.4: 0.1, 0.8: 0.1}), 200),
        {0: 1, 79: 1, 80: 0.1, 81: 0.1, 159: 0.1, 160: 0.01, 161: 0.01, 999: 0.01},
    ),
    "staircase": (
        over_steps(step(1.0, {1 / 3: 0.1, 2 / 3: 0.1}), 90),
        {0: 1, 29: 1, 30: 0.1, 59: 0.1, 60: 0.01, 89: 0.01, 90: 0.01},
    ),
    "exponential": (
        over_100(exponential(2.0, floor=0.1 ** (100 / 50))),
        {0: 2, 1: 2 * 0.1**0.02, 49: 2 * 0.1**0.98, 50: 0.2, 51: 2 * 0.1**1.02, 99: 2 * 0.1**1.98, 100: 0.02}
        | {101: 0.02},
    ),
    "1 - sqrt": (over_100(one_minus_sqrt(2.0)), {0: 2, 1: 1.8, 25: 1, 64: 0.4, 99: 2 - 2 * 0.99**0.5, 100: 0}),
    "warm-up, one step ahead": (
        over_steps(warm_up(constant(1.0), 0.1), 100, shifted=True),
        {0: 0.1, 1: 0.2, 8: 0.9, 9: 1, 10: 1, 99: 1, 2**31 - 1: 1},
    ),
    "linear, one step ahead": (
        over_steps(linear(1.0), 100, shifted=True),
        {0: 0.99, 1: 0.98, 98: 0.01, 99: 0, 100: 0, 2**31 - 1: 0},
    ),
    "Noam": (
        over_steps(inverse_sqrt((512 * 4000) ** -0.5, warmup=0.25), 16_000, shifted=True),
        {
            count: 512**-0.5 * min((count + 1) ** -0.5, (count + 1) * 4000**-1.5)
            for count in (0, 1, 3998, 3999, 4000, 15_999)
        }
        | {16_000: (512 * 16_000) ** -0.5},
    ),
    "WSD, linear": warm_up_stable_decay(linear(1.0), lambda x: 1 - x),
    "WSD, cosine": warm_up_stable_decay(cosine(1.0), lambda x: (1 + np.cos(np.pi * x)) / 2),
    "WSD, 1 - sqrt": warm_up_stable_decay(one_minus_sqrt(1.0), lambda x: 1 - np.sqrt(x)),
    "WSD, half-life of 5 steps": warm_up_stable_decay(
        exponential(1.0, floor=0.5 ** (20 / 5)), lambda x: 0.5 ** (20 * x / 5)
    ),
    "one cycle, cosine": (
        over_100(one_cycle(1.0)),
        {count: 0.04 + 0.96 * (1 - np.cos(np.pi * count / 30)) / 2 for count in (0, 1, 29)}
        | {30 + u: 4e-6 + (1 - 4e-6) * (1 + np.cos(np.pi * u / 70)) / 2 for u in (0, 1, 69, 70)}
        | {101: 4e-6},
    ),
    "one cycle, linear": (
        over_100(one_cycle(1.0, back=0.85, anneal=linear(1.0))),
        {0: 0.04, 1: 0.072, 29: 0.968, 30: 1, 31: 1 - 0.96 / 55, 84: 0.04 + 0.96 / 55, 85: 0.04}
        | {86: 0.04 - 0.039996 / 15, 99: 4e-6 + 0.039996 / 15, 100: 4e-6, 101: 4e-6},
    ),
}
# The same values as published, to their printed digits.
PRINTED = {
    "cosine": {1: 0.99977795, 25: 0.86819805, 75: 0.23180195, 99: 0.10022205},
    "warm-up and cosine": {11: 0.99972587, 99: 0.10027413},
    "inverse sqrt": {11: 0.9534625892, 90: 0.3333333333},
    "Noam": {0: 1.746928e-7, 3998: 6.985966e-4, 3999: 6.987712e-4, 4000: 6.986839e-4, 15_999: 3.493856e-4},
    "WSD, linear": {80: 1, 81: 0.955, 85: 0.775, 90: 0.55, 99: 0.145, 100: 0.1},
    "WSD, cosine": {80: 1, 81: 0.99445975, 85: 0.86819805, 90: 0.55, 99: 0.10554025, 100: 0.1},
    "WSD, 1 - sqrt": {80: 1, 81: 0.79875388, 85: 0.55, 90: 0.3636039, 99: 0.12278851, 100: 0.1},
    "one cycle, cosine": {1: 0.04262949, 99: 0.00050746472},
    "one cycle, linear": {99: 0.0026704},
}


@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.parametrize("name", TABLES)
def test_values(name, x64):
    schedule, table = TABLES[name]
    with jax.enable_x64(x64):
        for count, expected in table.items():
            value = schedule(jnp.asarray(count, jnp.int32))
            assert value.dtype == (jnp.float64 if x64 else jnp.float32)
            assert value.shape == () and not value.weak_type
            np.testing.assert_allclose(value, expected, rtol=0, atol=1e-12 if x64 else 1e-6)


@pytest.mark.parametrize("name", PRINTED)
def test_printed_values(name):
    for count, expected in PRINTED[name].items():
        assert TABLES[name][1][count] == pytest.approx(expected, rel=5e-7, abs=1e-12)


@pytest.mark.parametrize("x64", [False, True])
def test_values_under_a_budget(x64):
    """The two forms of arXiv 2307.06440: a shape takes the share of the budget as its progress."""
    triangle = one_cycle(1.0, 0.5, start=0.0, floor=0.0, anneal=linear(1.0))
    w = 10_000 / 65_536
    sine = Shape((0.0, w), (linear(0.5, end=1.0), lambda u: jnp.maximum(1e-5, cosine(1.0)(u))))
    with jax.enable_x64(x64):
        for q, expected in {0: 0, 0.125: 0.25, 0.25: 0.5, 0.3: 0.6, 0.5: 1, 0.75: 0.5, 1: 0, 1.2: 0}.items():
            np.testing.assert_allclose(triangle(q), expected, rtol=0, atol=1e-12 if x64 else 1e-6)
        grid = {0: 0.5, 0.25: 0.9677484044, 0.3: 0.9271866981, 0.5: 0.6395433561, 0.75: 0.1998097920, 1: 1e-5}
        for q, expected in grid.items():
            value = sine(int(q * 65_536) / 65_536)
            np.testing.assert_allclose(value, expected, rtol=0, atol=1e-10 if x64 else 1e-6)
        for n, expected in {10_000: 1, 37_768: 0.5, 70_000: 1e-5}.items():
            np.testing.assert_allclose(sine(n / 65_536), expected, rtol=0, atol=1e-12 if x64 else 1e-6)


@pytest.mark.parametrize("steps", [41, 47, 55, 61, 82, 10**6 + 3, 2**31 - 1])
def test_ends_are_exact(steps):
    """Not 41 * (1 / 41) < 1 of the way, which is where XLA's reciprocal ends."""
    schedule = over_steps(warm_up(linear(0.7), 0.0), steps)
    assert float(jax.jit(schedule)(jnp.int32(steps))) == 0.0


RUNS = [3, 7, 41, 90, 100, 997, 4096, 50_001, 10**6, 2**24 + 1, 2**25 + 3, 10**9 + 7, 2**31 - 1]


def _boundaries(steps):
    wanted = np.random.default_rng(steps).integers(1, steps, size=12)
    return sorted({1, steps - 1, steps // 3 or 1, *map(int, wanted)})


@pytest.mark.parametrize("steps", RUNS)
def test_a_factor_starts_at_its_boundary_whatever_the_rounding_of_b_over_steps(steps):
    for b in _boundaries(steps):
        schedule = over_steps(step(1.0, {b / steps: 0.5}), steps)
        assert schedule(jnp.array([b - 1, b, b + 1])).tolist() == [1.0, 0.5, 0.5]


@pytest.mark.quick(4)
@pytest.mark.parametrize("steps", RUNS)
def test_warm_up_ends_at_its_step(steps):
    for b in _boundaries(steps):
        before, at, after = over_steps(warm_up(step(1.0, {}), b / steps), steps)(jnp.array([b - 1, b, b + 1]))
        assert float(at) == float(after) == 1.0
        np.testing.assert_allclose(before, (b - 1) / b, rtol=1e-6)


@pytest.mark.parametrize("steps", RUNS)
def test_a_boundary_after_warm_up_is_a_fraction_of_what_is_left(steps):
    for b in (b for b in _boundaries(steps) if (steps - b) % 2 == 0):
        schedule = over_steps(warm_up(step(1.0, {0.5: 0.5}), b / steps), steps)
        half = (b + steps) // 2
        assert schedule(jnp.array([half - 1, half])).tolist() == [1.0, 0.5]


@pytest.mark.quick(4)
@pytest.mark.parametrize("steps", RUNS)
def test_the_stable_phase_ends_at_its_step(steps):
    for b in (b for b in _boundaries(steps) if b > 1):
        shape = wsd(1.0, warmup=1 / steps, decay=1 - b / steps, floor=0.0)
        before, at, after = over_steps(shape, steps)(jnp.array([b - 1, b, b + 1]))
        assert float(before) == float(at) == 1.0
        np.testing.assert_allclose(after, 1 - 1 / (steps - b), rtol=0, atol=1e-6)


@pytest.mark.quick(2)
@pytest.mark.parametrize("steps", [3, 7, 10, 97, 1000, 12_345])
def test_warm_up_and_decay_may_fill_the_run(steps):
    for b in _boundaries(steps):
        values = over_steps(wsd(1.0, b / steps, (steps - b) / steps, 0.0), steps)(jnp.arange(steps + 1))
        wanted = np.interp(np.arange(steps + 1), [0, b, steps], [0, 1, 0])
        np.testing.assert_allclose(values, wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("steps", [3, 41, 2**25 + 3, 2**31 - 1])
@pytest.mark.parametrize(
    ("shape", "end"),
    [
        (linear(0.7), 0.0),
        (one_minus_sqrt(0.7), 0.0),
        (cosine(0.7), 0.0),
        (wsd(0.5, floor=0.25), 0.125),
        (one_cycle(0.5, floor=0.25), 0.125),
        (one_cycle(0.5, back=0.85, floor=0.25, anneal=linear(1.0)), 0.125),
    ],
)
def test_the_end_is_met_exactly_and_held(shape, end, steps):
    schedule, ahead = over_steps(shape, steps), over_steps(shape, steps, shifted=True)
    assert schedule(jnp.array([steps, 2**31 - 1])).tolist() == [end, end]
    assert ahead(jnp.array([steps - 1, steps, 2**31 - 1])).tolist() == [end, end, end]


@pytest.mark.parametrize("name", TABLES)
def test_one_step_ahead_is_the_same_schedule_one_count_later(name):
    schedule = TABLES[name][0]
    ahead = over_steps(schedule.chain, schedule.breaks[-1], shifted=True)
    counts = jnp.arange(120)
    plain = over_steps(schedule.chain, schedule.breaks[-1])
    np.testing.assert_array_equal(ahead(counts), plain(counts + 1))


@pytest.mark.long
def test_peak_looks_at_every_step():
    assert float(schedules.peak(TABLES["Noam"][0])) == pytest.approx((512 * 4000) ** -0.5)
    assert float(schedules.peak(over_100(wsd(0.5)))) == 0.5
    assert schedules.peak(0.5) == 0.5


def test_ramp_and_decay_are_monotone():
    schedule = over_steps(warm_up(cosine(1.0, floor=0.1), 0.3), 1000)
    values = np.asarray(schedule(jnp.arange(1100)))
    assert (np.diff(values[:301]) > 0).all()
    assert (np.diff(values[300:1001]) <= 0).all()
    assert (values[1000:] == values[1000]).all()
    assert values.max() == values[300] == 1.0


@pytest.mark.quick(4)
@pytest.mark.parametrize(
    ("ours", "optax_s"),
    [
        (
            over_steps(warm_up(cosine(1.0, floor=0.1), 0.1), 100),
            optax.warmup_cosine_decay_schedule(0.0, 1.0, 10, 100, 0.1),
        ),
        (over_steps(cosine(0.3, floor=0.1), 77), optax.cosine_decay_schedule(0.3, 77, 0.1)),
        (over_steps(linear(0.3, end=0.1), 77), optax.linear_schedule(0.3, 0.1, 77)),
        (
            over_steps(step(0.3, {0.25: 0.1, 0.5: 3.0}), 100),
            optax.piecewise_constant_schedule(0.3, {25: 0.1, 50: 3.0}),
        ),
        (
            over_steps(warm_up(constant(0.3), 0.1), 100),
            optax.warmup_constant_schedule(0.0, 0.3, 10),
        ),
        (over_steps(exponential(0.3, floor=0.9), 119), optax.exponential_decay(0.3, 119, 0.9)),
        (over_100(one_cycle(0.3)), optax.cosine_onecycle_schedule(100, 0.3)),
        (
            over_100(one_cycle(0.3, 0.2, start=0.5, floor=0.01)),
            optax.cosine_onecycle_schedule(100, 0.3, 0.2, 2, 50),
        ),
        (
            over_100(one_cycle(0.3, back=0.85, anneal=linear(1.0))),
            optax.linear_onecycle_schedule(100, 0.3),
        ),
    ],
)
def test_equals_optax(ours, optax_s):
    counts = jnp.arange(120)
    np.testing.assert_allclose(ours(counts), jax.vmap(optax_s)(counts), rtol=0, atol=1e-6)


@pytest.mark.long
def test_vmap_and_jit_equal_eager_in_one_compile():
    traces = 0
    schedule = over_steps(warm_up(cosine(1.0), 0.1), 50)

    @jax.jit
    def jitted(count):
        nonlocal traces
        traces += 1
        return schedule(count)

    counts = jnp.arange(60)
    eager = np.array([schedule(count) for count in counts])
    np.testing.assert_allclose([jitted(count) for count in counts], eager, atol=1e-6)
    np.testing.assert_allclose(jax.vmap(schedule)(counts), eager, atol=1e-6)
    assert traces == 1


def test_drives_an_optimizer():
    tx = optax.inject_hyperparams(optax.sgd)(over_steps(linear(1.0), 2))
    params = jnp.array(1.0)
    state = tx.init(params)
    update = jax.jit(tx.update)
    seen = []
    for _ in range(4):
        updates, state = update(params, state, params)
        seen.append(float(updates))
    assert seen == [-1.0, -0.5, 0.0, 0.0]


def test_a_constant_schedule_is_a_constant_rate():
    def trajectory(rate):
        tx, params = optimiz.adamw(rate, weight_decay=0.1), jnp.array([1.0, -2.0])
        state = tx.init(params)
        for _ in range(10):
            updates, state = tx.update(params, state, params)
            params = optax.apply_updates(params, updates)
        return params

    np.testing.assert_array_equal(trajectory(over_steps(constant(0.1), 10)), trajectory(0.1))


@pytest.mark.quick(4)
@pytest.mark.parametrize(
    ("recipe", "parts"),
    [
        (warmup_constant(0.3), warm_up(constant(0.3), 0.02)),
        (warmup_linear(0.3), warm_up(linear(0.3), 0.02)),
        (warmup_linear(0.3, 0.1, floor=0.5), warm_up(linear(0.3, end=0.15), 0.1)),
        (warmup_cosine(0.3), warm_up(cosine(0.3, floor=0.1), 0.02)),
        (warmup_cosine(0.3, 0.0, floor=0.0), cosine(0.3)),
    ],
)
def test_a_recipe_is_the_sum_of_its_parts(recipe, parts):
    counts = jnp.arange(101)
    np.testing.assert_array_equal(over_100(recipe)(counts), over_100(parts)(counts))


def test_a_recipe_takes_a_function_of_ones_own():
    schedule = over_100(wsd(2.0, decay=0.5, floor=0.0, cooldown=lambda u: (1 - u) ** 2))
    assert [float(schedule(count)) for count in (50, 75, 100)] == [2.0, 0.5, 0.0]


def test_scaling_rules():
    assert linear_scaling(0.1, 256, 8192) == pytest.approx(3.2)
    assert sqrt_scaling(0.1, 256, 64) == pytest.approx(0.05)
    assert linear_scaling(0.1, 256, 256) == sqrt_scaling(0.1, 256, 256) == 0.1
    rates = jax.vmap(lambda batch: sqrt_scaling(0.1, 256, batch))(jnp.array([64.0, 1024.0]))
    np.testing.assert_allclose(rates, [0.05, 0.2], rtol=1e-6)


@pytest.mark.parametrize("rule", [linear_scaling, sqrt_scaling])
def test_scaling_rules_refuse_what_is_no_batch(rule):
    with pytest.raises(ValueError, match=r"base_rate must be in \[0, inf\), got -0.1"):
        rule(-0.1, 256, 512)
    with pytest.raises(ValueError, match=r"base_batch must be in \(0, inf\), got 0"):
        rule(0.1, 0, 512)
    with pytest.raises(TypeError, match="batch must be a number, got '512'"):
        rule(0.1, 256, "512")


def test_a_plain_function_is_a_shape():
    schedule = over_steps(warm_up(lambda x: 2.0 - x, 0.5), 8)
    assert [float(schedule(c)) for c in (0, 2, 4, 6, 8)] == [0.0, 1.0, 2.0, 1.5, 1.0]
    assert float(over_steps(lambda x: 0.25, 8)(3)) == 0.25


def test_warm_ups_nest_and_may_be_absent():
    assert float(over_steps(warm_up(linear(1.0), 0.0), 10)(0)) == 1.0
    schedule = over_steps(warm_up(warm_up(constant(1.0), 0.5), 0.5), 8)
    assert [float(schedule(c)) for c in range(8)] == [0, 0, 0, 0, 0, 0.5, 1, 1]


def test_progress_is_clipped():
    shape = warm_up(linear(1.0, end=0.5), 0.5)
    assert [float(shape(x)) for x in (-1.0, 0.25, 2.0)] == [0.0, 0.5, 0.5]
    assert float(warm_up(linear(1.0), 0.0)(-1.0)) == 1.0


def test_a_traced_peak():
    values = jax.vmap(lambda peak: over_steps(step(peak, {0.5: 0.1}), 4)(3))(jnp.array([1.0, 2.0]))
    np.testing.assert_allclose(values, [0.1, 0.2], rtol=1e-6)
    for build in (one_minus_sqrt, warmup_cosine, wsd, one_cycle, lambda p: exponential(p, 0.1)):
        scaled = jax.vmap(lambda peak, build=build: build(peak)(0.5))(jnp.array([1.0, 2.0]))
        np.testing.assert_allclose(scaled[1], 2 * scaled[0], rtol=1e-6)


BUILDERS = [constant, linear, cosine, lambda p: step(p, {}), lambda p: exponential(p, 0.1), one_minus_sqrt]
BUILDERS += [lambda p: inverse_sqrt(p, 0.1), warmup_constant, warmup_linear, warmup_cosine, wsd, one_cycle]


@pytest.mark.parametrize("build", BUILDERS)
@pytest.mark.parametrize("peak", [float("nan"), float("inf"), -1.0])
def test_peak_outside_its_domain(build, peak):
    with pytest.raises(ValueError, match=r"peak must be in \[0, inf"):
        build(peak)


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: constant("1e-3"), TypeError, "peak must be a number, got '1e-3'"),
        (lambda: linear(1.0, end=-0.1), ValueError, "end must be in .*, got -0.1"),
        (lambda: cosine(1.0, floor=1.1), ValueError, r"floor must be in \[0, 1\], got 1.1"),
        (lambda: inverse_sqrt(1.0, warmup=0), ValueError, r"warmup must be in \(0, 1\), got 0"),
        (lambda: step(1.0, {1.0: 0.1}), ValueError, r"boundary of factors .* \(0, 1\), got 1.0"),
        (lambda: step(1.0, {0.0: 0.1}), ValueError, r"boundary of factors .* \(0, 1\), got 0.0"),
        (lambda: step(1.0, {0.5: 0.1, 0.4: 0.1}), ValueError, r"must ascend, got \[0.5, 0.4\]"),
        (lambda: step(1.0, {0.5: -1.0}), ValueError, "the factor at 0.5 must be in"),
        (lambda: warm_up(constant(1.0), 1.0), ValueError, r"fraction must be in \[0, 1\), got 1.0"),
        (lambda: warm_up(constant(1.0), -0.1), ValueError, "fraction must be in"),
        (lambda: warm_up(1.0, 0.1), TypeError, "shape must be a function of the progress x, got 1"),
        (lambda: exponential(1.0, floor=0.0), ValueError, r"floor must be in \(0, 1\], got 0.0"),
        (lambda: warmup_constant(1.0, 1.0), ValueError, r"warmup must be in \[0, 1\), got 1.0"),
        (lambda: warmup_linear(1.0, -0.1), ValueError, r"warmup must be in \[0, 1\), got -0.1"),
        (lambda: warmup_linear(1.0, floor=2), ValueError, r"floor must be in \[0, 1\], got 2"),
        (lambda: warmup_cosine(1.0, "0.1"), TypeError, "warmup must be a number, got '0.1'"),
        (lambda: warmup_cosine(1.0, floor=-1), ValueError, r"floor must be in \[0, 1\], got -1"),
        (lambda: wsd(1.0, warmup=1.0), ValueError, r"warmup must be in \[0, 1\), got 1.0"),
        (lambda: wsd(1.0, decay=0.0), ValueError, r"decay must be in \(0, 1\], got 0.0"),
        (lambda: wsd(1.0, floor=1.1), ValueError, r"floor must be in \[0, 1\], got 1.1"),
        (lambda: wsd(1.0, 0.5, 0.6), ValueError, "must be at most 1 together, got 0.5 and 0.6"),
        (lambda: wsd(1.0, cooldown="cosine"), TypeError, "cooldown must be a function of .*, got 'cosine'"),
        (lambda: one_cycle(1.0, 0), ValueError, r"warmup must be in \(0, 1\), got 0"),
        (lambda: one_cycle(1.0, 0.3, 0.3), ValueError, r"back must be in \(0.3, 1\), got 0.3"),
        (lambda: one_cycle(1.0, start=25), ValueError, r"start must be in \[0, 1\], got 25"),
        (lambda: one_cycle(1.0, floor=-1), ValueError, r"floor must be in \[0, 1\], got -1"),
        (lambda: one_cycle(1.0, anneal="linear"), TypeError, "anneal must be a function of"),
        (lambda: schedules.peak("0.1"), TypeError, "schedule must be a number, got '0.1'"),
        (lambda: over_steps(1.0, 10), TypeError, "shape must be a function of the progress x, got 1"),
        (lambda: over_steps(constant(1.0), 0), ValueError, r"steps must be in \[1, .*, got 0"),
        (lambda: over_steps(constant(1.0), 2**31), ValueError, "steps must be in .* 2147483647"),
        (lambda: over_steps(constant(1.0), 1e3), TypeError, "steps must be an integer, got 1000.0"),
        (lambda: over_steps(constant(1.0), True), TypeError, "steps must be an integer, got True"),
        (
            lambda: over_steps(lambda x: jnp.ones(3), 10),
            ValueError,
            r"shape must return a scalar, got an array of shape \(3,\)",
        ),
    ],
)
def test_bad_arguments(build, error, message):
    with pytest.raises(error, match=message):
        build()


def test_shapes_are_immutable():
    with pytest.raises(AttributeError):
        schedules.constant(1.0).starts = (0.5,)  # pyright: ignore


# --- warm-up from a fraction, and ends as fractions ----------------------------------------------------------


def test_a_warm_up_may_start_from_a_fraction_as_torch_linear_lr():
    # torch.optim.lr_scheduler.LinearLR(start_factor=1/3, total_iters=4) on a rate of 0.05.
    expected = [0.05 * (1 / 3 + (1 - 1 / 3) * min(step, 4) / 4) for step in range(8)]
    schedule = over_steps(warm_up(constant(0.05), 0.5, start=1 / 3), 8)
    np.testing.assert_allclose([float(schedule(c)) for c in range(8)], expected, rtol=1e-6)


@pytest.mark.parametrize(
    "make",
    [
        lambda start: warm_up(linear(2.0), 0.5, start=start),
        lambda start: warmup_constant(2.0, 0.5, start=start),
        lambda start: warmup_linear(2.0, 0.5, start=start),
        lambda start: warmup_cosine(2.0, 0.5, start=start),
        lambda start: inverse_sqrt(2.0, 0.5, start=start),
        lambda start: wsd(2.0, 0.5, start=start),
    ],
)
def test_every_warm_up_has_a_start(make):
    assert [float(make(0.5)(x)) for x in (0.0, 0.25, 0.5)] == pytest.approx([1.0, 1.5, 2.0])
    assert [float(make(0.0)(x)) for x in (0.0, 0.25, 0.5)] == pytest.approx([0.0, 1.0, 2.0])
    with pytest.raises(ValueError, match=r"start must be in \[0, 1\], got 1.5"):
        make(1.5)


def test_linear_ends_at_a_value_or_at_a_fraction():
    assert float(linear(2.0, floor=0.25)(1.0)) == 0.5 == float(linear(2.0, 0.5)(1.0))
    assert float(linear(2.0)(1.0)) == 0 == float(linear(2.0, floor=0.0)(1.0))
    assert float(linear(1.0, end=3.0)(0.5)) == 2.0
    with pytest.raises(ValueError, match="end and floor are the same thing"):
        linear(1.0, 0.5, floor=0.5)
    with pytest.raises(ValueError, match=r"floor must be in \[0, 1\], got 2"):
        linear(1.0, floor=2)
    assert float(jax.jit(lambda end: linear(1.0, end)(1.0))(0.25)) == 0.25


def test_a_shape_takes_many_values_of_progress_also_as_a_list():
    assert linear(1.0)([0.0, 0.25, 1.0]).tolist() == [1.0, 0.75, 0.0]
