import functools

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from optimiz import numerics

NARROW = [ml_dtypes.bfloat16, np.float16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2]
EXACT_NOISE = jnp.arange(2**16, dtype=jnp.float32) / 2**16  # every number that 16 random bits make
RNG = np.random.default_rng(0)


@functools.partial(jax.jit, static_argnums=1)
def rounded_by(x, dtype, noise):
    return numerics.stochastic_round(x, dtype, noise)


def numbers_of(dtype):
    """All non-negative finite numbers of a dtype, ascending, in float64."""
    info = ml_dtypes.finfo(dtype)
    patterns = np.arange(2 ** (info.bits - 1), dtype=np.uint16 if info.bits == 16 else np.uint8)
    with np.errstate(invalid="ignore"):  # some patterns are NaN
        values = patterns.view(dtype).astype(np.float64)
    return values[np.isfinite(values)]


def normal_numbers_of(dtype):
    """The same without those of bfloat16 which are too small for float32's arithmetic."""
    values = numbers_of(dtype)
    return values[(values == 0) | (values >= 2.0**-119)] if dtype == ml_dtypes.bfloat16 else values


def between(dtype):
    """Numbers between those of a dtype: at the middle of each gap, just beside it, and a third into it."""
    values = normal_numbers_of(dtype)
    low, high = values[1:-1], values[2:]
    return np.concatenate([low + (high - low) * share for share in (0.5, 0.499, 0.501, 1 / 3)]).astype(
        np.float32
    )


@pytest.mark.parametrize("dtype", NARROW)
def test_the_grid_is_the_distance_to_the_next_number(dtype):
    values = normal_numbers_of(dtype)[1:]
    ours = jax.jit(lambda x: numerics.grid_step(x, dtype))(jnp.asarray(values[:-1], jnp.float32))
    np.testing.assert_array_equal(ours, np.diff(values).astype(np.float32))


@pytest.mark.parametrize("dtype", NARROW)
def test_nearest_is_the_conversion_of_numpy(dtype):
    x = np.concatenate([between(dtype), -between(dtype), numbers_of(dtype).astype(np.float32)[-300:], [0.0]])
    ours = jax.jit(lambda x: numerics.nearest(x, dtype))(x.astype(np.float32))
    np.testing.assert_array_equal(ours, x.astype(np.float32).astype(dtype).astype(np.float32))


@pytest.mark.parametrize("dtype", NARROW)
def test_what_a_dtype_holds_is_not_changed(dtype):
    x = jnp.asarray(normal_numbers_of(dtype), jnp.float32)
    noise = jnp.asarray(RNG.uniform(size=x.shape), jnp.float32)
    np.testing.assert_array_equal(rounded_by(x, dtype, noise), x)
    np.testing.assert_array_equal(rounded_by(-x, dtype, noise), -x)


@pytest.mark.parametrize("dtype", NARROW)
def test_stochastic_rounding_goes_to_a_neighbour(dtype):
    x, values = between(dtype), normal_numbers_of(dtype)
    noise = jnp.asarray(RNG.uniform(size=x.shape), jnp.float32)
    below = values[np.searchsorted(values, x, side="right") - 1]
    above = values[np.searchsorted(values, x, side="left")]
    rounded = np.asarray(rounded_by(x, dtype, noise), np.float64)
    assert np.all((rounded == below) | (rounded == above))
    assert np.any(rounded == below) and np.any(rounded == above)


@pytest.mark.parametrize("x", [1.001, -0.3, 3e-5, 1e4])
def test_the_probabilities_are_exact_for_bfloat16(x):
    x = jnp.float32(x)
    rounded = np.asarray(rounded_by(jnp.full(2**16, x), jnp.bfloat16, EXACT_NOISE), np.float64)
    assert len(set(rounded.tolist())) == 2
    assert rounded.mean() == float(x)


def test_what_is_not_finite_stays_and_nothing_else_becomes_so():
    largest = float(jnp.finfo(jnp.bfloat16).max)
    x = jnp.array([jnp.nan, jnp.inf, -jnp.inf, 3.4e38, -3.4e38])
    for rounded in (
        numerics.nearest(x, jnp.bfloat16),
        numerics.stochastic_round(x, jnp.bfloat16, jnp.zeros(5)),
    ):
        np.testing.assert_array_equal(rounded, [np.nan, np.inf, -np.inf, largest, -largest])
    step = numerics.stochastic_step(jnp.ones(3, jnp.bfloat16), x[:3], jnp.zeros(3))
    np.testing.assert_array_equal(step, x[:3])


@pytest.mark.quick(4)
@pytest.mark.parametrize("ratio", [1e-4, 0.01, 0.1, 0.6, 0.99, 1.0, 1.5, 3.0, 100.0])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_step_lands_without_bias_by_the_dtypes_own_arithmetic(ratio, sign):
    p = RNG.uniform(1, 2, 16).astype(ml_dtypes.bfloat16)
    u = (sign * ratio * p.astype(np.float32) * RNG.uniform(0.95, 1.05, 16)).astype(np.float32)
    every = jax.jit(jax.vmap(lambda noise: numerics.stochastic_step(p, u, jnp.full(16, noise))))
    step = np.asarray(every(EXACT_NOISE))
    assert np.array_equal(step.astype(ml_dtypes.bfloat16).astype(np.float32), step)
    landed = (p + step.astype(ml_dtypes.bfloat16)).astype(np.float64)
    target = (p.astype(np.float32) + u).astype(np.float64)
    gap = landed.max(0) - landed.min(0)
    assert np.all(np.abs(landed.mean(0) - target) <= gap * 2**-15)
    step_size = np.asarray(numerics.grid_step(jnp.asarray(target, jnp.float32), jnp.bfloat16))
    if ratio <= 0.5:
        np.testing.assert_array_equal(gap, step_size)  # the neighbours of p + u
    else:
        reach = np.asarray(numerics.grid_step(jnp.asarray(u), jnp.bfloat16))
        assert np.all(gap <= 4 * np.maximum(step_size, reach))


def test_a_step_of_zero_is_none():
    p = jnp.asarray(RNG.normal(size=1000), jnp.bfloat16)
    np.testing.assert_array_equal(numerics.stochastic_step(p, jnp.zeros(1000), jnp.full(1000, 0.999)), 0)


def test_hashed_noise_is_uniform_and_independent_between_salts_and_neighbours():
    noise = np.stack([numerics.hashed_noise((400, 250), jnp.int32(salt)) for salt in range(4)])
    assert noise.min() >= 0 and noise.max() < 1
    counts = np.stack([np.histogram(one, 50, (0, 1))[0] for one in noise])
    assert np.all(np.abs(counts - 2000) < 5 * np.sqrt(2000))
    flat = noise.reshape(4, -1)
    rows = np.concatenate([flat, np.roll(flat[:1], 1, 1), np.roll(flat[:1], 250, 1)])
    correlations = np.corrcoef(rows)[np.triu_indices(6, 1)]
    assert np.all(np.abs(correlations) < 5 / np.sqrt(100_000))


def test_hashed_noise_at_one_position_is_uniform_over_salts():
    noise = jax.vmap(lambda salt: numerics.hashed_noise((), salt))(jnp.arange(100_000))
    counts = np.histogram(noise, 50, (0, 1))[0]
    assert np.all(np.abs(counts - 2000) < 5 * np.sqrt(2000))
    assert abs(np.corrcoef(noise[1:], noise[:-1])[0, 1]) < 5 / np.sqrt(100_000)
