import chex
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optimiz.optimizers.adam import adam
from optimiz.optimizers.nadam import nadam
from tests.golden import fixture_a, parity, trajectory


def test_equals_the_equations():
    def direction(g, memory, t):
        memory["m"] = 0.9 * memory.get("m", 0) + 0.1 * g
        memory["v"] = 0.999 * memory.get("v", 0) + 0.001 * g**2
        ahead = 0.9 * memory["m"] / (1 - 0.9 ** (t + 1)) + 0.1 * g / (1 - 0.9**t)
        return ahead / (np.sqrt(memory["v"] / (1 - 0.999**t)) + 1e-8)

    trajectory.check_equations(nadam, direction)


@pytest.mark.quick(1)
@pytest.mark.parametrize("args", [(), (0.0, 0.5), (0.9, 0.99, 1e-3, 1e-3)], ids=str)
def test_is_a_drop_in_for_optax(args):
    trajectory.check_drop_in(lambda lr: nadam(lr, *args), lambda lr: optax.nadam(lr, *args))


def test_is_adam_with_nesterovs_momentum():
    kwargs = {"weight_decay": 0.1, "nu_dtype": jnp.bfloat16}
    txs = nadam(0.01, **kwargs), adam(0.01, nesterov=True, **kwargs)
    got, wanted = (fixture_a.after_three_steps(tx, jnp.float32) for tx in txs)
    chex.assert_trees_all_equal(got, wanted)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"b1": 1.0}, r"b1 must be in \[0, 1\), got 1"),
        ({"b2": -0.1}, r"b2 must be in \[0, 1\), got -0.1"),
        ({"eps": -1e-8}, r"eps must be in \[0, inf\), got -1e-08"),
        ({"weight_decay": -0.1}, r"weight_decay must be in \[0, inf\), got -0.1"),
    ],
)
def test_refuses_bad_arguments_by_name(kwargs, message):
    with pytest.raises(ValueError, match=message):
        nadam(1e-3, **kwargs)


# The sources of the golden trajectories, and our arguments for their settings.
SOURCES = {
    "nadam": parity.Case(
        title="NAdam",
        code="torch.optim.NAdam",
        home="torch",
        settings=parity.MOMENTS | {"momentum_decay": 1e6},
        note=f"{parity.CONSTANT_B1} {parity.L2}",
        ours=lambda rate, s: parity.l2(s, nadam(rate, **parity.moments(s))),
    )
}
