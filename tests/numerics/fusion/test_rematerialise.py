import jax
import jax.numpy as jnp
import numpy as np

from optimiz import numerics


def temporary_bytes(function, x):
    return jax.jit(function).lower(x).compile().memory_analysis().temp_size_in_bytes


def test_two_loops_hold_no_array_between_them():
    x = jnp.ones((256, 512), jnp.bfloat16)

    def normed(again):
        def function(x):
            norm = jnp.sqrt(jnp.sum(jnp.square(x.astype(jnp.float32))))
            return jnp.sum(jnp.abs(again(x).astype(jnp.float32) - norm))

        return function

    held, recomputed = (temporary_bytes(normed(again), x) for again in (lambda x: x, numerics.rematerialise))
    assert held >= 4 * x.size
    assert recomputed < x.size / 16


def test_values_are_the_same():
    tree = {"a": jnp.arange(3), "b": [jnp.ones(2)]}
    jax.tree.map(np.testing.assert_array_equal, numerics.rematerialise(tree), tree)
