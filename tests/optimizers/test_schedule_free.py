import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optimiz
from optimiz import averaged_params, schedule_free, schedule_free_adamw, schedule_free_sgd, training
from tests.golden import fixture_c, parity
from tests.training import tiny


def followed(tx, params, gradients, dtype=None):
    """Parameters after the last step, x there, and the last state."""
    params = jax.tree.map(lambda p: jnp.asarray(p, dtype), params)
    state, update = tx.init(params), jax.jit(tx.update)
    for g in gradients:
        updates, state = update(jax.tree.map(lambda g, p: jnp.asarray(g, p.dtype), g, params), state, params)
        params = optax.apply_updates(params, updates)
    return params, averaged_params(state, params), state


# The authors' package, schedulefree 1.4.1: (optimizer, y, x).
GOLDEN = {
    "sgd": (
        lambda: schedule_free_sgd(0.5),
        ("1.012 -1.97 2.735 .217 -.246 -.914 1.8965 .163", "-.049 -.291"),
        ("1.005 -1.975 2.75 .23 -.24 -.91 1.91 .17", "-.06 -.29"),
    ),
    "sgd, warm-up, decay, r": (
        lambda: schedule_free_sgd(0.5, 4, weight_decay=0.1, r=1.0),
        (
            ".9061021041 -1.65044868733 2.44850160225 .21199995965 -.112771144705 -.934038747102 1.66038418581 "
            ".188969805183",
            ".11172564978 -.197218709258",
        ),
        (
            ".905254026335 -1.65862363087 2.46912910587 .215994395462 -.111681497602 -.940172716417 "
            "1.67879907952 .196449309473",
            ".104588474074 -.19667457866",
        ),
    ),
    "adamw, varying rate, decay": (
        lambda: schedule_free_adamw(fixture_c.varying, weight_decay=0.1),
        (
            "1.01076743561 -2.00041722043 2.96175384206 .467473367086 -.0137140189283 -.996430642362 "
            "1.95088639016 .245326295987",
            ".104318600422 -.233288140411",
        ),
        (
            "1.00957674521 -2.00087156753 2.96455756894 .468175952424 -.0132817718089 -.997024769566 "
            "1.95391384104 .24709755883",
            ".102829397834 -.232997129345",
        ),
    ),
    "adamw, warm-up": (
        lambda: schedule_free_adamw(0.01, 4),
        (
            "1.00213456376 -1.99562026119 2.99037127522 .488572053399 -.008167740837 -1.00429999777 "
            "1.99205651634 .24864509981",
            ".101861028564 -.205186578367",
        ),
        (
            "1.00161959399 -1.99579454508 2.99130733372 .488833462228 -.00801455656949 -1.00445922797 "
            "1.99309782915 .249314241218",
            ".101265659561 -.205060497896",
        ),
    ),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_equals_the_golden_values(name):
    make, y, x = GOLDEN[name]
    with jax.enable_x64(True):
        found = followed(make(), fixture_c.params(), fixture_c.gradients())[:2]
        chex.assert_trees_all_close(found, (fixture_c.golden(*y), fixture_c.golden(*x)), rtol=0, atol=1e-11)


def three_points(params, gradients, lr, b1, warmup, r, power, decay):
    """x, y and z by their definitions, in float64."""
    x = y = z = np.float64(params)
    total, largest = 0.0, 0.0
    for t, g in enumerate(np.float64(gradients), 1):
        eta = lr[t - 1] * min(1, t / warmup)
        largest = max(largest, eta)
        weight = t**r * largest**power if largest > 0 else 0.0
        total += weight
        c = weight / total if total > 0 else 0.0
        z = z - eta * (g + decay * y)
        x = (1 - c) * x + c * z
        y = b1 * x + (1 - b1) * z
    return y, x


@pytest.mark.parametrize(
    ("b1", "warmup", "r", "power", "decay"),
    [(0.9, 1, 0, 2, 0), (0.5, 5, 1, 2, 0.1), (0.98, 3, 2, 0, 0.3), (0.1, 1, 0.5, 1, 0)],
)
def test_equals_the_three_points_by_their_definitions(b1, warmup, r, power, decay):
    random = np.random.default_rng(0)
    gradients, lr = random.normal(size=(26, 5)), 0.1 * np.abs(np.sin(np.arange(26) + 1))
    settings = {"warmup_steps": warmup, "r": r, "weight_lr_power": power, "weight_decay": decay}
    with jax.enable_x64(True):
        tx = schedule_free_sgd(lambda count: jnp.asarray(lr)[count], b1=b1, **settings)
        y, x, _ = followed(tx, {"w": np.ones(5)}, [{"w": g} for g in gradients])
        wanted = three_points(np.ones(5), gradients, lr, b1, warmup, r, power, decay)
        np.testing.assert_allclose((y["w"], x["w"]), wanted, rtol=1e-12, atol=1e-12)


def test_at_a_constant_rate_x_is_the_mean_of_z():
    tx, params = schedule_free_sgd(0.1), {"w": jnp.zeros(3)}
    state, seen = tx.init(params), []
    for g in np.random.default_rng(0).normal(size=(9, 3)):
        updates, state = tx.update({"w": jnp.float32(g)}, state, params)
        params = optax.apply_updates(params, updates)
        seen.append(state.z["w"])
    np.testing.assert_allclose(averaged_params(state, params)["w"], np.mean(seen, axis=0), rtol=1e-4, atol=1e-6)


def test_the_first_step_of_a_warm_up_moves_and_weights_are_those_of_the_steps():
    tx, params = schedule_free_sgd(1.0, 4), {"w": jnp.ones(1)}
    state, zs, sums = tx.init(params), [], []
    for _ in range(4):
        updates, state = tx.update({"w": jnp.ones(1)}, state, params)
        params = optax.apply_updates(params, updates)
        zs.append(float(state.z["w"][0]))
        sums.append(float(state.weight_sum))
    assert zs == [0.75, 0.25, -0.5, -1.5]
    np.testing.assert_allclose(np.diff([0, *sums]), [0.0625, 0.25, 0.5625, 1], rtol=1e-6)


def test_a_rate_of_zero_at_the_beginning_moves_nothing_and_has_no_weight():
    tx = schedule_free_adamw(lambda count: jnp.where(count < 2, 0.0, 0.1), weight_lr_power=0.0)
    y, x, state = followed(tx, {"w": np.ones(2)}, [{"w": np.ones(2)}] * 2)
    assert y["w"].tolist() == x["w"].tolist() == [1, 1] and state.weight_sum == 0
    y, x, state = followed(tx, {"w": np.ones(2)}, [{"w": np.ones(2)}] * 3)
    np.testing.assert_allclose(y["w"], 0.9, rtol=1e-6)
    np.testing.assert_allclose(x["w"], 0.9, rtol=1e-6)


@pytest.mark.quick(2)
@pytest.mark.parametrize("rounding", [None, optimiz.stochastic_rounding(0), optimiz.kahan()])
def test_in_bfloat16_it_ends_where_it_ends_in_float32(rounding):
    """A noisy quadratic, on which Optax in bfloat16 ends 2.5 times as high; see the shape of its losses."""
    random = np.random.default_rng(0)
    curvature = np.geomspace(0.01, 1, 512).astype(np.float32)

    def loss_of_x(dtype):
        tx = schedule_free_sgd(0.3)
        tx = tx if rounding is None or dtype == jnp.float32 else optax.chain(tx, rounding)
        params = {"w": jnp.asarray(start, dtype)}

        def step(carry, noise):
            p, state = carry
            g = {"w": (curvature * p["w"].astype(jnp.float32) + noise).astype(dtype)}
            updates, state = tx.update(g, state, p)
            return (optax.apply_updates(p, updates), state), None

        (params, state), _ = jax.lax.scan(step, (params, tx.init(params)), jnp.asarray(noises))
        x = np.float64(averaged_params(state, params)["w"].astype(jnp.float32))
        return 0.5 * np.sum(curvature * x**2)

    start = random.normal(size=512)
    noises = random.normal(size=(2000, 512)).astype(np.float32)
    assert loss_of_x(jnp.bfloat16) == pytest.approx(loss_of_x(jnp.float32), rel=0.02)


def test_state_takes_eight_bytes_and_x_is_held_for_low_precision_alone():
    params = {"a": jnp.ones((64, 64)), "b": jnp.ones((64, 64), jnp.bfloat16)}
    state = schedule_free_adamw().init(params)
    assert isinstance(state.x["a"], optax.MaskedNode) and state.x["b"].dtype == jnp.float32
    assert sum(leaf.nbytes for leaf in jax.tree.leaves(state)) == 64 * 64 * (8 + 12) + 6 * 4


def test_parameters_left_out_by_a_mask_are_returned_as_they_are():
    params = {"a": jnp.zeros(1), "b": jnp.ones(1)}
    txs = {"free": schedule_free_sgd(1.0), "plain": optax.sgd(1.0)}
    tx = optax.partition(txs, {"a": "free", "b": "plain"})
    y, x, _ = followed(tx, params, [{"a": np.ones(1), "b": np.ones(1)}] * 2)
    assert {name: leaf.tolist() for name, leaf in x.items()} == {"a": [-1.5], "b": [-1.0]}
    np.testing.assert_allclose(y["a"], [0.9 * -1.5 + 0.1 * -2], rtol=1e-6)


def test_multipliers_scale_the_steps_of_z():
    params = {"a": jnp.zeros(1), "b": jnp.zeros(1)}
    tx = schedule_free_sgd(1.0, multipliers={"a": 0.5, "b": 0.0})
    _, _, state = followed(tx, params, [{"a": np.ones(1), "b": np.ones(1)}] * 2)
    assert {name: z.tolist() for name, z in state.z.items()} == {"a": [-1.0], "b": [0.0]}


@pytest.mark.parametrize("make", [schedule_free_sgd, schedule_free_adamw])
@pytest.mark.parametrize(
    ("coupling", "decays"),
    [("learning_rate", (0.125, 0.25)), ("schedule", (0.25, 0.5)), ("independent", (0.5, 0.5))],
)
def test_the_decay_is_coupled_to_the_rate_that_the_warm_up_has_reached(make, coupling, decays):
    tx = make(0.5, warmup_steps=2, weight_decay=0.5, decay_coupling=coupling)
    y, z = jnp.array(1.0), 1.0
    state = tx.init(y)
    for decay in decays:
        z -= decay * float(y)
        updates, state = tx.update(jnp.array(0.0), state, y)
        y = optax.apply_updates(y, updates)
        assert float(state.z) == pytest.approx(z, rel=1e-6)


def test_a_skipped_step_counts_neither_as_a_step_nor_as_a_weight():
    gradients = [{"w": np.array([g])} for g in (1.0, np.nan, 2.0)]
    tx = schedule_free_adamw(0.1, 3)
    _, x, state = followed(optimiz.guard(tx, 5), {"w": np.ones(1)}, gradients)
    _, without, wanted = followed(tx, {"w": np.ones(1)}, gradients[::2])
    chex.assert_trees_all_equal((x, state.inner_state), (without, wanted))


def test_any_direction_can_be_used():
    tx = schedule_free(optax.scale_by_rms(0.9), 0.1)
    y, x, _ = followed(tx, {"w": np.ones(2)}, [{"w": np.ones(2)}] * 3)
    assert np.all(y["w"] < 1) and np.all(x["w"] > y["w"])


def test_a_run_evaluates_saves_and_returns_x(tmp_path):
    seen = []
    task = tiny.task(evaluate=lambda params: seen.append(jax.device_get(params)) or {"loss": 1.0})
    tx = schedule_free_adamw(0.1, 5)
    result = training.fit(task, tx, tiny.settings(), tmp_path / "run", identity={})
    chex.assert_trees_all_equal(jax.device_get(result.params), seen[-1])
    chex.assert_trees_all_equal(training.load_params(tmp_path / "run"), result.params)
    assert result.params["w2"].dtype == jnp.bfloat16


def test_refuses_what_comes_after_it_unless_it_rounds():
    params = {"w": jnp.zeros(2)}
    tx = optax.chain(schedule_free_sgd(1.0), optax.scale(0.5))
    with pytest.raises(ValueError, match="schedule_free must be the last of a chain"):
        tx.update(params, tx.init(params), params)
    with pytest.raises(ValueError, match="params"):
        schedule_free_sgd(1.0).update(params, schedule_free_sgd(1.0).init(params))


@pytest.mark.parametrize("tx", [optimiz.adamw(0.1), optax.adamw(0.1), optax.sgd(0.1), schedule_free_sgd(1.0)])
def test_what_makes_steps_is_refused_within_and_before(tx):
    params = {"w": jnp.zeros(2)}
    with pytest.raises(ValueError, match="schedule_free goes around a direction"):
        schedule_free(tx, 0.1).init(params)
    chain = optax.chain(tx, schedule_free_sgd(1.0))
    with pytest.raises(ValueError, match=r"comes after a step in its chain|must be the last of a chain"):
        chain.update(params, chain.init(params), params)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("b1", 0.0), ("b1", 1.0), ("b2", 1.0), ("eps", -1.0), ("weight_decay", -1.0), ("r", -1.0)],
        *[("warmup_steps", -1), ("weight_lr_power", -1.0), ("learning_rate", -1.0)],
    ],
)
def test_refuses_what_is_outside_its_domain(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be"):
        schedule_free_adamw(**{name: value})
    with pytest.raises(TypeError, match=f"^{name} must be"):
        schedule_free_adamw(**{name: "x"})


def in_training(optimizer, case, rate, curvature):
    """A step in the mode in which the parameters are y."""
    del case, curvature
    optimizer.train()
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()


# The sources of the golden trajectories, and our arguments for their settings.
SOURCES = {
    "schedule_free_adamw": parity.Case(
        title="Schedule-Free AdamW",
        code="schedulefree.AdamWScheduleFree",
        home="schedulefree",
        step=in_training,
        settings={"betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.1, "foreach": False},
        note="The authors' package; the parameters are y.",
        ours=lambda rate, s: schedule_free_adamw(
            rate, 0, *s["betas"], eps=s["eps"], weight_decay=s["weight_decay"]
        ),
    ),
    "schedule_free_sgd": parity.Case(
        title="Schedule-Free SGD",
        code="schedulefree.SGDScheduleFree",
        home="schedulefree",
        step=in_training,
        settings={"momentum": 0.9, "weight_decay": 0.1, "foreach": False},
        note="The authors' package; the parameters are y.",
        ours=lambda rate, s: schedule_free_sgd(rate, b1=s["momentum"], weight_decay=s["weight_decay"]),
    ),
}
