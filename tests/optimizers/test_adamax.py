import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optimiz import groups
from optimiz.optimizers.adamax import adamax, adamaxw
from tests.golden import fixture_a, parity, trajectory

# PyTorch 2.13 Adamax on fixture A.
CONSTANT = """
.992819384819 -1.99564656688 2.98196318617 .492028106442 -.0206733173666 -.98792040129
.0857019444989 -.216390074526"""
VARYING_B2_HALF = """
.994923933786 -1.99853855175 2.9638153049 .486767657371 -.0319132345407 -.979934939218
.0761526514771 -.223458194316"""


def test_equals_pytorch():
    fixture_a.check(lambda: adamax(0.01), CONSTANT)
    fixture_a.check(lambda: adamax(fixture_a.varying, b2=0.5), VARYING_B2_HALF)


@pytest.mark.parametrize("make", [adamax, adamaxw])
def test_equals_the_equations(make):
    def direction(g, memory, t):
        memory["m"] = 0.9 * memory.get("m", 0) + 0.1 * g
        memory["u"] = np.maximum(0.7 * memory.get("u", 0), np.abs(g))
        return memory["m"] / ((1 - 0.9**t) * memory["u"])

    trajectory.check_equations(lambda *args, **kwargs: make(*args, b2=0.7, eps=0.0, **kwargs), direction)


@pytest.mark.quick(1)
@pytest.mark.parametrize("args", [(), (0.0, 0.5), (0.9, 0.5, 1e-2)], ids=str)
def test_is_a_drop_in_for_optax(args):
    trajectory.check_drop_in(lambda lr: adamax(lr, *args), lambda lr: optax.adamax(lr, *args))


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    "args",
    [
        (),
        (0.9, 0.5, 1e-2, trajectory.weight_decay),
        (0.9, 0.5, 1e-2, 0.1, {"kernel": True, "bias": False, "scale": False}),
    ],
    ids=range(3),
)
def test_with_decay_is_a_drop_in_for_optax(args):
    trajectory.check_drop_in(lambda lr: adamaxw(lr, *args), lambda lr: optax.adamaxw(lr, *args))


@pytest.mark.parametrize("name", ["mask", "weight_decay_mask"])
def test_mask_takes_the_group_rule_by_either_name(name):
    params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
    tx = adamaxw(0.1, weight_decay=0.5, **{name: groups.no_decay()})
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    np.testing.assert_allclose(updates["kernel"], -0.05, rtol=1e-6)
    np.testing.assert_array_equal(updates["bias"], 0)


def test_largest_gradient_decays_in_bfloat16_where_that_of_optax_does_not():
    def after_silence(tx):
        params = jnp.zeros(1, jnp.bfloat16)
        state = tx.update(jnp.ones(1, jnp.bfloat16), tx.init(params))[1]
        update = jax.jit(lambda state: tx.update(jnp.zeros(1, jnp.bfloat16), state)[1])
        for _ in range(700):
            state = update(state)
        return float(state[0].nu[0])

    assert after_silence(adamax(1e-3)) == pytest.approx(0.999**700, rel=1e-3)
    assert after_silence(optax.adamax(1e-3)) == 1.0


@pytest.mark.parametrize("param", [jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("gradient", [jnp.bfloat16, jnp.float32])
def test_state_keeps_its_dtypes(param, gradient):
    tx = adamax(0.1)
    state = tx.init(jnp.zeros(2, param))
    after = tx.update(jnp.ones(2, gradient), state)[1]
    assert state[0].mu.dtype == after[0].mu.dtype == param
    assert state[0].nu.dtype == after[0].nu.dtype == jnp.float32


def test_eps_zero_leaves_a_coordinate_without_gradient_where_it_is():
    g = jnp.array([0.0, 2.0])
    updates, _ = adamax(0.1, eps=0.0).update(g, adamax(0.1).init(g))
    np.testing.assert_allclose(updates, [0.0, -0.1], rtol=1e-6)
    updates, _ = optax.adamax(0.1, eps=0.0).update(g, optax.adamax(0.1).init(g))
    assert np.isnan(updates[0])


def test_extreme_gradients_give_finite_updates_and_nan_stays_visible():
    tx = adamax(0.1)
    largest = float(jnp.finfo(jnp.float32).max)
    updates, state = tx.update(jnp.array([largest, 1e-30, jnp.nan, jnp.inf]), tx.init(jnp.zeros(4)))
    np.testing.assert_allclose(updates[:2], [-0.1, 0.0], rtol=1e-6, atol=1e-20)
    assert np.isfinite(state[0].nu[:2]).all()
    assert not np.isfinite(updates[2:]).any()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"b1": 1.0}, r"b1 must be in \[0, 1\), got 1"),
        ({"b2": -0.1}, r"b2 must be in \[0, 1\), got -0.1"),
        ({"eps": -1e-8}, r"eps must be in \[0, inf\), got -1e-08"),
        ({"weight_decay": -0.1}, r"weight_decay must be in \[0, inf\), got -0.1"),
    ],
)
@pytest.mark.parametrize("make", [adamax, adamaxw])
def test_refuses_bad_arguments_by_name(make, kwargs, message):
    with pytest.raises(ValueError, match=message):
        make(1e-3, **kwargs)


def test_refuses_two_masks():
    with pytest.raises(ValueError, match="mask and weight_decay_mask are the same thing"):
        adamaxw(1e-3, mask=True, weight_decay_mask=True)


# The sources of the golden trajectories, and our arguments for their settings.
SOURCES = {
    "adamax": parity.Case(
        title="AdaMax",
        code="torch.optim.Adamax",
        home="torch",
        settings=parity.MOMENTS,
        note=parity.L2,
        ours=lambda rate, s: parity.l2(s, adamax(rate, **parity.moments(s))),
    ),
    "adamaxw": parity.Case(
        title="AdaMaxW",
        paper="Kingma and Ba, [1412.6980](https://arxiv.org/abs/1412.6980)",
        code="pytorch_optimizer.AdaMax",
        home="pytorch-optimizer",
        settings=parity.MOMENTS | {"weight_decouple": True},
        ours=lambda rate, s: adamaxw(rate, weight_decay=s["weight_decay"], **parity.moments(s)),
    ),
}
