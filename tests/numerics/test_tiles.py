"""What a TPU computes along its tiles equals a loop over blocks; here its functions run on a CPU."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optimiz.numerics import tiles

SHAPES = [
    ((8, 256), 128),
    ((16, 896), 256),
    ((3, 8, 384), 256),
    ((2, 512), 256),
    ((24, 300), 128),
    ((700,), 256),
    ((9, 384), 256),
    ((16, 400), 200),
]
each_shape = pytest.mark.parametrize(("shape", "block"), SHAPES)


def blocks_of(row, block):
    return [row[i : i + block] for i in range(0, len(row), block)]


def signed_largest(x, block):
    """A loop over blocks, in float64."""
    found = np.empty((*x.shape[:-1], -(-x.shape[-1] // block)))
    for row in np.ndindex(x.shape[:-1]):
        for i, part in enumerate(blocks_of(x[row].astype(np.float64), block)):
            found[row][i] = np.abs(part).max() * (1 if part.min() < 0 else -1)
    return found


def arrays(shape):
    rng = np.random.default_rng(0)
    signed = rng.normal(size=shape).astype(np.float32)
    mixed = np.where(np.arange(shape[-1]) % 300 < 200, np.abs(signed), -np.abs(signed))
    mixed[..., :128] = 0
    return [signed, signed**2, mixed]


def on_tpu(function, *args, **kwargs):
    return jax.jit(lambda *args: function(*args, **kwargs))(*args)


@pytest.mark.quick(2)
@each_shape
def test_each_block_has_its_largest_magnitude_and_its_sign(shape, block):
    given = arrays(shape)
    wanted = [signed_largest(x, block) for x in given]
    for ours in (
        tiles.signed_largest(given, block),
        jax.jit(tiles.signed_largest, static_argnums=1)(given, block),
    ):
        for x, y in zip(ours, wanted, strict=True):
            np.testing.assert_array_equal(x, y)
    if tiles._in_whole_tiles(jnp.asarray(given[0]), block):
        for x, y in zip(on_tpu(tiles._of_tiles, *given, block=block), wanted, strict=True):
            np.testing.assert_array_equal(x, y)
    if tiles._is_selected(jnp.asarray(given[0]), block):
        for x, y in zip(on_tpu(tiles._of_selected, *given, block=block), wanted, strict=True):
            np.testing.assert_array_equal(x, y)


@pytest.mark.quick(4)
@each_shape
def test_each_entry_has_the_number_of_its_block(shape, block):
    numbers = np.random.default_rng(1).normal(size=(*shape[:-1], -(-shape[-1] // block))).astype(np.float32)
    wanted = np.repeat(numbers, block, axis=-1)[..., : shape[-1]]
    like = jnp.zeros(shape)
    np.testing.assert_array_equal(jax.jit(lambda x: tiles.spread(x, like, block))(numbers), wanted)
    if tiles._in_whole_tiles(like, block):
        np.testing.assert_array_equal(on_tpu(tiles._over_tiles, numbers, shape=shape, block=block), wanted)
    if tiles._is_selected(like, block):
        np.testing.assert_array_equal(on_tpu(tiles._over_selected, numbers, shape=shape, block=block), wanted)


@pytest.mark.parametrize("n", [16, 40, 200, 384, 1000, 1600, 4800, 50257])
@pytest.mark.parametrize("most", [16, 128, 256])
def test_blocks_are_equal_where_rows_are_no_whole_tiles(n, most):
    size = tiles.block_size(n, most)
    assert size <= most
    dividing = [each for each in range(8, most + 1, 8) if n % each == 0 and 2 * each >= most and each > 8]
    assert size == (n if n <= most else most if n % 128 == 0 or not dividing else max(dividing))


def test_rows_of_few_blocks_along_the_columns_of_tiles_select_their_numbers():
    def selected(shape):
        found = []
        jax.eval_shape(
            lambda x: found.append(tiles._is_selected(x, 256)), jax.ShapeDtypeStruct(shape, "float32")
        )
        return found[0]

    assert selected((50257, 768)) and not selected((50257, 1600)) and not selected((50257, 4096))


def test_nan_is_kept_in_its_block():
    x = np.ones((8, 512), np.float32)
    x[3, 200] = np.nan
    [found] = on_tpu(tiles._of_tiles, x, block=256)
    assert np.isnan(found[3, 0]) and np.sum(np.isnan(found)) == 1


@pytest.mark.parametrize(
    ("shape", "block", "whole"),
    [
        ((8, 256), 256, True),
        ((2, 8, 2560), 256, True),
        ((2, 8, 384), 256, False),  # two blocks: each entry selects its number
        ((12, 256), 256, False),
        ((8, 200), 128, False),
        ((8, 256), 64, False),
        ((1024,), 256, False),
    ],
)
def test_matrices_that_end_with_their_tiles_are_split_along_them(shape, block, whole):
    """A TPU's program has the split into 8 rows and 128 columns, and that of a CPU has it not."""
    lowered = jax.jit(lambda x, s: tiles.spread(s, x, block)).trace(
        jax.ShapeDtypeStruct(shape, jnp.float32),
        jax.ShapeDtypeStruct((*shape[:-1], -(-shape[-1] // block)), jnp.float32),
    )
    split = f"x8x{shape[-1] // 128}x128xf32"
    assert (split in lowered.lower(lowering_platforms=("tpu",)).as_text()) == whole
    assert split not in lowered.lower(lowering_platforms=("cpu",)).as_text()
