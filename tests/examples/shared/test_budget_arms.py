"""The control with a frozen encoder trains the head, and nothing else."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from examples.shared.budget_arms import arms, head_alone
from examples.shared.optimizers import choose
from optimiz import schedules


@pytest.mark.parametrize("name", ["adamw", "sgd_sai"])
def test_a_frozen_encoder_does_not_move_and_its_head_does(name):
    (arm,) = arms([name], [0.1], functools.partial(choose, classes=2))
    alone = head_alone(arm, classes=2)
    assert (alone.name, alone.learning_rate) == (arm.name, arm.learning_rate)
    params = {"encoder": {"kernel": jnp.ones((2, 2))}, "head": {"kernel": jnp.ones((2, 2))}}
    gradients = jax.tree.map(lambda p: 0.5 * p, params)
    moved = {}
    for which in (arm, alone):
        tx = which.optimizer()
        with schedules.spending(0.5):
            updates, _ = tx.update(gradients, tx.init(params), params)
        moved[which is alone] = {part: float(np.abs(tree["kernel"]).max()) for part, tree in updates.items()}
    assert moved[True] == {"encoder": 0.0, "head": pytest.approx(moved[False]["head"])}
    assert moved[False]["encoder"] > 0
