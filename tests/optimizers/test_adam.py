import chex
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optimiz.optimizers.adam import adam
from optimiz.optimizers.adamw import adamw
from tests.golden import fixture_a, parity, trajectory

# PyTorch 2.13 Adam on fixture A.
CONSTANT = """
.993495546404 -1.99781754772 2.97870850787 .487935488839 -.0249186820648 -.987321713732
.0838723986765 -.218563799806"""
VARYING = """
.995463300548 -1.99940032692 2.97189529148 .482805692329 -.0275102142039 -.983476769384
.0817521118557 -.228048615572"""
L2 = """
.985124896344 -1.97586574152 2.97242566124 .476459561531 -.0248828926736 -.982697435259
.0834034513781 -.217676893005"""


def test_equals_pytorch():
    fixture_a.check(lambda: adam(0.01), CONSTANT)
    fixture_a.check(lambda: adam(fixture_a.varying), VARYING)
    fixture_a.check(lambda: optax.chain(optax.add_decayed_weights(0.1), adam(0.01)), L2)


def test_equals_the_equations():
    def direction(g, memory, t):
        memory["m"] = 0.9 * memory.get("m", 0) + 0.1 * g
        memory["v"] = 0.999 * memory.get("v", 0) + 0.001 * g**2
        return memory["m"] / (1 - 0.9**t) / (np.sqrt(memory["v"] / (1 - 0.999**t)) + 1e-8)

    trajectory.check_equations(adam, direction)


@pytest.mark.quick(2)
@pytest.mark.parametrize("args", [(), (0.0, 0.5), (0.9, 0.99, 1e-3, 1e-3)], ids=str)
@pytest.mark.parametrize("nesterov", [False, True])
def test_is_a_drop_in_for_optax(args, nesterov):
    trajectory.check_drop_in(
        lambda lr: adam(lr, *args, nesterov=nesterov), lambda lr: optax.adam(lr, *args, nesterov=nesterov)
    )


def test_first_moment_has_the_given_dtype():
    for make in (adam, optax.adam):
        _, state = fixture_a.after_three_steps(make(0.01, mu_dtype=jnp.bfloat16), jnp.float32)
        assert state[0].mu["W"].dtype == jnp.bfloat16 and state[0].nu["W"].dtype == jnp.float32


def test_is_adamw_but_for_the_default_of_the_decay():
    for ours, theirs in [
        (adam(0.01), adamw(0.01, weight_decay=0.0)),
        (
            adam(0.01, weight_decay=0.1, nu_dtype=jnp.bfloat16),
            adamw(0.01, weight_decay=0.1, nu_dtype=jnp.bfloat16),
        ),
    ]:
        got, wanted = (fixture_a.after_three_steps(tx, jnp.float32) for tx in (ours, theirs))
        chex.assert_trees_all_equal(got, wanted)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"b1": 1.0}, r"b1 must be in \[0, 1\), got 1"),
        ({"b2": -0.1}, r"b2 must be in \[0, 1\), got -0.1"),
        ({"eps": -1e-8}, r"eps must be in \[0, inf\), got -1e-08"),
        ({"eps_root": float("nan")}, r"eps_root must be in \[0, inf\), got nan"),
        ({"weight_decay": -0.1}, r"weight_decay must be in \[0, inf\), got -0.1"),
        ({"decay_coupling": "loose"}, "decay_coupling must be one of"),
    ],
)
def test_refuses_bad_arguments_by_name(kwargs, message):
    with pytest.raises(ValueError, match=message):
        adam(1e-3, **kwargs)


# The sources of the golden trajectories, and our arguments for their settings.
SOURCES = {
    "adam": parity.Case(
        title="Adam",
        code="torch.optim.Adam",
        home="torch",
        settings=parity.MOMENTS,
        note=parity.L2,
        ours=lambda rate, s: parity.l2(s, adam(rate, **parity.moments(s))),
    )
}
