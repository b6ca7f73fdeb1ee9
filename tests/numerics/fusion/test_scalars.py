import jax
import jax.numpy as jnp
import numpy as np
import pytest

from optimiz import numerics


@pytest.mark.parametrize("flags", [[], [True], [True, False], [False, False]])
def test_all_of_is_that_of_python(flags):
    assert bool(numerics.all_of([jnp.array(flag) for flag in flags])) == all(flags)


def test_stacked_scalars_are_an_array():
    np.testing.assert_array_equal(numerics.stacked([jnp.float32(1), jnp.float32(2)]), [1.0, 2.0])


def test_an_operand_is_no_part_of_the_loop_that_reads_it():
    def loops(three):
        text = jax.jit(lambda x: x * three()).lower(jnp.ones(8)).compile().as_text()
        return text[: text.index("ENTRY")]

    assert "constant(3)" in loops(lambda: jnp.float32(3))
    assert "constant" not in loops(lambda: numerics.operand(3, jnp.float32))
