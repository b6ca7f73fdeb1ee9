import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optimiz
from tests.golden import fixture_a, parity

# Fixture A, wd 0.1, read off public reference code (plain, and scaled by the parameter as for T5).
PLAIN = """
.987012989 -2.004015988 2.981038987 .4985114995 -.02997001 -1.007012989
.0897102899 -.2093706098"""
PARAMETER_SCALED = """
.979353617653 -2.00617761943 2.96988070324 .497636180232 -.0474527487828 -1.01092289431
.0983566861598 -.201470285635"""


def test_equals_the_golden_rows():
    fixture_a.check(lambda: optimiz.lion(0.01, weight_decay=0.1), PLAIN)
    fixture_a.check(lambda: optimiz.lion(0.01, weight_decay=0.1, scale_by_param_rms=True), PARAMETER_SCALED)


def test_equals_optax_bit_for_bit_in_float64():
    with jax.enable_x64(True):
        ours, theirs = (fixture_a.after_three_steps(m.lion(0.01))[0] for m in (optimiz, optax))
        chex.assert_trees_all_equal(ours, theirs)


@pytest.mark.parametrize("mode", ["hard", "smooth", "refined"])
def test_modes_equal_those_of_optax(mode):
    ours = optimiz.scale_by_lion(0.9, 0.99, mode=mode, smooth_beta=3.0)
    theirs = optax.scale_by_lion(0.9, 0.99, mode=mode, smooth_beta=3.0)
    g = jnp.array([0.3, -20.0, 0.0, 5.0])
    for tx in (ours, theirs):
        chex.assert_trees_all_close(tx.update(g, tx.init(g))[0], theirs.update(g, theirs.init(g))[0], rtol=1e-6)


def test_direction_uses_the_momentum_from_before_its_update():
    tx = optimiz.lion(1.0, 0.9, 0.0, weight_decay=0.0)  # b2 = 0: the momentum is the last gradient
    state = tx.init(jnp.zeros(1))
    for g in (10.0, -1.0):  # 0.9 × 10 - 0.1 × 1 > 0
        updates, state = tx.update(jnp.array([g]), state)
    np.testing.assert_array_equal(updates, [-1.0])


def test_bfloat16_parameters_get_bfloat16_updates_from_an_array_rate():
    params = jnp.ones(3, jnp.bfloat16)
    for module, dtype in ((optimiz, jnp.bfloat16), (optax, jnp.float32)):
        tx = module.lion(jnp.float32(0.1))
        assert tx.update(params, tx.init(params), params)[0].dtype == dtype


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"mode": "soft"}, "mode must be one of 'hard', 'smooth', 'refined', got 'soft'"),
        ({"b2": 1.5}, r"b2 must be in \[0, 1\), got 1.5"),
        ({"smooth_beta": 0.0}, r"smooth_beta must be in \(0, inf\), got 0"),
        ({"min_rms": 0.0}, r"min_rms must be in \(0, inf\), got 0"),
    ],
)
def test_refuses_bad_arguments_by_name(kwargs, message):
    with pytest.raises(ValueError, match=message):
        optimiz.lion(1e-3, **kwargs)


# The sources of the golden trajectories, and our arguments for their settings.
SOURCES = {
    "lion": parity.Case(
        title="Lion",
        code="lion.lion_pytorch.Lion",
        home="github:google/automl",
        settings={"betas": [0.9, 0.99], "weight_decay": 0.1},
        note="The authors' repository.",
        ours=lambda rate, s: optimiz.lion(rate, *s["betas"], weight_decay=s["weight_decay"]),
    )
}
