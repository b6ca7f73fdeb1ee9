import functools

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from optimiz.numerics import BFloat16, Float8, Int4, Int8, no_scales

BLOCKWISE = [Int8(), Float8(), Int4()]
POWERS = {Int8: 2, Float8: 1, Int4: 2}
TOPS = {Int8: (127, 255), Int4: (7, 15)}
RNG = np.random.default_rng(0)


@functools.partial(jax.jit, static_argnums=0)
def there_and_back(fmt, x, salt=0):
    return decoded(fmt, fmt.encode(x, jnp.int32(salt)), x.shape)


def decoded(fmt, stored, shape):
    return fmt.decode(*stored, jax.ShapeDtypeStruct(shape, jnp.float32))


@functools.partial(jax.jit, static_argnums=0)
def encoded(fmt, x):
    return fmt.encode(x, jnp.int32(0))


def levels(fmt, roots):
    """The shares of a scale that a block can hold, ascending from 0: the equations, in float64."""
    if not isinstance(fmt, Float8):
        top = TOPS[type(fmt)][int(roots)]
        codes = np.arange(top + 1) / top
    else:
        codes = np.arange(127, dtype=np.uint8).view(ml_dtypes.float8_e4m3fn).astype(np.float64) / 448
    return codes ** (POWERS[type(fmt)] * (2 if roots else 1))


def by_blocks(fmt, x):
    """For each entry the two numbers between which it is stored: a loop over blocks, in float64."""
    below, above = np.empty(x.shape), np.empty(x.shape)
    for row in np.ndindex(x.shape[:-1]):
        for start in range(0, x.shape[-1], fmt.block):
            block = x[row][start : start + fmt.block].astype(np.float64)
            grid = levels(fmt, roots=block.min() >= 0) * np.abs(block).max()
            i = np.searchsorted(grid, np.abs(block) * (1 - 1e-6), side="right") - 1
            j = np.minimum(np.searchsorted(grid, np.abs(block) * (1 + 1e-6), side="left"), len(grid) - 1)
            low, high = np.sign(block) * grid[np.maximum(i, 0)], np.sign(block) * grid[j]
            below[row][start : start + fmt.block] = np.minimum(low, high)
            above[row][start : start + fmt.block] = np.maximum(low, high)
    return below, above


MOMENTS = {
    "signed": RNG.normal(size=(3, 700)) * RNG.lognormal(sigma=2, size=(3, 700)),
    "squares": (RNG.normal(size=(3, 700)) * RNG.lognormal(sigma=3, size=(3, 700))) ** 2,
}


@pytest.mark.quick(4)
@pytest.mark.parametrize("fmt", BLOCKWISE)
@pytest.mark.parametrize("kind", MOMENTS)
def test_every_entry_is_stored_as_one_of_its_neighbours(fmt, kind):
    x = MOMENTS[kind].astype(np.float32)
    below, above = by_blocks(fmt, x)
    stored = np.asarray(there_and_back(fmt, x), np.float64)
    assert np.all(
        (np.abs(stored - below) <= 1e-5 * np.abs(below)) | (np.abs(stored - above) <= 1e-5 * np.abs(above))
    )
    if isinstance(fmt, Int4):
        of_blocks = [x[:, i : i + 128] for i in range(0, 700, 128)]
        largest = np.concatenate([np.broadcast_to(np.abs(b).max(1)[:, None], b.shape) for b in of_blocks], 1)
        assert np.all(np.abs(stored - x) <= (13 / 49 if kind == "signed" else 0.242) * largest)
    codes, scales = encoded(fmt, x)
    four = isinstance(fmt, Int4)
    assert codes.shape == ((3, 350) if four else x.shape) and codes.dtype == fmt.dtype
    assert codes.dtype.itemsize == 1
    # The last block of a row holds 188, or 60.
    assert scales.shape == ((3, 6) if four else (3, 3)) and scales.dtype == jnp.float32
    assert np.all(np.asarray(scales) < 0) == (kind == "squares")


@pytest.mark.quick(4)
@pytest.mark.parametrize("fmt", [*BLOCKWISE, BFloat16()])
@pytest.mark.parametrize("kind", MOMENTS)
def test_what_is_stored_is_unbiased(fmt, kind):
    x = MOMENTS[kind][0].astype(np.float32)
    draws = np.asarray(jax.lax.map(lambda salt: there_and_back(fmt, x, salt), jnp.arange(400)), np.float64)
    gap, inside = draws.max(0) - draws.min(0), np.ones_like(x, bool)
    if not isinstance(fmt, BFloat16):
        below, above = by_blocks(fmt, x)
        gap = above - below
        if kind == "squares":  # what lies below the smallest code is rounded up
            inside = below > 0
    errors = (draws.mean(0) - x) * np.sqrt(400) / np.where(gap > 0, gap, np.abs(x) + 1)
    # A mean of 400 draws from two neighbours: at most half the gap, in standard errors. 700 of them: 280,000.
    assert np.all(np.abs(errors[inside]) < 2.6)
    assert abs(errors[inside].mean()) < 2.5 / np.sqrt(inside.sum())


@pytest.mark.quick(2)
@pytest.mark.parametrize("fmt", BLOCKWISE)
def test_zero_is_exactly_zero_and_a_block_of_zeros_is_too(fmt):
    x = np.zeros((2, 512), np.float32)
    x[0, :256] = np.where(np.arange(256) % 2, RNG.normal(size=256), 0)
    x[1, :256] = np.abs(x[0, :256])
    stored = np.asarray(there_and_back(fmt, x))
    assert np.all(stored[x == 0] == 0)
    codes, scales = encoded(fmt, x)
    of_second_half = codes.shape[-1] // 2
    assert np.all(np.asarray(scales)[:, 256 // fmt.block :] == 0)
    assert np.all(np.asarray(codes, np.float32)[:, of_second_half:] == 0)


@pytest.mark.parametrize("fmt", BLOCKWISE)
@pytest.mark.parametrize("largest", [1.0, 1e30, 1e-20, 1e-35])
def test_a_second_moment_is_never_rounded_down_to_zero(fmt, largest):
    v = np.array([largest] + [largest * 1e-3, largest * 1e-12] * 20, np.float32)
    v = np.where(v > 1e-37, v, 0)
    for salt in range(20):
        stored = np.asarray(there_and_back(fmt, v, salt))
        assert np.all((stored > 0) == (v > 0)), salt
    tiny = stored[2::2][v[2::2] > 0]
    assert np.all(tiny >= v[2::2][v[2::2] > 0])  # up: a step that is too small is safe, one too large is not


@pytest.mark.quick(2)
@pytest.mark.parametrize("fmt", BLOCKWISE)
def test_a_first_moment_next_to_a_large_one_is_zero_in_most_draws_and_right_in_the_mean(fmt):
    x = np.array([1.0, -1.0] + [1e-7] * 30, np.float32)
    draws = np.asarray(jax.vmap(lambda salt: there_and_back(fmt, x, salt))(jnp.arange(30_000)))[:, 2]
    share = np.mean(draws > 0)
    smallest = levels(fmt, roots=False)[1]
    assert abs(share - 1e-7 / smallest) < 5 * np.sqrt(1e-7 / smallest / 30_000)


@pytest.mark.quick(4)
@pytest.mark.parametrize("fmt", BLOCKWISE)
@pytest.mark.parametrize("roots", [True, False])
def test_all_codes_come_back(fmt, roots):
    grid = levels(fmt, roots).astype(np.float32)
    x = grid if roots else np.concatenate([-grid[:0:-1], grid])
    # Each in a block with the largest, so that it is its share of it.
    blocks = np.stack([np.tile([np.float32(1), value], 8) for value in x])
    if not roots:
        blocks[:, 2] = -1
    stored = np.asarray(there_and_back(fmt, blocks))
    np.testing.assert_allclose(stored, blocks, rtol=1e-6, atol=0)


@pytest.mark.parametrize("fmt", BLOCKWISE)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_seen_in_its_block_alone(fmt, bad):
    x = RNG.normal(size=512).astype(np.float32)
    x[7] = bad
    stored = np.asarray(there_and_back(fmt, x))
    assert not np.isfinite(stored[7]) and np.all(np.isfinite(stored[256:]))


@pytest.mark.quick(2)
@pytest.mark.parametrize("fmt", [*BLOCKWISE, BFloat16()])
def test_a_slow_average_decays_and_does_not_stall(fmt):
    """Without gradients v must fall by 0.999 a step; to the nearest code it would stay for good."""
    start = (RNG.normal(size=(4, 256)) ** 2).astype(np.float32)
    start[:, 0] = 30.0  # held up, so that the scale of the block stays

    def step(stored, salt):
        v = (0.999 * decoded(fmt, stored, start.shape)).at[:, 0].set(30.0)
        return fmt.encode(v, salt), None

    stored, _ = jax.lax.scan(step, encoded(fmt, start), jnp.arange(1, 1001))
    ratio = np.asarray(decoded(fmt, stored, start.shape))[:, 1:].sum() / start[:, 1:].sum()
    assert abs(ratio / 0.999**1000 - 1) < 0.1


@pytest.mark.quick(2)
@pytest.mark.parametrize("fmt", BLOCKWISE)
def test_rows_of_any_length_are_padded_to_blocks_that_change_nothing(fmt):
    x = MOMENTS["signed"].astype(np.float32)
    _, whole = encoded(fmt, x)
    n = 512 // fmt.block
    for part, scales in ((x[:, :512], whole[:, :n]), (x[:, 512:], whole[:, n:])):
        np.testing.assert_array_equal(encoded(fmt, part)[1], scales)


def test_short_rows_do_not_suit_formats_with_scales():
    assert not Int8().suits((4096, 8)) and Int8().suits((4096, 16)) and not Int8().suits(())
    assert BFloat16().suits((4096, 8))
    assert no_scales(jnp.zeros((3, 4))).shape == (1, 1)


@pytest.mark.parametrize("fmt", [Int8, Float8, Int4])
def test_refuses_a_block_that_saves_nothing(fmt):
    with pytest.raises(ValueError, match=r"block must be in \[16, 2147483647\], got 8"):
        fmt(block=8)
    with pytest.raises(TypeError, match=r"block must be an integer, got 256\.0"):
        fmt(block=256.0)
