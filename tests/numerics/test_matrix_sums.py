import jax
import jax.numpy as jnp
import numpy as np

from optimiz.groups import Matrix
from optimiz.numerics import matrix_norms, matrix_sum


def test_each_matrix_has_the_sum_of_its_entries():
    x = jnp.arange(2 * 3 * 4.0).reshape(2, 3, 4)
    of = Matrix(batch=(1,), reduction=(2,), output=(0,))
    np.testing.assert_array_equal(matrix_sum(x, of), x.sum((0, 2), keepdims=True))


def test_fused_matrices_are_summed_block_by_block_over_several_axes_of_the_output():
    x = np.random.default_rng(0).normal(size=(4, 2, 5, 3))
    of = Matrix(batch=(2,), reduction=(1,), output=(3, 0), sizes=(2, 6, 4))
    got = np.asarray(matrix_sum(jnp.asarray(x), of))
    assert got.shape == (4, 1, 5, 3)
    flat = x.transpose(2, 3, 0, 1).reshape(5, 12, 2).sum(-1)  # outputs in the order of the axes
    wanted = np.concatenate(
        [np.broadcast_to(p.sum(1, keepdims=True), p.shape) for p in np.split(flat, [2, 8], axis=1)], axis=1
    )
    np.testing.assert_allclose(got[:, 0].transpose(1, 2, 0).reshape(5, 12), wanted, rtol=1e-5)


def test_what_is_not_finite_stays_in_its_block():
    x = jnp.ones((2, 6)).at[0, 1].set(jnp.nan)
    got = matrix_sum(x, Matrix((), (0,), (1,), sizes=(2, 4)))
    np.testing.assert_array_equal(np.isnan(got[0]), [True, True, False, False, False, False])


def test_norms_neither_overflow_nor_underflow():
    x = jnp.array([[3e30, 3e-30], [-4e30, -4e-30]])
    fused = Matrix((), (0,), (1,), sizes=(1, 1))
    (norms,) = jax.jit(lambda x: matrix_norms(lambda: [x], [fused]))(x)
    np.testing.assert_allclose(norms, [[5e30, 5e-30]], rtol=1e-6)
