import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optimiz import numerics

RNG = np.random.default_rng(0)
SHAPES = {"embed": (3, 2), "layers": (4, 2, 3), "middle": (2, 4, 3), "head": (5,), "frozen": (6,)}
A, B = ({name: RNG.normal(size=shape) for name, shape in SHAPES.items()} for _ in range(2))
# Layers are stacked along the first axis and along the second.
LABELS = {
    "embed": 0,
    "layers": np.array([1, 1, 2, -1]).reshape(4, 1, 1),
    "middle": np.array([[1], [2], [0], [3]]),
    "head": 3,
    "frozen": -1,
}


def by_loops(label, x):
    """Unit of each entry."""
    return np.broadcast_to(label, x.shape)


def test_number_of_units():
    assert numerics.number_of_units(LABELS) == 4
    assert numerics.number_of_units({"frozen": -1}) == 1
    assert numerics.number_of_units({}) == 1


def test_the_inner_product_equals_numpy_entry_by_entry():
    wanted = np.zeros(4)
    for name, label in LABELS.items():
        units = by_loops(label, A[name])
        for u in range(4):
            wanted[u] += np.sum((A[name] * B[name])[units == u])
    with jax.enable_x64(True):
        ours = numerics.unit_vdot(
            LABELS, jax.tree.map(jnp.asarray, A), jax.tree.map(jnp.asarray, B), jnp.float64
        )
    np.testing.assert_allclose(ours, wanted, rtol=1e-13)


def test_what_is_in_no_unit_counts_nowhere_even_if_it_is_not_finite():
    labels = {"frozen": -1, "layers": np.array([[0], [-1]])}
    tree = {"frozen": jnp.full(2, jnp.nan), "layers": jnp.array([[1.0, 2.0], [jnp.inf, jnp.nan]])}
    assert numerics.unit_vdot(labels, tree, tree, jnp.float32).tolist() == [5.0]


def test_products_of_bfloat16_are_summed_in_float32():
    x = {"x": jnp.full(1000, 1.0078125, jnp.bfloat16)}
    total = numerics.unit_vdot({"x": 0}, x, x, jnp.float32)
    np.testing.assert_allclose(total, [1000 * 1.0078125**2], rtol=1e-6)


def test_of_complex_arrays_it_is_the_real_part_that_counts():
    x, y = {"x": jnp.array([1 + 2j, 3j])}, {"x": jnp.array([2 - 1j, 1 + 1j])}
    # (1 - 2j)(2 - j) = -5j, and -3j (1 + j) = 3 - 3j.
    assert numerics.unit_vdot({"x": 0}, x, y, jnp.float32).tolist() == [3.0]


def test_scaling_equals_numpy_entry_by_entry():
    sizes = np.array([2.0, -3.0, 0.5, 7.0])
    with jax.enable_x64(True):
        ours = numerics.unit_scale(LABELS, jnp.asarray(sizes), jax.tree.map(jnp.asarray, A))
    for name, label in LABELS.items():
        np.testing.assert_array_equal(ours[name], np.append(sizes, 0)[by_loops(label, A[name])] * A[name])


def test_scaling_is_in_the_compute_dtype():
    scaled = numerics.unit_scale({"x": 0}, jnp.array([1e-3]), {"x": jnp.ones(2, jnp.bfloat16)})
    assert scaled["x"].dtype == jnp.float32
    np.testing.assert_array_equal(scaled["x"], np.float32(1e-3))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_coefficients_are_traced(dtype):
    """One program for all of them."""
    traces = []

    @jax.jit
    def scale(sizes, tree):
        traces.append(None)
        return numerics.unit_scale({"x": 0, "y": 1}, sizes, tree)

    with jax.enable_x64(True):
        for sizes in ([1.0, 2.0], [3.0, 0.0]):
            x, y = scale(jnp.array(sizes, dtype), {"x": jnp.ones((), dtype), "y": jnp.ones((), dtype)}).values()
            assert [float(x), float(y)] == sizes
            assert x.dtype == dtype
    assert len(traces) == 1
