import jax.numpy as jnp
import numpy as np
import pytest

import optimiz
from tests.golden import fixture_a, parity

# Bernstein et al.'s rule on fixture A, every step a multiple of the rate.
ROW = ".99 -2.01 2.99 .5 -.02 -1.01 .1 -.21"


def test_equals_the_golden_row():
    fixture_a.check(lambda: optimiz.sign_sgd(0.01), ROW)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_does_not_see_the_gradients_scale(scale):
    tx = optimiz.sign_sgd(0.5)
    updates, _ = tx.update(scale * jnp.array([3.0, -0.1, 0.0]), tx.init(jnp.zeros(3)))
    np.testing.assert_array_equal(updates, [-0.5, 0.5, 0.0])


def test_decay_acts_on_entries_without_gradient():
    tx = optimiz.sign_sgd(0.5, weight_decay=0.1)
    params = jnp.array([2.0, 2.0])
    updates, _ = tx.update(jnp.array([0.0, 1.0]), tx.init(params), params)
    np.testing.assert_allclose(updates, [-0.1, -0.6], rtol=1e-6)


def test_refuses_a_negative_decay():
    with pytest.raises(ValueError, match=r"weight_decay must be in \[0, inf\), got -1"):
        optimiz.sign_sgd(0.1, weight_decay=-1)


# The sources of the golden trajectories, and our arguments for their settings.
SOURCES = {
    "sign_sgd": parity.Case(
        title="SignSGD",
        code="pytorch_optimizer.SignSGD",
        home="pytorch-optimizer",
        settings={"momentum": 0.0, "weight_decay": 0.1},
        ours=lambda rate, s: optimiz.sign_sgd(rate, weight_decay=s["weight_decay"]),
    )
}
