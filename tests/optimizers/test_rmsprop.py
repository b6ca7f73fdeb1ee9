import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optimiz.optimizers.rmsprop import rmsprop, scale_by_rms
from optimiz.primitives.scale_by_adam import scale_by_adam
from tests.golden import fixture_a, parity, trajectory

# PyTorch 2.13 RMSprop on fixture A, alpha 0.99.
PLAIN = """
.969508543805 -2.01147969912 2.91962039686 .416520478949 -.180288059488 -.986314505505
.0373002053731 -.316302909921"""
MOMENTUM = """
.873508608471 -1.92105890063 2.7266887869 .326520493949 -.351288002488 -.84888470654
-.100129593591 -.572726931512"""
MOMENTUM_VARYING = """
.876754362013 -1.90982801951 2.6417916852 .263260271974 -.360643939577 -.79539266833
-.129114481736 -.713736935074"""
CENTERED_MOMENTUM_VARYING = """
.875221056582 -1.90846181949 2.63978133036 .262053653924 -.362653841103 -.79391669452
-.130590476219 -.717226888318"""


def test_equals_pytorch():
    fixture_a.check(lambda: rmsprop(0.01, 0.99), PLAIN)
    fixture_a.check(lambda: rmsprop(0.01, 0.99, momentum=0.9), MOMENTUM)
    fixture_a.check(lambda: rmsprop(fixture_a.varying, 0.99, momentum=0.9), MOMENTUM_VARYING)
    fixture_a.check(
        lambda: rmsprop(fixture_a.varying, 0.99, centered=True, momentum=0.9), CENTERED_MOMENTUM_VARYING
    )


@pytest.mark.quick(2)
@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("nesterov", [False, True])
def test_equals_the_equations(centered, nesterov):
    def direction(g, memory, t):
        memory["v"] = 0.9 * memory.get("v", 0) + 0.1 * g**2
        memory["m"] = 0.9 * memory.get("m", 0) + 0.1 * g
        d = g / (np.sqrt(memory["v"] - centered * memory["m"] ** 2) + 1e-8)
        memory["b"] = 0.8 * memory.get("b", 0) + d
        return d + 0.8 * memory["b"] if nesterov else memory["b"]

    def make(learning_rate, weight_decay):
        return rmsprop(
            learning_rate, centered=centered, momentum=0.8, nesterov=nesterov, weight_decay=weight_decay
        )

    trajectory.check_equations(make, direction, f32=4e-6)  # steps of some 10 learning rates


@pytest.mark.quick(2)
@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"decay": 0.5, "eps": 1e-3, "initial_scale": 1.0, "eps_in_sqrt": False},
        {"centered": True},
        {"momentum": 0.8},
        {"momentum": 0.8, "nesterov": True, "bias_correction": True},
        {"centered": True, "bias_correction": True, "initial_scale": 0.5},
    ],
    ids=str,
)
def test_is_a_drop_in_for_optax_with_its_places_of_eps_and_learning_rate(kwargs):
    trajectory.check_drop_in(
        lambda lr: rmsprop(lr, **{"eps_in_sqrt": True, "lr_in_momentum": True, **kwargs}),
        lambda lr: optax.rmsprop(lr, **kwargs),
        f32=4e-6,
    )


def test_positions_are_those_of_optax():
    args = (0.01, 0.95, 1e-6, 0.5, False, True, 0.8, True, True)
    got, wanted = (trajectory.run(make(*args), jnp.float32)[-1] for make in (rmsprop, optax.rmsprop))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=4e-6), got, wanted)


def test_eps_is_outside_the_root_where_that_of_optax_is_under_it():
    g = jnp.array([1.0])
    for make, step in ((rmsprop, 1 / (0.5 + 0.75)), (optax.rmsprop, 1 / np.sqrt(0.25 + 0.75))):
        tx = make(1.0, decay=0.75, eps=0.75)
        updates, _ = tx.update(g, tx.init(g))
        np.testing.assert_allclose(updates, [-step], rtol=1e-6)


def test_a_rate_of_zero_stops_the_momentum_where_that_of_optax_coasts_on():
    g = jnp.ones(1)

    def second_update(make, **kwargs):
        tx = make(lambda count: jnp.array([1.0, 0.0])[count], decay=0.0, eps=0.0, momentum=0.5, **kwargs)
        state = tx.update(g, tx.init(g))[1]
        return float(tx.update(g, state)[0][0])

    assert second_update(rmsprop) == 0
    assert second_update(optax.rmsprop) == second_update(rmsprop, lr_in_momentum=True) == -0.5


def test_decay_is_outside_the_momentum_unless_the_learning_rate_is_inside():
    params, zero = jnp.ones(1), jnp.zeros(1)

    def second_update(lr_in_momentum):
        tx = rmsprop(0.5, momentum=0.5, lr_in_momentum=lr_in_momentum, weight_decay=0.5)
        state = tx.update(zero, tx.init(params), params)[1]
        return float(tx.update(zero, state, params)[0][0])

    assert second_update(False) == -0.25  # -0.5 × 0.5
    assert second_update(True) == -0.375  # and half of the step before


def test_bias_correction_makes_it_adam_without_a_first_moment():
    g = jnp.array([0.3, -2.0])
    ours, adam = scale_by_rms(0.99, 1e-8, bias_correction=True), scale_by_adam(0.0, 0.99, 1e-8)
    states = [tx.init(g) for tx in (ours, adam)]
    for scale in (1.0, -0.1, 3.0):
        (a, first), (b, second) = ours.update(scale * g, states[0]), adam.update(scale * g, states[1])
        states = [first, second]
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_equal_gradients_have_no_variance_and_are_nan_in_optax():
    g = jnp.linspace(0.1, 10.0, 100)

    def last_update(tx):
        state = tx.init(g)
        update = jax.jit(tx.update)
        for _ in range(200):
            updates, state = update(g, state)
        return updates

    assert np.isfinite(last_update(rmsprop(0.1, centered=True, eps_in_sqrt=True))).all()
    assert np.isnan(last_update(optax.rmsprop(0.1, centered=True))).any()


@pytest.mark.parametrize("param", [jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("gradient", [jnp.bfloat16, jnp.float32])
def test_state_keeps_its_dtypes(param, gradient):
    tx = rmsprop(0.1, centered=True, momentum=0.9)
    params = jnp.zeros(2, param)
    state = tx.init(params)
    updates, after = tx.update(jnp.ones(2, gradient), state, params)
    assert updates.dtype == param
    for s in (state, after):
        assert (s[0].mu.dtype, s[0].nu.dtype, s[1].trace.dtype) == (jnp.float32, jnp.float32, param)


def test_a_huge_gradient_does_no_lasting_harm():
    def last_update(tx):
        state = tx.init(jnp.zeros(1))
        update = jax.jit(tx.update)
        for g in [1e30] + [1.0] * 2000:
            updates, state = update(jnp.array([g]), state)
        return float(updates[0])

    assert last_update(rmsprop(0.1)) == pytest.approx(-0.1, rel=1e-3)
    assert last_update(optax.rmsprop(0.1)) == 0


@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("eps_in_sqrt", [False, True])
def test_eps_zero_leaves_a_coordinate_without_gradient_where_it_is(centered, eps_in_sqrt):
    g = jnp.array([0.0, 2.0])

    def first_update(make):
        tx = make(0.1, decay=0.75, eps=0.0, eps_in_sqrt=eps_in_sqrt, centered=centered)
        return tx.update(g, tx.init(g))[0]

    step = 0.1 / np.sqrt(0.25 - 0.25**2 * centered)
    np.testing.assert_allclose(first_update(rmsprop), [0.0, -step], rtol=1e-6)
    assert np.isnan(first_update(optax.rmsprop)[0])


@pytest.mark.parametrize("kwargs", [{}, {"centered": True}, {"momentum": 0.9}], ids=str)
def test_a_nan_gradient_stays_visible(kwargs):
    g = jnp.array([jnp.nan, jnp.inf])
    tx = rmsprop(0.1, **kwargs)
    updates, _ = tx.update(g, tx.init(g))
    assert not np.isfinite(updates).any()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"decay": 1.0}, r"decay must be in \[0, 1\), got 1"),
        ({"eps": -1e-8}, r"eps must be in \[0, inf\), got -1e-08"),
        ({"initial_scale": -1.0}, r"initial_scale must be in \[0, inf\), got -1"),
        ({"momentum": 1.0}, r"momentum must be in \[0, 1\), got 1"),
        ({"weight_decay": -0.1}, r"weight_decay must be in \[0, inf\), got -0.1"),
    ],
)
def test_refuses_bad_arguments_by_name(kwargs, message):
    with pytest.raises(ValueError, match=message):
        rmsprop(1e-3, **kwargs)


# The sources of the golden trajectories, and our arguments for their settings.
SOURCES = {
    "rmsprop": parity.Case(
        title="RMSprop",
        code="torch.optim.RMSprop",
        home="torch",
        settings={"alpha": 0.9, "eps": 1e-8, "weight_decay": 0.1},
        note=parity.L2,
        ours=lambda rate, s: parity.l2(s, rmsprop(rate, s["alpha"], s["eps"])),
    ),
    "rmsprop_centered": parity.Case(
        title="RMSprop, centered, with momentum",
        code="torch.optim.RMSprop",
        home="torch",
        settings={"alpha": 0.9, "eps": 1e-8, "weight_decay": 0.1, "centered": True, "momentum": 0.9},
        note=parity.L2,
        ours=lambda rate, s: parity.l2(
            s, rmsprop(rate, s["alpha"], s["eps"], centered=s["centered"], momentum=s["momentum"])
        ),
    ),
}
