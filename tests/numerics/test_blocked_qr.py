"""The QR that a TPU takes in place of JAX's: as orthogonal, and the same factor."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from optimiz.numerics import power_iteration
from optimiz.numerics.blocked_qr import orthogonal_factor

factor = jax.jit(orthogonal_factor)
SPECTRA = {
    "all alike": np.ones,
    "even": lambda n: np.linspace(1, 0.1, n),
    "decaying": lambda n: np.logspace(0, -14, n),
    "half": lambda n: (np.arange(n) < n // 2).astype(float),
    "rank 1": lambda n: (np.arange(n) < 1).astype(float),
    "zeros": np.zeros,
}
SPECIAL = {
    "ones": np.ones,
    "triangular": lambda shape: np.tri(*shape),
    "diagonal": lambda shape: np.diag((np.arange(shape[0]) % 3 == 0).astype(float)),
    "reversed": lambda shape: np.eye(*shape)[::-1],
    "subnormal": lambda shape: np.full(shape, 1e-39),
    "squares underflow": lambda shape: 1e-19 * np.random.default_rng(0).standard_normal(shape),
    "squares overflow": lambda shape: 1e30 * np.random.default_rng(0).standard_normal(shape),
}


def orthogonal(n: int, seed: int = 0) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((n, n)))[0]


def of_jax(x) -> jax.Array:
    return jax.lax.linalg.qr(jnp.asarray(x), full_matrices=False)[0]


def distance(q: jax.Array) -> float:
    """How far a basis is from an orthonormal one."""
    return float(np.abs(np.asarray(q.mT @ q) - np.eye(q.shape[-1])).max())


def below(q: jax.Array, x: np.ndarray) -> float:
    """The largest entry below the diagonal of R = Qᵀ x."""
    return float(np.abs(np.tril(np.asarray(q).T.astype(float) @ x, -1)).max())


@pytest.mark.parametrize("n", [1, 5, 128, 129, 300])
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_it_is_the_orthogonal_factor_whatever_the_rank(n, spectrum):
    vectors = orthogonal(n)
    x = np.asarray((vectors * SPECTRA[spectrum](n)) @ vectors.T @ orthogonal(n, 1), np.float32)
    q = factor(x)
    assert distance(q) < 3e-6 and below(q, x) < 3e-6


@pytest.mark.parametrize("kind", SPECIAL)
def test_it_is_as_orthogonal_as_that_of_jax(kind):
    x = np.asarray(SPECIAL[kind]((300, 300)), np.float32)
    assert distance(factor(x)) < 2 * max(distance(of_jax(x)), 1e-6)


def test_it_is_the_factor_that_jax_finds_but_for_signs():
    with jax.enable_x64(True):
        x = np.random.default_rng(0).standard_normal((300, 300))
        found = factor(x)
        assert found.dtype == jnp.float64
        np.testing.assert_allclose(np.abs(found), np.abs(of_jax(x)), atol=1e-10)


def test_a_stack_has_each_matrix_alone():
    stack = np.random.default_rng(0).standard_normal((2, 3, 150, 150)).astype("f4")
    found = factor(stack)
    for i in np.ndindex(2, 3):
        np.testing.assert_allclose(found[i], factor(stack[i]), atol=1e-5)


def test_what_is_not_finite_stays_so():
    assert not jnp.isfinite(factor(jnp.eye(300).at[7, 200].set(jnp.nan))).all()


@pytest.mark.parametrize("axes", [AxisType.Auto, AxisType.Explicit])
def test_a_tpu_takes_it_also_where_a_mesh_splits_the_stack(axes):
    mesh = AbstractMesh((4,), ("data",), axis_types=(axes,))
    spec = P("data") if axes == AxisType.Explicit else P()
    x = jax.ShapeDtypeStruct((8, 300, 300), jnp.float32, sharding=NamedSharding(mesh, spec))
    refreshed = jax.jit(lambda matrix, basis: power_iteration(matrix, basis, sort=True))
    with jax.sharding.use_abstract_mesh(mesh):
        text = refreshed.trace(x, x).lower(lowering_platforms=("tpu",)).as_text()
    assert "stablehlo.while" in text and "@Qr" not in text and "Householder" not in text
