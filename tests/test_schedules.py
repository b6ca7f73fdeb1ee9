import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optimiz import schedules
from optimiz.schedules import (
    constant,
    cosine,
    inverse_sqrt,
    linear,
    over_steps,
    step,
    warm_up,
)

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
}
# The same values as published, to their printed digits.
PRINTED = {
    "cosine": {1: 0.99977795, 25: 0.86819805, 75: 0.23180195, 99: 0.10022205},
    "warm-up and cosine": {11: 0.99972587, 99: 0.10027413},
    "inverse sqrt": {11: 0.9534625892, 90: 0.3333333333},
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
        assert TABLES[name][1][count] == pytest.approx(expected, abs=1e-8)


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


def test_ramp_and_decay_are_monotone():
    schedule = over_steps(warm_up(cosine(1.0, floor=0.1), 0.3), 1000)
    values = np.asarray(schedule(jnp.arange(1100)))
    assert (np.diff(values[:301]) > 0).all()
    assert (np.diff(values[300:1001]) <= 0).all()
    assert (values[1000:] == values[1000]).all()
    assert values.max() == values[300] == 1.0


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
    ],
)
def test_equals_optax(ours, optax_s):
    counts = jnp.arange(120)
    np.testing.assert_allclose(ours(counts), jax.vmap(optax_s)(counts), rtol=0, atol=1e-6)


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


def test_a_traced_peak():
    values = jax.vmap(lambda peak: over_steps(step(peak, {0.5: 0.1}), 4)(3))(jnp.array([1.0, 2.0]))
    np.testing.assert_allclose(values, [0.1, 0.2], rtol=1e-6)


@pytest.mark.parametrize("build", [constant, linear, cosine, lambda p: step(p, {})])
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
