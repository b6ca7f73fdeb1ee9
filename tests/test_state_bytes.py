import jax
import jax.numpy as jnp
import pytest

import optimiz

PARAMS = {"kernel": jnp.ones((3, 4)), "bias": jnp.ones(4, jnp.bfloat16)}


@pytest.mark.parametrize(
    "tx", [optimiz.adamw(0.1), optimiz.adafactor(0.1, 2), optimiz.sgd(0.1)], ids=["adamw", "adafactor", "sgd"]
)
def test_sizes_are_those_of_the_state_itself(tx):
    size = optimiz.state_bytes(tx, PARAMS)
    assert size.total == sum(x.nbytes for x in jax.tree.leaves(tx.init(PARAMS)))
    assert size.parameters == 16 and size.per_parameter == size.total / 16
    assert size == optimiz.state_bytes(tx, jax.eval_shape(lambda: PARAMS))


def test_refuses_what_is_not_an_optimizer():
    with pytest.raises(TypeError, match="tx must be an optimizer"):
        optimiz.state_bytes(optimiz.sgd, PARAMS)
