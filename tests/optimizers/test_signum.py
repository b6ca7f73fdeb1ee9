import chex
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optimiz
from tests.golden import fixture_a, parity

# Fixture A. The rows without decay and with L2 were read off public reference code; the decoupled one follows
# from the equations.
NO_DECAY = "1.01 -2.01 2.97 .48 -.03 -.99 .07 -.21"
L2 = ".97 -1.97 2.97 .47 -.03 -.97 .07 -.21"
DECOUPLED = """
1.007012989 -2.004015988 2.961038987 .4785114995 -.02997001 -.987032989
.0697302899 -.2093706098"""


def test_equals_the_golden_rows():
    fixture_a.check(lambda: optimiz.signum(0.01), NO_DECAY)
    fixture_a.check(lambda: optimiz.signum(0.01, weight_decay=0.1), DECOUPLED)
    fixture_a.check(lambda: optimiz.signum(0.01, weight_decay=0.1, decay="l2"), L2)


def test_l2_only_flips_signs():
    tx = optimiz.signum(0.1, 0.0, weight_decay=0.5, decay="l2")
    params = jnp.array([1.0, -2.0, 0.5])
    updates, _ = tx.update(jnp.array([0.0, 0.1, -0.25]), tx.init(params), params)
    np.testing.assert_allclose(optax.apply_updates(params, updates), [0.9, -1.9, 0.5], rtol=1e-6)


def test_beta_zero_is_sign_sgd():
    ours = fixture_a.after_three_steps(optimiz.signum(0.01, 0.0), jnp.float32)[0]
    chex.assert_trees_all_equal(ours, fixture_a.after_three_steps(optimiz.sign_sgd(0.01), jnp.float32)[0])


def test_is_a_drop_in_for_optax():
    ours = fixture_a.after_three_steps(optimiz.signum(0.01, 0.8), jnp.float32)[0]
    theirs = fixture_a.after_three_steps(optax.signum(0.01, 0.8), jnp.float32)[0]
    chex.assert_trees_all_close(ours, theirs, rtol=0, atol=1e-6)


def test_moves_by_the_whole_rate_while_the_momentum_lasts():
    tx = optimiz.signum(0.25)
    state = tx.init(jnp.zeros(1))
    for g in (1.0, 0.0, 0.0):
        updates, state = tx.update(jnp.array([g]), state)
    np.testing.assert_array_equal(updates, [-0.25])


def test_refuses_an_unknown_decay():
    with pytest.raises(ValueError, match="decay must be one of 'decoupled', 'l2', got 'L2'"):
        optimiz.signum(0.1, decay="L2")


# The sources of the golden trajectories, and our arguments for their settings.
SOURCES = {
    "signum": parity.Case(
        title="Signum",
        code="pytorch_optimizer.SignSGD",
        home="pytorch-optimizer",
        settings={"momentum": 0.9, "weight_decay": 0.1},
        ours=lambda rate, s: optimiz.signum(rate, s["momentum"], weight_decay=s["weight_decay"]),
    )
}
