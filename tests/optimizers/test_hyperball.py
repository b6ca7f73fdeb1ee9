import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import optimiz
from optimiz import groups
from optimiz.numerics import newton_schulz
from optimiz.optimizers.hyperball import adamh, muonh
from tests.golden import fixture_m, parity
from tests.optimizers import test_muon as muons

# What the author's code makes of fixture M, run in float64; b is Adam's.
GOLDEN = {
    "muonh": (
        muonh,
        {},
        [0.241019345212, -0.361160347629, -0.448862241821, -0.026825800711, -0.48747071213, -0.214444042487],
        [0.155508984904, -0.134029169844, 0.46225828623, 0.397861905784, 0.2341703798, 0.504093028017],
    ),
    "muonh, Keller Jordan's polynomials": (
        muonh,
        {"newton_schulz": newton_schulz.KELLER},
        [0.24287563452, -0.359218790989, -0.448051115742, -0.0262804817294, -0.487857454425, -0.216485390284],
        [0.15599005315, -0.134289808966, 0.462207163958, 0.397586100812, 0.23413635071, 0.504155312893],
    ),
    "adamh": (
        adamh,
        {},
        [0.218593242851, -0.380587078752, -0.447691577667, -0.0482255564546, -0.486043707935, -0.206679777334],
        [0.153553848439, -0.08854357907, 0.466215671388, 0.426062796939, 0.21680555383, 0.495741134635],
    ),
}


@pytest.mark.quick(2)
@pytest.mark.parametrize("name", GOLDEN)
def test_the_trajectory_is_that_of_the_authors_code(name):
    factory, settings, a, b = GOLDEN[name]
    with jax.enable_x64(True):
        rates = muons.schedule(fixture_m.RATES), muons.schedule(0.05 * fixture_m.RATES)
        end = fixture_m.trained(factory(*rates, weight_decay=0.1, **settings))
    np.testing.assert_allclose(end["A"].ravel(), a, rtol=0, atol=1e-12)
    np.testing.assert_allclose(end["B"].ravel(), b, rtol=0, atol=1e-12)
    np.testing.assert_allclose(end["b"], muons.ADAM, rtol=0, atol=1e-12)


@pytest.mark.parametrize("factory", [muonh, adamh])
def test_weight_decay_is_that_of_the_others(factory):
    params = {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}
    tx = factory(0.5, 0.25, weight_decay=0.5)
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    assert not updates["kernel"].any() and np.all(updates["bias"] == -0.125)


def test_both_rates_are_in_the_state():
    tx = adamh(optax.linear_schedule(0.2, 0.0, 10), 0.1)
    found = optimiz.hyperparams(tx.init({"kernel": jnp.ones((3, 4)), "bias": jnp.ones(4)}))
    assert found["adamh/learning_rate"] == pytest.approx(0.2)
    assert found["adamw/learning_rate"] == pytest.approx(0.1)


def test_stacked_and_fused_matrices_each_turn_alone():
    rng = np.random.default_rng(0)
    layers, fused = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((3, 4, 6), (4, 12)))
    given = {"matrices": {"qkv": groups.Matrix(sizes=(4, 4, 4))}, "scanned": {"layers": 0}}
    params = {"layers": layers, "qkv": fused}
    alone = {f"layer_{i}": layers[i] for i in range(3)} | {
        f"part_{i}": fused[:, 4 * i :][:, :4] for i in range(3)
    }

    def update(tx, params):
        state = tx.init(params)
        return jax.jit(tx.update)(jax.tree.map(jnp.sin, params), state, params)[0]

    got = update(muonh(0.1, 0.1, ns_dtype=jnp.float32, **given), params)
    wanted = update(muonh(0.1, 0.1, ns_dtype=jnp.float32), alone)
    for i in range(3):
        np.testing.assert_allclose(got["layers"][i], wanted[f"layer_{i}"], atol=1e-6)
        np.testing.assert_allclose(got["qkv"][:, 4 * i : 4 * i + 4], wanted[f"part_{i}"], atol=1e-6)


@pytest.mark.parametrize(
    ("factory", "given", "error", "message"),
    [
        (muonh, {"momentum": 1.0}, ValueError, "momentum must be in"),
        (muonh, {"newton_schulz": "keller"}, TypeError, "newton_schulz must be a set of polynomials"),
        (muonh, {"adam_learning_rate": None}, ValueError, "adam_learning_rate must be given"),
        (adamh, {"adam_learning_rate": None}, ValueError, "adam_learning_rate must be given"),
        (muonh, {"adam_learning_rate": "3e-3"}, TypeError, "adam_learning_rate must be a number"),
        (adamh, {"b1": 1.0}, ValueError, "b1 must be in"),
        (adamh, {"adam_b1": 1.0}, ValueError, "adam_b1 must be in"),
        (adamh, {"learning_rate": -1.0}, ValueError, "learning_rate must be in"),
        (adamh, {"weight_decay": -1.0}, ValueError, "weight_decay must be in"),
    ],
)
def test_refuses_bad_input_by_name(factory, given, error, message):
    with pytest.raises(error, match=message):
        factory(**{"learning_rate": 0.02, "adam_learning_rate": 3e-3} | given)


def test_refuses_a_matrix_that_is_zero():
    with pytest.raises(ValueError, match=r"\['out'\] of shape \(3, 4\) is zero"):
        muonh(0.02, 3e-3).init({"out": jnp.zeros((3, 4)), "up": jnp.ones((4, 3)), "bias": jnp.zeros(3)})


# The author's scripts train a model when they are imported, so that their equations stand for them.


def equations(case, problem):
    """The author's loop in NumPy, in which arrays of two axes are matrices, whose output comes last."""
    s = case.settings
    (b1, b2), eps = s["betas"], s["eps"]
    params = [p.copy() for p in problem["params"].values()]
    m, v = [np.zeros_like(p) for p in params], [np.zeros_like(p) for p in params]
    for t, rate in enumerate(problem["rates"], 1):
        for i, g in enumerate(gradients[t - 1] for gradients in problem["gradients"].values()):
            w, on_sphere = params[i], params[i].ndim == 2
            if on_sphere and "momentum" in s:
                m[i] = s["momentum"] * m[i] + (1 - s["momentum"]) * g
                d = orthogonal(s["momentum"] * m[i] + (1 - s["momentum"]) * g)
            else:
                m[i], v[i] = b1 * m[i] + (1 - b1) * g, b2 * v[i] + (1 - b2) * g**2
                d = m[i] / (1 - b1**t) / (np.sqrt(v[i] / (1 - b2**t)) + eps)
            if on_sphere:
                radius = np.linalg.norm(w)
                q = w - rate * radius * d / max(np.linalg.norm(d), 1e-10)
                params[i] = radius * q / max(np.linalg.norm(q), 1e-10)
            else:
                params[i] = w - rate * d - rate * s["weight_decay"] * w
        yield [p.copy() for p in params]


def orthogonal(u):
    """Twelve steps of the script's polynomial, on the orientation with the smaller Gram matrix."""
    x = (u.T if u.shape[0] > u.shape[1] else u) / (np.linalg.norm(u) + 1e-7)
    for _ in range(12):
        gram = x @ x.T
        x = 2 * x + (-1.5 * gram + 0.5 * gram @ gram) @ x
    return x.T if u.shape[0] > u.shape[1] else x


def of_rank_two(params):
    return jax.tree.map(lambda p: groups.Matrix() if p.ndim == 2 else None, params)


SETTINGS = {"betas": [0.9, 0.95], "eps": 1e-8, "weight_decay": 0.1}
NOTE = "The equations are those of the author's script, which trains a model when it is imported."


def with_settings(factory, rate, s, **given):
    adam = {"adam_b1": s["betas"][0], "adam_b2": s["betas"][1], "adam_eps": s["eps"]}
    return factory(rate, rate, weight_decay=s["weight_decay"], matrices=of_rank_two, **adam, **given)


SOURCES = {
    "muonh": parity.Case(
        title="MuonH (Hyperball)",
        home="numpy",
        equations=equations,
        settings=SETTINGS | {"momentum": 0.95},
        note=NOTE,
        ours=lambda rate, s: with_settings(muonh, rate, s, momentum=s["momentum"]),
    ),
    "adamh": parity.Case(
        title="AdamH (Hyperball)",
        home="numpy",
        equations=equations,
        settings=SETTINGS,
        note=NOTE,
        ours=lambda rate, s: with_settings(adamh, rate, s, b1=s["betas"][0], b2=s["betas"][1], eps=s["eps"]),
    ),
}
