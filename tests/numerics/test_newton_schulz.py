import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optimiz.numerics import NewtonSchulz, check_newton_schulz, newton_schulz, orthogonalise

SETS = {
    "KELLER": newton_schulz.KELLER,
    "FIVE_TRIPLES": newton_schulz.FIVE_TRIPLES,
    "POLAR_EXPRESS": newton_schulz.POLAR_EXPRESS,
    "CONVERGED": newton_schulz.CONVERGED,
}
each = pytest.mark.parametrize("name", SETS)


def looped(x, polynomials):
    """The equations in float64, without a transposition."""
    x = np.float64(x)
    x = x / (polynomials.safety * np.linalg.norm(x) + polynomials.eps)
    for a, b, c in polynomials.triples:
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


def matrix(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


@pytest.mark.quick(4)
@each
@pytest.mark.parametrize("shape", [(5, 5), (3, 7), (7, 3), (1, 6)])
def test_is_the_loop_of_the_equations(name, shape):
    x = matrix(*shape)
    with jax.enable_x64(True):
        got = orthogonalise(jnp.asarray(x), SETS[name], jnp.float64)
    np.testing.assert_allclose(got, looped(x, SETS[name]), rtol=0, atol=1e-13)


def test_the_authors_number():
    with jax.enable_x64(True):
        i, j = np.ogrid[:2, :3]
        g = np.sin(1 + 1.7 * i - 0.8 * j + 0.6 * i * j)
        got = orthogonalise(jnp.asarray(g), newton_schulz.KELLER, jnp.float64)
    wanted = [0.88157502383, 0.179560249255, -0.650853149528, 0.398844125023, 0.614779242249, 0.812671577908]
    np.testing.assert_allclose(got.ravel(), wanted, rtol=0, atol=1e-11)
    np.testing.assert_allclose(np.linalg.svd(got)[1], [1.133356, 1.070512], atol=1e-6)


@pytest.mark.parametrize(
    ("name", "of_one", "least", "most", "slope"),
    [
        ("KELLER", 0.696, 0.68, 1.13, 485),
        ("FIVE_TRIPLES", 0.978, 0.98, 1.03, 493),
        ("POLAR_EXPRESS", 0.904, 0.86, 1.14, 970),
        ("CONVERGED", 1.0, 1.0, 1.0, 4096),
    ],
)
def test_where_singular_values_end(name, of_one, least, most, slope):
    polynomials = SETS[name]
    values = polynomials.of(np.linspace(0.01, 1, 1000))
    assert np.min(values) == pytest.approx(least, abs=6e-3) and np.max(values) == pytest.approx(most, abs=6e-3)
    assert polynomials.of(1.0) == pytest.approx(of_one, abs=6e-4)
    assert polynomials.of(1e-9) / 1e-9 == pytest.approx(slope, rel=2e-3)


def test_a_stack_is_each_alone_and_the_transposed_is_transposed():
    x = jnp.asarray(matrix(4, 3, 6), jnp.float32)
    together = orthogonalise(x, newton_schulz.KELLER, jnp.float32)
    for one, got in zip(x, together, strict=True):
        alone = orthogonalise(one, newton_schulz.KELLER, jnp.float32)
        np.testing.assert_allclose(got, alone, atol=3e-6)
        transposed = orthogonalise(one.T, newton_schulz.KELLER, jnp.float32)
        np.testing.assert_allclose(transposed, alone.T, atol=3e-6)


@pytest.mark.parametrize("size", [1e-20, 1e-3, 1e30])
def test_the_size_of_a_matrix_does_not_matter_without_eps(size):
    polynomials = dataclasses.replace(newton_schulz.KELLER, eps=0.0)
    x = matrix(3, 5).astype(np.float32)
    got = orthogonalise(jnp.float32(size) * x, polynomials, jnp.float32)
    np.testing.assert_allclose(got, looped(x, polynomials), atol=1e-5)


DTYPES = (jnp.bfloat16, jnp.float32)


@pytest.mark.quick(4)
@each
@pytest.mark.parametrize(("given", "products"), list(itertools.product((jnp.float16, *DTYPES), DTYPES)))
def test_zeros_stay_zeros_and_nothing_finite_overflows(name, given, products):
    largest = float(jnp.finfo(given).max)
    for value in (0.0, 1e-30, largest, -largest):
        x = jnp.full((2, 3, 4), value, given).at[1].set(0)
        got = orthogonalise(x, SETS[name], products)
        assert got.dtype == products and jnp.isfinite(got).all()
        assert (got[1] == 0).all() and ((got[0] == 0).all() or abs(value) > 0)


def test_what_is_not_finite_spoils_its_own_matrix_alone():
    x = jnp.asarray(matrix(3, 2, 4), jnp.float32)
    for value in (jnp.nan, jnp.inf, -jnp.inf):
        got = orthogonalise(x.at[1, 0, 2].set(value), newton_schulz.KELLER, jnp.float32)
        assert jnp.isnan(got[1]).all() and jnp.isfinite(got[jnp.array([0, 2])]).all()


def test_bfloat16_is_as_near_as_its_digits():
    x = matrix(16, 32)
    got = np.float64(orthogonalise(jnp.asarray(x, jnp.float32), newton_schulz.KELLER, jnp.bfloat16))
    wanted = looped(x, newton_schulz.KELLER)
    assert 1e-4 < np.linalg.norm(got - wanted) / np.linalg.norm(wanted) < 0.1
    values = np.linalg.svd(got)[1]
    assert np.min(values) > 0.6 and np.max(values) < 1.2


def test_has_the_derivative_of_differences_and_a_finite_one_at_zero():
    with jax.enable_x64(True):
        x, along = jnp.asarray(matrix(3, 4)), jnp.asarray(matrix(3, 4, seed=1))
        weights = jnp.asarray(matrix(3, 4, seed=2))

        def value(t):
            return jnp.sum(weights * orthogonalise(x + t * along, newton_schulz.KELLER, jnp.float64))

        differences = (value(1e-6) - value(-1e-6)) / 2e-6
        np.testing.assert_allclose(jax.grad(value)(0.0), differences, rtol=1e-6)
    zero = jax.grad(lambda x: jnp.sum(orthogonalise(x, newton_schulz.KELLER, jnp.float32)))(jnp.zeros((2, 3)))
    assert jnp.isfinite(zero).all()


def test_refuses_polynomials_outside_of_their_range():
    steep = newton_schulz.POLAR_EXPRESS.triples
    with pytest.raises(ValueError, match=r"polynomials must map singular values up to 1.03 into \[0, 1.5\]"):
        NewtonSchulz(steep)  # without its safety
    NewtonSchulz(steep, safety=1.02)
    for triples in (((-1.0, 0.0, 0.0),), ((3.0, 0.0, 0.0),), ((1e200, 1e200, 1e200),) * 3):
        with pytest.raises(ValueError, match="polynomials must map singular values"):
            NewtonSchulz(triples)
    with pytest.raises(ValueError, match=r"must map a singular value of 1 to at least 0\.5, got 0\.25"):
        NewtonSchulz(((0.25, 0.0, 0.0),))


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"triples": ()}, TypeError, "triples must be a tuple of at least one"),
        ({"triples": (3.4, -4.8, 2.0)}, TypeError, "triples must be a tuple"),
        ({"triples": ((3.4, -4.8),)}, TypeError, "triples must be a tuple"),
        ({"triples": (("a", 0.0, 0.0),)}, TypeError, "a coefficient of triples must be a number"),
        ({"triples": ((float("nan"), 0.0, 0.0),)}, ValueError, "a coefficient of triples must be in"),
        ({"safety": 0.9}, ValueError, r"safety must be in \[1, "),
        ({"eps": -1e-7}, ValueError, r"eps must be in \[0, "),
    ],
)
def test_refuses_what_is_no_set(given, error, message):
    with pytest.raises(error, match=message):
        NewtonSchulz(**{"triples": ((1.5, -0.5, 0.0),)} | given)


def test_refuses_an_unknown_set():
    with pytest.raises(TypeError, match=r"newton_schulz must be a set of polynomials such as .*, got 'keller'"):
        check_newton_schulz("keller", None)
