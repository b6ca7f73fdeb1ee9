import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optimiz.optimizers.sophia_g import sophia_g
from tests.golden import fixture_a, parity

# Fixture A, wd 0.1, betas (0.965, 0.99), read off public reference code. The curvature is given before the
# first step. Where every coordinate is clipped the row is that of Signum: the second and third prove the ratio.
CLIPPED = """
1.007012989 -2.004015988 2.961038987 .4785114995 -.02997001 -.987032989
.0697302899 -.2093706098"""
B_1000 = """
1.007012989 -2.004015988 2.961038987 .4785114995 -.02287586125 -.978098058444
.0697302899 -.212595923133"""
B_5000 = """
1.007012989 -2.004015988 2.97081917 .4785114995 -.0055474050625 -.991139872889
.08125826615 -.203122469467"""
PARAMETER_SCALED = """
1.0126417779 -2.0096447769 2.94358056732 .466967895211 -.0474284296765 -.981084284305
.0949557748426 -.20097178682"""


def uniform(params):
    return jnp.zeros((4, 3))


def released(b, rho, **kwargs):
    """Settings of the released code, where B is a constant that multiplies h."""
    return sophia_g(0.01, 0.965, 0.99, 1e-15, gamma=rho * b, classes=3, **kwargs)


def with_the_golden_curvature(tx, decay_first=0.0):
    """Set h, move on by one update so that nothing refreshes it, and decay before the step where asked to."""

    def init_fn(params):
        sophia, *others = tx.init(params)
        sampled = {"W": fixture_a.G_W[2], "b": fixture_a.G_B[1]}
        h = {name: 0.01 * (0.5 * jnp.asarray(g, params[name].dtype)) ** 2 for name, g in sampled.items()}
        return sophia._replace(count=jnp.int32(1), nu=h), *others

    def update_fn(updates, state, params):
        decayed = jax.tree.map(lambda p: p * (1 - 0.01 * decay_first), params)
        updates, state = tx.update(updates, state, decayed, logits_fn=uniform)
        return jax.tree.map(lambda d, p, u: d - p + u, decayed, params, updates), state

    return optax.GradientTransformation(init_fn, update_fn)


@pytest.mark.quick(2)
@pytest.mark.parametrize(("row", "b"), [(CLIPPED, 10), (B_1000, 1000), (B_5000, 5000)])
def test_equals_the_golden_rows(row, b):
    fixture_a.check(lambda: with_the_golden_curvature(released(b, 0.04, weight_decay=0.1)), row)


def test_equals_the_golden_row_of_the_scaled_step():
    def make():
        tx = released(5120, 2e-4, weight_decay=0.0, scale_by_param_rms=True)
        return with_the_golden_curvature(tx, decay_first=0.1)

    fixture_a.check(make, PARAMETER_SCALED)


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def test_equals_the_equations_in_float64():
    rng = np.random.default_rng(0)
    data = rng.normal(size=(24, 8, 4))
    truth = rng.integers(3, size=(24, 8))
    start = {"w": rng.normal(size=(4, 3)), "b": rng.normal(size=3)}
    b1, b2, gamma, lam, k, key = 0.9, 0.8, 0.7, 0.1, 4, jax.random.key(0, impl="threefry2x32")

    def gradient(p, x, labels):
        residual = (softmax(x @ p["w"] + p["b"]) - np.eye(3)[labels]) / len(x)
        return {"w": x.T @ residual, "b": residual.sum(0)}

    with jax.enable_x64(True):
        rate = optax.cosine_decay_schedule(0.3, 24)
        tx = sophia_g(rate, b1, b2, 1e-12, lam, gamma=gamma, classes=3, update_interval=k)

        @jax.jit
        def step(p, state, g, x):
            updates, state = tx.update(g, state, p, logits_fn=lambda p: x @ p["w"] + p["b"])
            return optax.apply_updates(p, updates), state

        ours, theirs = jax.tree.map(jnp.asarray, start), start
        state = tx.init(ours)
        m = {name: 0 * p for name, p in start.items()}
        h, shares = m, []
        for t in range(24):
            g = gradient(theirs, data[t], truth[t])
            if t % k == 0:
                z = data[t] @ theirs["w"] + theirs["b"]
                labels = jax.random.categorical(jax.random.fold_in(key, t // k), jnp.asarray(z))
                sampled = gradient(theirs, data[t], np.asarray(labels))
                h = {name: b2 * h[name] + (1 - b2) * len(z) * s**2 for name, s in sampled.items()}
            m = {name: b1 * m[name] + (1 - b1) * g[name] for name in g}
            d = {name: np.clip(m[name] / np.maximum(gamma * h[name], 1e-12), -1, 1) for name in g}
            shares.append(np.mean([abs(x) < 1 for leaf in d.values() for x in leaf.ravel()]))
            ours, state = step(ours, state, jax.tree.map(jnp.asarray, g), data[t])
            assert float(state[0].unclipped) == pytest.approx(shares[-1])
            theirs = {name: p - float(rate(t)) * (d[name] + lam * p) for name, p in theirs.items()}
        for name in start:
            np.testing.assert_allclose(ours[name], theirs[name], rtol=0, atol=1e-12)
        assert 0.2 < np.mean(shares) < 0.8  # both arms of the clip were in use


def test_refreshes_by_the_interval_and_counts_leaves_without_curvature():
    tx = sophia_g(0.1, classes=3, update_interval=2, microbatches=2, key=jax.random.key(4), weight_decay=0.0)
    params = {"seen": jnp.ones(3), "unseen": jnp.ones(3)}
    state = tx.init(params)
    update = jax.jit(
        lambda g, s: tx.update(g, s, params, logits_fn=lambda p, i: jnp.stack([p["seen"] * i, p["seen"]]))
    )
    for refreshes in (1, 1, 2):
        _, state = update(params, state)
        assert int(state[0].hessian_fn_state.estimates) == refreshes
        assert int(state[0].without_curvature) == 1


def test_every_number_may_be_traced():
    params = jnp.ones(3)
    functions = {"logits_fn": lambda p: 2 * p}
    plain = sophia_g(0.1, classes=3)
    wanted, _ = plain.update(params, plain.init(params), params, **functions)
    tx = optax.inject_hyperparams(sophia_g)(0.1, classes=3)
    state = tx.init(params)
    updates, after = jax.jit(lambda g, s: tx.update(g, s, params, **functions))(params, state)
    np.testing.assert_allclose(updates, wanted, rtol=1e-6)
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, state)


def test_what_it_needs_is_named_and_what_others_need_is_ignored():
    params = jnp.ones(3)
    tx = sophia_g(0.1, classes=3)
    state = tx.init(params)
    with pytest.raises(ValueError, match="needs logits_fn, a function from the parameters to the logits"):
        tx.update(params, state, params, value=1.0, grad=params, value_fn=jnp.sum)
    with pytest.raises(ValueError, match=r"logits of shape \[..., 3\], one per class, got shape \(768,\)"):
        tx.update(params, state, params, logits_fn=lambda p: jnp.zeros(768) * p[0])
    tx.update(params, state, params, logits_fn=lambda p: p, value=1.0, grad=params, value_fn=jnp.sum, other=1)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"classes": 1}, "classes must be in"),
        ({"gamma": -1.0}, r"gamma must be in \[0, inf\)"),
        ({"min_rms": 0.0}, r"min_rms must be in \(0, inf\)"),
        ({"weight_decay": -1.0}, r"weight_decay must be in \[0, inf\)"),
        ({"update_interval": 0}, "update_interval must be in"),
    ],
)
def test_refuses_bad_arguments_by_name(kwargs, message):
    with pytest.raises(ValueError, match=message):
        sophia_g(0.1, **({"classes": 3} | kwargs))


# The sources of the golden trajectories, and our arguments for their settings.
def _step(optimizer, case, rate, curvature):
    params = [p for group in optimizer.param_groups for p in group["params"]]
    if curvature is not None:
        gradients = [p.grad for p in params]
        for p, g_hat in zip(params, curvature, strict=True):
            p.grad = g_hat
        optimizer.update_hessian()
        for p, g in zip(params, gradients, strict=True):
            p.grad = g
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step(bs=case.step_settings["bs"])


SOURCES = {
    "sophia_g": parity.Case(
        title="Sophia-G (Gauss-Newton-Bartlett)",
        code="sophia.SophiaG",
        home="github:Liuhong99/Sophia",
        settings={"betas": [0.96, 0.99], "rho": 0.04, "weight_decay": 0.1},
        step_settings={"bs": 50},
        step=_step,
        note="The authors' repository. The gradient on sampled labels is given; γ is rho × bs.",
        ours=lambda rate, s: sophia_g(
            rate, *s["betas"], weight_decay=s["weight_decay"], gamma=s["rho"] * s["bs"], classes=2
        ),
    )
}
