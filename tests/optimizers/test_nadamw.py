import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optimiz import groups
from optimiz.optimizers.adamw import adamw
from optimiz.optimizers.nadamw import nadamw
from tests.golden import fixture_a, parity, trajectory


def test_equals_the_equations():
    def direction(g, memory, t):
        memory["m"] = 0.9 * memory.get("m", 0) + 0.1 * g
        memory["v"] = 0.999 * memory.get("v", 0) + 0.001 * g**2
        ahead = 0.9 * memory["m"] / (1 - 0.9 ** (t + 1)) + 0.1 * g / (1 - 0.9**t)
        return ahead / (np.sqrt(memory["v"] / (1 - 0.999**t)) + 1e-8)

    trajectory.check_equations(nadamw, direction)


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    "args",
    [
        (),
        (0.9, 0.99, 1e-3, 1e-3, None, 0.1),
        (0.9, 0.999, 1e-8, 0.0, None, trajectory.weight_decay),
        (0.9, 0.999, 1e-8, 0.0, None, 0.1, {"kernel": True, "bias": False, "scale": False}),
    ],
    ids=range(4),
)
def test_is_a_drop_in_for_optax(args):
    trajectory.check_drop_in(lambda lr: nadamw(lr, *args), lambda lr: optax.nadamw(lr, *args))


def test_is_adamw_with_nesterovs_momentum():
    txs = nadamw(0.01, nu_dtype=jnp.bfloat16), adamw(0.01, nesterov=True, nu_dtype=jnp.bfloat16)
    got, wanted = (fixture_a.after_three_steps(tx, jnp.float32) for tx in txs)
    chex.assert_trees_all_equal(got, wanted)


@pytest.mark.parametrize("name", ["mask", "weight_decay_mask"])
def test_mask_takes_the_group_rule_by_either_name(name):
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    tx = nadamw(0.1, weight_decay=0.5, **{name: groups.no_decay()})
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    np.testing.assert_allclose(updates["kernel"], -0.05, rtol=1e-6)
    np.testing.assert_array_equal(updates["bias"], 0)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"b1": 1.0}, r"b1 must be in \[0, 1\), got 1"),
        ({"weight_decay": -0.1}, r"weight_decay must be in \[0, inf\), got -0.1"),
        ({"mask": True, "weight_decay_mask": True}, "mask and weight_decay_mask are the same thing"),
    ],
)
def test_refuses_bad_arguments_by_name(kwargs, message):
    with pytest.raises(ValueError, match=message):
        nadamw(1e-3, **kwargs)


# The sources of the golden trajectories, and our arguments for their settings.
SOURCES = {
    "nadamw": parity.Case(
        title="NAdamW",
        paper="Dozat (ICLR workshop 2016)",
        code="torch.optim.NAdam",
        home="torch",
        settings=parity.MOMENTS | {"momentum_decay": 1e6, "decoupled_weight_decay": True},
        note=parity.CONSTANT_B1,
        ours=lambda rate, s: nadamw(rate, weight_decay=s["weight_decay"], **parity.moments(s)),
    )
}
