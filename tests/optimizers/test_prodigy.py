import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AbstractMesh, AxisType, NamedSharding, PartitionSpec

import optimiz
from optimiz.optimizers.prodigy import prodigy, scale_by_prodigy
from tests.golden import parity

W = np.array([[1.0, -2.0], [3.0, 0.5], [0.0, -1.0], [2.0, 0.25]])
START = {"w": W, "b": np.array([0.1, -0.2])}


def equations(params, gradient, rates, *, b1=0.9, b2=0.999, b3=None, eps=1e-8, d0=1e-6, d_coef=1.0, **options):
    """The paper's loop over one flat vector; the estimates after each step are the second result."""
    growth, decay = options.get("growth_rate", math.inf), options.get("weight_decay", 0.0)
    b3 = b2**0.5 if b3 is None else b3
    theta = np.float64(params)
    start, m, v, s = theta.copy(), np.zeros_like(theta), np.zeros_like(theta), np.zeros_like(theta)
    d, largest, r, k, estimates = d0, d0, 0.0, 0, []
    for t, rate in enumerate(rates):
        g = gradient(theta, t)
        if rate > 0:
            c = math.sqrt(1 - b2 ** (k + 1)) / (1 - b1 ** (k + 1)) if options.get("bias_correction") else 1.0
            step = d * rate * c
            r = b3 * r + d / d0 * step * np.dot(g, start - theta)
            s = b3 * s + d / d0 * (d if options.get("safeguard_warmup") else step) * g
            m, v = b1 * m + (1 - b1) * d * g, b2 * v + (1 - b2) * (d * g) ** 2
            estimate = d_coef * r / np.abs(s).sum()
            d = max(d, estimate) if d == d0 else d
            largest = max(largest, estimate)
            d = min(largest, d * growth)
            theta = theta - step * (m / (np.sqrt(v) + d * eps) + decay * theta)
            k += 1
        estimates.append(d)
    return theta, estimates


def followed(tx, params, gradient, steps):
    """Parameters after some steps, the estimates after each, and the state."""
    state, estimates = tx.init(params), []

    @jax.jit
    def step(params, state, t):
        updates, state = tx.update(gradient(params, t), state, params)
        return optax.apply_updates(params, updates), state

    for t in range(steps):
        params, state = step(params, state, t)
        estimates.append(float(state[0].distance))
    return params, estimates, state


def bowl(params, t):
    del t
    return params


def flat(params):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(params)])


# Settings and rates of the authors' code, release 1.1.2, on |θ|² / 2; W and b after five steps, d after each.
GOLDEN = {
    "defaults": (
        {},
        [1.0] * 5,
        "0.999901889278 -1.99990188945 2.99990188951 0.499901888936 "
        "0 -0.999901889278 1.99990188945 0.249901888253 0.0999018862019 -0.199901887911",
        [1e-6, 1.58153162585e-6, 4.82239443887e-6, 1.34960630696e-5, 3.45096108547e-5],
    ),
    "decay": (
        {"d0": 0.01, "weight_decay": 0.1},
        [1.0] * 5,
        "-0.110142646359 -0.903714161853 1.89057402417 -0.689518776059 "
        "0 0.110142646359 0.903714161853 0.0920560160123 0.144874773224 -0.133038647555",
        [0.01, 0.0165409633126, 0.0512257415921, 0.1428863697, 0.33452791417],
    ),
    "bias correction": (
        {"d0": 0.01, "bias_correction": True},
        [0.25, 0.5, 0.75, 1.0, 1.0],
        "0.965022845795 -1.96501122079 2.96500743603 0.465047342216 "
        "0 -0.965022845795 1.96501122079 0.215101564669 0.0653114486141 -0.165131434929",
        [0.01, 0.01, 0.01, 0.01, 0.0119960865257],
    ),
    "safeguard": (
        {"d0": 0.01, "bias_correction": True, "safeguard_warmup": True},
        [0.25, 0.5, 0.75, 1.0, 1.0],
        "0.96502284551 -1.96501122065 2.96500743593 0.465047341641 "
        "0 -0.96502284551 1.96501122065 0.2151015635 0.0653114455517 -0.165131433456",
        [0.01] * 5,
    ),
    "a first rate of 0": (
        {"d0": 0.01},
        [0.0, 1.0, 1.0, 1.0, 1.0],
        "0.623029658797 -1.62620051893 2.62719322662 0.115737093715 "
        "0 -0.623029658797 1.62620051893 -0.151765340444 -0.0194749774629 0.206440495855",
        [0.01, 0.01, 0.0155882422121, 0.0468974341138, 0.131122057544],
    ),
    "limited growth": (
        {"d0": 0.01, "growth_rate": 1.1, "d_coef": 2.0},
        [1.0] * 5,
        "0.398496076732 -1.400191338 2.40117416552 -0.0908473596929 "
        "0 -0.398496076732 1.400191338 -0.184298877554 0.0354361350782 0.140138655829",
        [0.01, 0.0311764844242, 0.0342941328666, 0.0377235461533, 0.0414959007686],
    ),
    "every third entry": (
        {"d0": 0.01, "slice_p": 3, "b3": 0.9},
        [1.0] * 5,
        "-0.0601034863979 -0.974202699954 1.98341907906 -0.644092336494 "
        "0 0.0601034863979 0.974202699954 0.0669886561786 0.189137641385 -0.110112935281",
        [0.01, 0.0163613341155, 0.0506536386568, 0.135951148852, 0.351074271082],
    ),
}


@pytest.mark.quick(2)
@pytest.mark.parametrize("case", GOLDEN)
def test_the_trajectory_and_the_estimates_are_the_authors(case):
    settings, rates, expected, estimates = GOLDEN[case]
    with jax.enable_x64(True):
        start = jax.tree.map(jnp.asarray, START)
        tx = prodigy(lambda count: jnp.asarray(rates)[count], **settings)
        params, found, _ = followed(tx, start, bowl, len(rates))
        found_params = np.concatenate([np.ravel(params["w"]), params["b"]])
    np.testing.assert_allclose(found_params, np.array(expected.split(), float), rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(found, estimates, rtol=1e-10)  # p₀ - p is rounded where d is 1e-6


def noisy(theta, t):
    turned = jnp.sin(jnp.arange(theta.size) + t) if isinstance(theta, jax.Array) else None
    turned = np.sin(np.arange(theta.size) + t) if turned is None else turned
    return theta - 1.0 + 0.5 * turned


@pytest.mark.quick(2)
@pytest.mark.parametrize(
    "settings",
    [
        {"d0": 1e-3, "b1": 0.5, "b2": 0.9, "b3": 0.8, "eps": 1e-2, "weight_decay": 0.1},
        {"d0": 1e-2, "d_coef": 0.5, "growth_rate": 1.05, "bias_correction": True, "b2": 0.95},
        {"d0": 1e-2, "safeguard_warmup": True, "b1": 0.0, "b2": 0.9},
    ],
)
def test_the_trajectory_is_that_of_the_equations(settings):
    steps = 40
    rates = np.where(np.arange(steps) % 7 == 3, 0.0, np.minimum(1, np.arange(steps) / 10))
    start = np.linspace(-1, 2, 6)
    with jax.enable_x64(True):
        tx = prodigy(lambda count: jnp.asarray(rates)[count], **settings)
        params, found, state = followed(tx, jnp.asarray(start), noisy, steps)
        expected, estimates = equations(start, noisy, rates, **settings)
        np.testing.assert_allclose(params, expected, rtol=1e-10)
        np.testing.assert_allclose(found, estimates, rtol=1e-10)
        np.testing.assert_allclose(state[0].moved, expected - start, rtol=1e-10)
    assert int(state[0].count) == np.count_nonzero(rates) and int(state[0].updates) == steps


def test_the_step_length_is_found_from_any_first_estimate():
    start = {"w": jnp.asarray(W, jnp.float32)}
    for d0 in (1e-8, 1e-6, 1e-3):
        tx = prodigy(optax.linear_schedule(1.0, 0.0, 300), d0=d0)
        params, estimates, _ = followed(tx, start, bowl, 300)
        assert float(jnp.max(jnp.abs(params["w"]))) < 0.05
        assert 0.1 < estimates[-1] < 10  # 3 is the largest distance of an entry


def test_the_estimate_has_the_scale_of_the_parameters_and_not_of_the_gradient():
    start = jnp.asarray(W, jnp.float32)

    def of(scale, steepness):
        _, estimates, _ = followed(
            prodigy(d0=1e-3 * scale), scale * start, lambda p, t: steepness * bowl(p, t), 30
        )
        return estimates[-1]

    assert of(1.0, 1e3) == pytest.approx(of(1.0, 1.0), rel=1e-3)
    assert of(100.0, 1.0) == pytest.approx(100 * of(1.0, 1.0), rel=1e-3)


def test_with_multipliers_it_is_as_if_parameters_were_measured_in_units_of_them():
    m = {"w": 3.0, "b": 0.5}
    start = {"w": jnp.array([1.0, -2.0]), "b": jnp.array([0.25])}
    settings = {"d0": 1e-2, "eps": 0.0}
    with jax.enable_x64(True):
        start = jax.tree.map(lambda p: jnp.asarray(p, jnp.float64), start)

        def in_units(q, t):
            del t
            return {name: m[name] ** 2 * x for name, x in q.items()}

        def run(tx, start, gradient):
            params, estimates, state = followed(tx, start, gradient, 20)
            return jax.tree.map(np.asarray, params), estimates, state

        ours, estimates, state = run(prodigy(multipliers=m, **settings), start, bowl)
        inner = {name: p / m[name] for name, p in start.items()}
        theirs, expected, _ = run(prodigy(**settings), inner, in_units)
        moved = jax.tree.map(lambda p, p0: p - np.asarray(p0), ours, start)
    np.testing.assert_allclose(estimates, expected, rtol=1e-10)
    for name, unit in m.items():
        np.testing.assert_allclose(ours[name], unit * theirs[name], rtol=1e-9)
        np.testing.assert_allclose(state[0].moved[name], moved[name], rtol=1e-9)


def test_a_parameter_with_the_multiplier_0_stays_and_is_in_no_sum():
    start = {"w": jnp.array([1.0, -2.0]), "frozen": jnp.array([7.0])}
    settings = {"d0": 1e-2, "weight_decay": 0.1}
    frozen = prodigy(multipliers={"w": 1.0, "frozen": 0.0}, **settings)
    params, estimates, _ = followed(frozen, start, bowl, 20)
    alone, expected, _ = followed(prodigy(**settings), {"w": start["w"]}, bowl, 20)
    assert params["frozen"].tolist() == [7.0]
    np.testing.assert_allclose(params["w"], alone["w"], rtol=1e-5)
    np.testing.assert_allclose(estimates, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("coupling", "shrunk"),
    [("learning_rate", 0.5 * 0.25 * 0.1), ("schedule", 0.25 * 0.1), ("independent", 0.1)],
)
def test_only_a_decay_coupled_to_the_rate_is_scaled_by_the_distance(coupling, shrunk):
    rate = optax.linear_schedule(0.25, 0.25, 1) if coupling != "schedule" else 0.25
    tx = prodigy(rate, d0=0.5, weight_decay=0.1, decay_coupling=coupling)
    p = jnp.array([1.0])
    updates, _ = tx.update(jnp.zeros(1), tx.init(p), p)
    expected = shrunk if coupling != "schedule" else 0.1  # a constant rate is its own peak
    np.testing.assert_allclose(updates, [-expected], rtol=1e-6)


def test_a_first_gradient_of_zero_and_a_first_rate_of_0_do_no_harm_where_optax_has_nan():
    start = jnp.array([1.0, -2.0])
    warm_up = optax.linear_schedule(0.0, 1.0, 5)
    late = lambda p, t: jnp.where(t < 3, 0.0, 1.0) * p  # noqa: E731
    for rate, gradient in ((warm_up, bowl), (1.0, late)):
        ours, estimates, _ = followed(prodigy(rate), start, gradient, 40)
        assert np.isfinite(ours).all() and estimates[-1] > 1e-4
        tx = optax.contrib.prodigy(rate)
        params, state = start, tx.init(start)
        for t in range(40):
            updates, state = tx.update(gradient(params, t), state, params)
            params = optax.apply_updates(params, updates)
        assert np.isnan(params).all()


def test_a_gradient_that_is_not_finite_leaves_the_estimate_as_it_was():
    tx, p = prodigy(d0=1e-2), jnp.array([1.0, -2.0])
    params, estimates, state = followed(tx, p, bowl, 10)
    for bad in (jnp.nan, jnp.inf):
        updates, after = tx.update(jnp.array([bad, 1.0]), state, params)
        assert np.isnan(updates).tolist() == [True, False]
        assert float(after[0].distance) == estimates[-1]
        assert np.isfinite(float(after[0].numerator))


def test_a_huge_gradient_does_no_lasting_harm():
    tx, p = prodigy(), jnp.zeros(3)
    state = tx.init(p)
    for g in (1e30, 1.0, -1e38, 1.0):
        updates, state = tx.update(jnp.full(3, g), state, p)
        assert np.isfinite(updates).all()
    for leaf in jax.tree.leaves(state):
        assert np.isfinite(leaf).all()


def test_without_gradients_and_eps_nothing_moves():
    tx, p = prodigy(eps=0.0), jnp.ones(2)
    updates, state = tx.update(jnp.zeros(2), tx.init(p), p)
    assert updates.tolist() == [0.0, 0.0] and int(state[0].count) == 0


def wide_and_in_bfloat16(wrap, steps=200):
    """Distance from the solution and estimate at the end, of float32 and of bfloat16 parameters."""
    solution = jnp.linspace(-2, 2, 512)
    found = []
    for dtype in (jnp.float32, jnp.bfloat16):
        tx = wrap(prodigy(optax.linear_schedule(1.0, 0.0, steps)))
        start = jnp.zeros(512, dtype)
        state = tx.init(start)

        def step(carry, _, tx=tx):
            p, state = carry
            g = (p.astype(jnp.float32) - solution).astype(p.dtype)
            updates, state = tx.update(g, state, p)
            return (optax.apply_updates(p, updates), state), None

        (p, state), _ = jax.lax.scan(step, (start + jnp.asarray(1.0, dtype), state), length=steps)
        found.append((p, optimiz.hyperparams(state)["distance"]))
    return [(float(jnp.max(jnp.abs(p - solution))), float(d)) for p, d in found]


def test_bfloat16_parameters_follow_with_stochastic_rounding():
    (error, d), (narrow_error, narrow_d) = wide_and_in_bfloat16(
        lambda tx: optax.chain(tx, optimiz.stochastic_rounding(0))
    )
    assert error < 0.02 and narrow_error < 0.06
    assert narrow_d == pytest.approx(d, rel=0.3)


def test_the_state_is_float32_for_bfloat16_parameters_and_the_first_estimate_is_exact():
    p = {"w": jnp.ones(3, jnp.bfloat16)}
    tx = prodigy()
    updates, state = tx.update(p, tx.init(p), p)
    assert updates["w"].dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(state[0])} == {jnp.dtype("float32"), jnp.dtype("int32")}
    assert state[0].distance == np.float32(1e-6)


@pytest.mark.long
def test_all_that_belongs_to_parameters_is_stored_in_eight_bits_and_the_estimate_stays():
    params = {"w": jax.ShapeDtypeStruct((64, 4096), jnp.float32)}
    assert optimiz.state_bytes(prodigy(), params).per_parameter == pytest.approx(16, abs=0.01)
    tx = optimiz.low_bit(prodigy(), optimiz.Int8())
    assert optimiz.state_bytes(tx, params).per_parameter < 4.1
    solution = jax.random.normal(jax.random.key(0), (32, 128))
    estimates = []
    for wrap in (lambda tx: tx, lambda tx: optimiz.low_bit(tx, optimiz.Int8())):
        tx = wrap(prodigy(optax.linear_schedule(1.0, 0.0, 150)))

        def step(carry, _, tx=tx):
            p, state = carry
            updates, state = tx.update(p - solution, state, p)
            return (optax.apply_updates(p, updates), state), None

        start = jnp.zeros((32, 128))
        (p, state), _ = jax.lax.scan(step, (start, tx.init(start)), length=150)
        assert float(jnp.linalg.norm(p - solution) / jnp.linalg.norm(solution)) < 0.05
        estimates.append(float(optimiz.hyperparams(state)["distance"]))
    assert estimates[1] == pytest.approx(estimates[0], rel=0.05)


def test_of_some_entries_the_state_takes_the_bytes_of_the_formula():
    params = {"w": jax.ShapeDtypeStruct((64, 4099), jnp.float32)}
    sampled = prodigy(slice_p=11)
    per_parameter = [
        optimiz.state_bytes(tx, params).per_parameter
        for tx in (sampled, optimiz.low_bit(sampled, optimiz.Int8()))
    ]
    assert per_parameter == pytest.approx([8 + 8 / 11, 2 * (1 + 17 * 4 / 4099) + 8 / 11], abs=0.001)


def test_of_some_entries_the_estimate_and_the_end_are_near_those_of_all():
    solution = jax.random.normal(jax.random.key(0), (32, 125))
    rate = optax.linear_schedule(1.0, 0.0, 150)
    found = [
        followed(prodigy(rate, slice_p=p), jnp.zeros((32, 125)), lambda x, t: x - solution, 150)
        for p in (None, 11)
    ]
    for end, _, _ in found:
        assert float(jnp.linalg.norm(end - solution) / jnp.linalg.norm(solution)) < 0.05
    (_, of_all, _), (end, of_some, state) = found
    assert of_some[-1] == pytest.approx(of_all[-1], rel=0.3) and of_some[-1] != of_all[-1]
    np.testing.assert_allclose(state[0].moved, end.ravel()[::11], rtol=1e-4, atol=1e-6)


def test_some_entries_of_a_parameter_on_an_explicit_mesh_are_gathered():
    mesh = AbstractMesh((2, 2), ("a", "b"), axis_types=(AxisType.Explicit,) * 2)
    p = jax.ShapeDtypeStruct((4, 10), jnp.float32, sharding=NamedSharding(mesh, PartitionSpec("a", "b")))
    tx = prodigy(slice_p=3)
    with jax.sharding.use_abstract_mesh(mesh):
        state = jax.eval_shape(tx.init, p)
        updates, after = jax.eval_shape(tx.update, p, state, p)
    assert state[0].moved.shape == (14,) and updates.sharding == state[0].mu.sharding == p.sharding
    assert after[0].moved == state[0].moved and after[0].grad_sum == state[0].grad_sum


def test_how_many_entries_must_be_static():
    with pytest.raises(TypeError, match=r"^slice_p must be known"):
        jax.jit(lambda p: prodigy(slice_p=p).init(jnp.ones(2)))(3)
    jax.jit(optax.inject_hyperparams(prodigy)(1.0).init)(jnp.ones(2))


def test_the_readings_have_the_estimate_and_the_rate():
    p = jnp.ones(2)
    readings = optimiz.hyperparams(prodigy(0.5).init(p))
    assert float(readings["distance"]) == np.float32(1e-6) and float(readings["learning_rate"]) == 0.5


def test_the_state_can_be_donated_with_the_parameters_where_that_of_optax_cannot():
    def stepped(tx):
        p = {"w": jnp.ones(4)}
        step = jax.jit(lambda p, state: tx.update(p, state, p), donate_argnums=(0, 1))
        return step(p, tx.init(p))

    stepped(prodigy())
    with pytest.raises(Exception, match="donate"):
        stepped(optax.contrib.prodigy())


def test_the_mask_has_both_names():
    p = {"a": jnp.ones(1), "b": jnp.ones(1)}
    zero = jax.tree.map(jnp.zeros_like, p)
    for name in ("mask", "weight_decay_mask"):
        tx = prodigy(d0=0.5, weight_decay=0.5, **{name: {"a": True, "b": False}})
        updates, _ = tx.update(zero, tx.init(p), p)
        assert (float(updates["a"][0]), float(updates["b"][0])) == (-0.25, 0.0)
    with pytest.raises(ValueError, match="mask"):
        prodigy(weight_decay=0.5, mask=True, weight_decay_mask=False)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("b1", 1.0), ("b2", -0.1), ("b3", 1.0), ("eps", -1.0), ("weight_decay", -1.0)),
        *(("d0", 0.0), ("d_coef", 0.0), ("growth_rate", 0.9), ("growth_rate", math.nan), ("slice_p", 0)),
    ],
)
def test_refuses_what_is_outside_its_domain(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be"):
        prodigy(**{name: value})
    with pytest.raises(TypeError, match=f"^{name} must be"):
        prodigy(**{name: "x"})


@pytest.mark.parametrize("name", ["bias_correction", "safeguard_warmup"])
def test_refuses_what_is_not_a_choice(name):
    with pytest.raises(ValueError, match=f"^{name} must be"):
        prodigy(**{name: "yes"})


def test_refuses_a_gradient_of_another_shape():
    tx = prodigy()
    with pytest.raises(ValueError, match="shape"):
        tx.update(jnp.ones(3), tx.init(jnp.ones(2)), jnp.ones(2))
    with pytest.raises(TypeError, match=r"^decay must be"):
        scale_by_prodigy(decay=0.1)


def _ours(rate, s):
    (b1, b2), eps = s["betas"], s["eps"]
    return prodigy(
        rate,
        b1,
        b2,
        s["beta3"],
        eps,
        s["weight_decay"],
        d0=s["d0"],
        d_coef=s["d_coef"],
        growth_rate=s["growth_rate"],
        bias_correction=s["use_bias_correction"],
        safeguard_warmup=s["safeguard_warmup"],
    )


_GIVEN = {
    "betas": [0.9, 0.95],
    "beta3": None,
    "eps": 1e-8,
    "weight_decay": 0.1,
    "d0": 0.1,
    "d_coef": 1.0,
    "growth_rate": 1e9,
    "use_bias_correction": False,
    "safeguard_warmup": False,
}

# The sources of the golden trajectories, and our arguments for their settings.
SOURCES = {
    "prodigy": parity.Case(
        title="Prodigy",
        code="prodigyopt.Prodigy",
        home="prodigyopt",
        settings=_GIVEN,
        note="The growth of the estimate is not limited: 1e9 in a step.",
        ours=_ours,
    ),
    "prodigy_corrected": parity.Case(
        title="Prodigy, with bias correction, a safeguard for warm-ups and limited growth",
        code="prodigyopt.Prodigy",
        home="prodigyopt",
        settings=_GIVEN
        | {
            "beta3": 0.9,
            "d_coef": 3.0,
            "growth_rate": 1.1,
            "use_bias_correction": True,
            "safeguard_warmup": True,
        },
        ours=_ours,
    ),
}
