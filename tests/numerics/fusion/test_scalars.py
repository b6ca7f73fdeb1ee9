import jax.numpy as jnp
import numpy as np
import pytest

from optimiz import numerics


@pytest.mark.parametrize("flags", [[], [True], [True, False], [False, False]])
def test_all_of_is_that_of_python(flags):
    assert bool(numerics.all_of([jnp.array(flag) for flag in flags])) == all(flags)


def test_stacked_scalars_are_an_array():
    np.testing.assert_array_equal(numerics.stacked([jnp.float32(1), jnp.float32(2)]), [1.0, 2.0])
