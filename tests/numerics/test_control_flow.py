import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optimiz import numerics


def test_outside_of_jit_only_the_branch_taken_runs():
    called = []
    result = numerics.cond(
        jnp.array(True), lambda: called.append("true") or 1, lambda: called.append("false") or 2
    )
    assert (result, called) == (1, ["true"])


def doubled_above_one(x):
    return numerics.cond(x > 1, lambda x: 2 * x, lambda x: x, x)


@pytest.mark.parametrize(
    "mapped",
    [
        lambda x: jnp.stack([doubled_above_one(y) for y in x]),
        lambda x: jnp.stack([jax.jit(doubled_above_one)(y) for y in x]),
        jax.vmap(doubled_above_one),
        jax.jit(jax.vmap(doubled_above_one)),
    ],
    ids=["eager", "jit", "vmap", "jit and vmap"],
)
def test_a_branch_has_the_same_result_under_every_transformation(mapped):
    np.testing.assert_array_equal(mapped(jnp.array([0.0, 1.0, 2.0])), [0.0, 1.0, 4.0])


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])
def test_loops_equal_those_of_python(wrap):
    doubled = wrap(lambda x: numerics.while_loop(lambda x: x < 10, lambda x: 2 * x, x))
    assert doubled(jnp.array(3)) == 12
    assert wrap(lambda n: numerics.fori_loop(n, lambda i, total: total + i, jnp.array(0)))(5) == 10
    batch = jax.vmap(lambda x: numerics.while_loop(lambda x: x < 10, lambda x: 2 * x, x))
    np.testing.assert_array_equal(wrap(batch)(jnp.array([3, 20])), [12, 20])
