import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

from optimiz.diagnostics.blocks import by_tensor
from optimiz.diagnostics.curvature import block_curvature
from tests.diagnostics import runs


def quadratic(matrices):
    """½ Σ p·A p, with one matrix per block."""
    return lambda params: (
        sum(p @ jnp.asarray(a, p.dtype) @ p for p, a in zip(params, matrices, strict=True)) / 2
    )


@jax.jit
def of_matrix(matrix):
    return block_curvature(lambda p: p @ matrix @ p / 2, jnp.ones(len(matrix)))


def with_spectrum(spectrum, seed=0):
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(spectrum), len(spectrum))))
    return q @ np.diag(spectrum) @ q.T


@pytest.mark.parametrize(
    ("spectrum", "wanted"),
    [
        ([5, 2, -1], 5),
        ([-5, 2, 1], 2),
        ([5, -5, 1], 5),  # of equal magnitude: only the shift tells them apart
        ([-3, -2, -1], -1),
        ([-4, -4, -4], -4),
        ([3, 3, 1], 3),
        ([0, 0, 0], 0),
        ([-2, 0, 0], 0),
        ([1e-6, 0, 0], 1e-6),
        ([2e6, -1e6, 0], 2e6),
    ],
)
@pytest.mark.parametrize("turned", [False, True], ids=["diagonal", "turned"])
def test_the_algebraic_maximum_of_a_spectrum(spectrum, wanted, turned):
    matrix = with_spectrum(spectrum) if turned else np.diag(spectrum)
    measured = of_matrix(jnp.asarray(matrix, jnp.float32))
    scale = np.max(np.abs(spectrum))
    assert float(measured.eigenvalue[0]) == pytest.approx(wanted, abs=1e-3 * scale)
    assert measured.converged.all() and float(measured.residual[0]) <= 1.001e-3 * scale + 1e-12
    assert float(measured.size_weighted) == pytest.approx(float(measured.eigenvalue[0]), rel=1e-6)


SPECTRA = [[5, 2, -1], [-5, 2, 1], [0.5, 0.1], [-7]]
WANTED = [5, 2, 0.5, -7]


def test_blocks_with_known_spectra_and_the_weighted_sums():
    matrices = [with_spectrum(s, seed) for seed, s in enumerate(SPECTRA)]
    params = [jnp.asarray(np.random.default_rng(9).normal(size=len(s)), jnp.float32) for s in SPECTRA]
    measured = block_curvature(quadratic(matrices), params, tolerance=1e-4)
    np.testing.assert_allclose(measured.eigenvalue, WANTED, rtol=1e-4)
    g = np.array([np.linalg.norm(a @ np.asarray(p, np.float64)) for a, p in zip(matrices, params, strict=True)])
    np.testing.assert_allclose(measured.norm, g, rtol=1e-5)
    assert float(measured.gradient_weighted) == pytest.approx(np.sum(g**2 * WANTED) / np.sum(g**2), rel=1e-4)
    assert float(measured.size_weighted) == pytest.approx((3 * 5 + 3 * 2 + 2 * 0.5 - 7) / 9, rel=1e-4)


def test_off_diagonal_blocks_have_no_part():
    matrix = with_spectrum([9, 4, 1, -3])
    loss = lambda p: quadratic([matrix])([jnp.concatenate([p["a"], p["b"]])])  # noqa: E731
    params = {"a": jnp.ones(2), "b": jnp.ones(2)}
    wanted = [np.linalg.eigvalsh(matrix[:2, :2])[-1], np.linalg.eigvalsh(matrix[2:, 2:])[-1]]
    np.testing.assert_allclose(block_curvature(loss, params).eigenvalue, wanted, rtol=1e-3)
    together = block_curvature(loss, params, {"a": "all", "b": "all"})
    np.testing.assert_allclose(together.eigenvalue, [9], rtol=1e-3)


@pytest.fixture(scope="module")
def network():
    """A small network, its loss, and its dense Hessian in float64."""
    x, y = runs.data(64)
    params = {"head": runs.init(4)["head"], "layers_0": runs.init(4)["layers_0"]}

    def loss(params):
        h = jnp.tanh(x.astype(params["head"]["bias"].dtype) @ params["layers_0"]["kernel"])
        h = (h + params["layers_0"]["bias"]) @ params["head"]["kernel"] + params["head"]["bias"]
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(h), y[:, None], axis=1))

    with jax.enable_x64(True):
        flat, unravel = jax.flatten_util.ravel_pytree(jax.tree.map(lambda p: p.astype(jnp.float64), params))
        hessian = np.asarray(jax.jit(jax.hessian(lambda p: loss(unravel(p))))(flat))
    return loss, params, hessian


@pytest.mark.long
def test_equals_the_dense_hessian_of_a_network(network):
    loss, params, hessian = network
    measured = block_curvature(loss, params, iterations=1000, tolerance=1e-4)
    ends = np.cumsum([p.size for p in jax.tree.leaves(params)])
    blocks = [slice(end - p.size, end) for end, p in zip(ends, jax.tree.leaves(params), strict=True)]
    wanted = np.array([np.linalg.eigvalsh(hessian[b, b])[-1] for b in blocks])
    assert measured.converged.all()
    np.testing.assert_allclose(measured.eigenvalue, wanted, rtol=1e-3)
    # The residual bounds the distance to an eigenvalue; float32 adds its rounding.
    assert (np.abs(measured.eigenvalue - wanted) <= measured.residual + 1e-6).all()


def test_says_what_it_has_not_found_and_what_it_cost():
    matrix = np.diag([1.0, 0.999, 0.998, 0.5])
    few = block_curvature(quadratic([matrix]), [jnp.ones(4)], iterations=3, tolerance=1e-6)
    assert not few.converged[0] and int(few.products[0]) == 8  # 3 steps and a first look, then with the shift
    assert float(few.residual[0]) > 1e-6
    one = block_curvature(lambda p: 3 * p[0] ** 2, [jnp.ones([])])
    assert one.converged[0] and int(one.products[0]) == 1 and float(one.eigenvalue[0]) == 6
    assert one.products.dtype == jnp.int32


def test_bfloat16_parameters_are_widened():
    measured = block_curvature(quadratic([np.diag([5.0, 2.0, -1.0])]), [jnp.ones(3, jnp.bfloat16)])
    assert measured.eigenvalue.dtype == jnp.float32 == measured.norm.dtype
    assert float(measured.eigenvalue[0]) == pytest.approx(5, rel=1e-5)


def test_float64():
    with jax.enable_x64(True):
        params = [jnp.ones(3, jnp.float64)]
        measured = block_curvature(quadratic([with_spectrum([5, 2, -1])]), params, tolerance=1e-9)
        assert measured.eigenvalue.dtype == jnp.float64
        np.testing.assert_allclose(measured.eigenvalue, [5], rtol=1e-12)


def test_stacked_layers_equal_the_unstacked():
    matrices = [with_spectrum(s, seed) for seed, s in enumerate([[5, 2, -1], [-5, 2, 1]])]
    apart = block_curvature(quadratic(matrices), [jnp.ones(3)] * 2)
    stacked = block_curvature(
        lambda p: quadratic(matrices)([p["layers"][0], p["layers"][1]]),
        {"layers": jnp.ones((2, 3))},
        by_tensor({"layers": 0}),
    )
    np.testing.assert_allclose(stacked.eigenvalue, apart.eigenvalue, rtol=1e-4)
    np.testing.assert_allclose(stacked.norm, apart.norm, rtol=1e-6)


@pytest.mark.long
def test_compiled_equals_eager():
    loss, params = quadratic([np.diag(s) for s in SPECTRA]), [jnp.ones(len(s)) for s in SPECTRA]
    eager = block_curvature(loss, params)
    compiled = jax.jit(lambda p: block_curvature(loss, p))(params)
    for a, b in zip(eager, compiled, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


@pytest.mark.quick(2)
@pytest.mark.parametrize(
    ("gradient", "curvature", "wanted"),
    [
        ([1, 2, 3, 4], [1, 2, 3, 4], 1),
        ([1, 2, 3, 4], [40, 30, 20, -1], -1),
        ([1, 2, 2, 3], [1, 2, 3, 4], 0.9486832980505138),  # ranks 1, 2½, 2½, 4
        ([1, 1], [1, 2], np.nan),
        ([1], [1], np.nan),
    ],
)
def test_rank_correlation_of_gradient_and_curvature(gradient, curvature, wanted):
    def loss(params):
        terms = zip(params, gradient, curvature, strict=True)
        return sum(g * p + c / 2 * p**2 for p, g, c in terms)

    measured = block_curvature(loss, [jnp.zeros([]) for _ in gradient])
    np.testing.assert_allclose(measured.rank_correlation, wanted, rtol=1e-6)
    assert float(measured.gradient_weighted) == pytest.approx(
        np.sum(np.square(gradient) * curvature) / np.sum(np.square(gradient)), rel=1e-6
    )


def test_a_gradient_of_zero_has_no_weighted_curvature():
    measured = block_curvature(quadratic([np.diag([5.0, 2.0])]), [jnp.zeros(2)])
    assert float(measured.gradient_weighted) == 0 and float(measured.size_weighted) == pytest.approx(
        5, rel=1e-5
    )


def test_refuses_bad_arguments_by_name():
    loss = quadratic([np.eye(2)])
    with pytest.raises(ValueError, match=r"iterations must be in \[1, 2147483647\], got 0"):
        block_curvature(loss, [jnp.ones(2)], iterations=0)
    with pytest.raises(TypeError, match="iterations must be an integer, got 1"):
        block_curvature(loss, [jnp.ones(2)], iterations=1.5)
    with pytest.raises(ValueError, match=r"tolerance must be in \(0, inf\), got 0"):
        block_curvature(loss, [jnp.ones(2)], tolerance=0)
    with pytest.raises(ValueError, match=r"seed must be in \[0, 2147483647\], got -1"):
        block_curvature(loss, [jnp.ones(2)], seed=-1)
    with pytest.raises(TypeError, match=r"params must be real floating point, got int32 at \[0\]"):
        block_curvature(loss, [jnp.ones(2, jnp.int32)])
    with pytest.raises(ValueError, match="params must have entries, got none"):
        block_curvature(loss, [])
    with pytest.raises(ValueError, match=r"the labels of 0 have shape \(3,\)"):
        block_curvature(loss, [jnp.ones(2)], [np.array(["a", "b", "c"])])
