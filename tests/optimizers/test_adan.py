import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optimiz.optimizers.adan import adan, scale_by_adan
from tests.golden import parity

BETAS = {"b1": 0.9, "b2": 0.8, "b3": 0.95}


def equations(params, gradients, rates, b1, b2, b3, eps, eps_root=0.0, decay=0.0, weight=None):
    """The paper's equations with bias corrections; the weight of a difference is b2 unless it is given."""
    weight = b2 if weight is None else weight
    theta, m, v, n, last = np.float64(params), 0.0, 0.0, 0.0, None
    trajectory = []
    for t, (g, rate) in enumerate(zip(np.float64(gradients), rates, strict=True), 1):
        difference = np.zeros_like(g) if last is None else g - last
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * difference
        n = b3 * n + (1 - b3) * (g + weight * difference) ** 2
        root = np.sqrt(n / (1 - b3**t) + eps_root) + eps
        step = (m / (1 - b1**t) + weight * v / (1 - b2**t)) / root
        theta = theta - rate * (step + decay * theta)
        last = g
        trajectory.append(theta)
    return np.stack(trajectory)


def problem(steps=12):
    random = np.random.default_rng(0)
    rates = 0.1 * (1 - np.arange(steps) / steps)
    return random.normal(size=5), random.normal(size=(steps, 5)), rates


def followed(tx, params, gradients):
    def step(carry, g):
        p, state = carry
        updates, state = tx.update(g, state, p)
        p = optax.apply_updates(p, updates)
        return (p, state), p

    start = jnp.asarray(params)
    return jax.lax.scan(step, (start, tx.init(start)), jnp.asarray(gradients))[1]


@pytest.mark.parametrize("eps_root", [0.0, 1e-3])
def test_the_trajectory_is_that_of_the_equations(eps_root):
    params, gradients, rates = problem()
    with jax.enable_x64(True):
        schedule = lambda count: jnp.asarray(rates)[count]  # noqa: E731
        tx = adan(schedule, **BETAS, eps=1e-3, eps_root=eps_root, weight_decay=0.1)
        ours = followed(tx, params, gradients)
        expected = equations(params, gradients, rates, **BETAS, eps=1e-3, eps_root=eps_root, decay=0.1)
        np.testing.assert_allclose(ours, expected, rtol=1e-12)


def test_the_first_difference_is_zero():
    tx = scale_by_adan(**BETAS)
    updates, state = tx.update(jnp.array([3.0, -0.5]), tx.init(jnp.zeros(2)))
    np.testing.assert_allclose(updates, [1.0, -1.0], rtol=1e-5)
    assert np.all(state.delta == 0) and state.grad.tolist() == [3.0, -0.5]


def test_optax_weighs_a_difference_by_what_is_left_of_the_decay_and_is_the_same_otherwise():
    params, gradients, rates = problem()
    with jax.enable_x64(True):
        schedule = lambda count: jnp.asarray(rates)[count]  # noqa: E731
        given = BETAS | {"eps": 1e-3, "eps_root": 1e-3}
        theirs = followed(optax.adan(schedule, **given), params, gradients)
        ours = followed(adan(schedule, **given), params, gradients)
        as_optax = equations(params, gradients, rates, **given, weight=1 - BETAS["b2"])
        np.testing.assert_allclose(theirs, as_optax, rtol=1e-12)
        assert np.max(np.abs(ours - theirs)) > 0.05
        at_half = given | {"b2": 0.5}  # where both weights are the same
        theirs, ours = (followed(f(schedule, **at_half), params, gradients) for f in (optax.adan, adan))
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)


def test_a_gradient_that_alternates_is_damped_and_one_that_stays_is_not():
    tx = scale_by_adan()
    p = jnp.zeros(2)
    state = tx.init(p)
    for i in range(200):
        updates, state = tx.update(jnp.array([1.0, (-1.0) ** i]), state, p)
    assert float(updates[0]) == pytest.approx(1.0, abs=0.02)
    assert abs(float(updates[1])) < 0.1


def test_the_state_is_float32_for_bfloat16_parameters():
    p = {"w": jnp.ones(3, jnp.bfloat16)}
    tx = adan(0.1)
    updates, state = tx.update(p, tx.init(p), p)
    assert updates["w"].dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves(state[0]._replace(count=None))} == {jnp.dtype("float32")}


def test_a_huge_gradient_does_no_lasting_harm():
    tx, p = adan(0.1), jnp.zeros(2)
    state = tx.init(p)
    for g in (1e30, 1.0, -1e38, 1.0):
        updates, state = tx.update(jnp.full(2, g), state, p)
        assert np.isfinite(updates).all()
    for leaf in jax.tree.leaves(state):
        assert np.isfinite(leaf).all()


def test_without_gradients_and_eps_nothing_moves():
    tx, p = adan(0.1, eps=0.0), jnp.ones(2)
    updates, _ = tx.update(jnp.zeros(2), tx.init(p), p)
    assert updates.tolist() == [0.0, 0.0]


def test_the_mask_has_both_names():
    p = {"a": jnp.ones(1), "b": jnp.ones(1)}
    zero = jax.tree.map(jnp.zeros_like, p)
    for name in ("mask", "weight_decay_mask"):
        tx = adan(0.5, weight_decay=0.5, **{name: {"a": True, "b": False}})
        updates, _ = tx.update(zero, tx.init(p), p)
        assert (float(updates["a"][0]), float(updates["b"][0])) == (-0.25, 0.0)
    with pytest.raises(ValueError, match="mask"):
        adan(0.5, weight_decay=0.5, mask=True, weight_decay_mask=False)


@pytest.mark.parametrize(
    ("name", "value"),
    [("b1", 1.0), ("b2", -0.1), ("b3", 1.0), ("eps", -1.0), ("eps_root", -1.0), ("weight_decay", -1.0)],
)
def test_refuses_what_is_outside_its_domain(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be"):
        adan(0.1, **{name: value})
    with pytest.raises(TypeError, match=f"^{name} must be"):
        adan(0.1, **{name: "x"})


def test_refuses_a_gradient_of_another_shape():
    tx = adan(0.1)
    with pytest.raises(ValueError, match="shape"):
        tx.update(jnp.ones(3), tx.init(jnp.ones(2)), jnp.ones(2))


# The sources of the golden trajectories, and our arguments for their settings.
SOURCES = {
    "adan": parity.Case(
        title="Adan",
        code="adan.Adan",
        home="github:sail-sg/Adan",
        settings={
            "betas": [0.98, 0.92, 0.99],
            "eps": 1e-8,
            "weight_decay": 0.1,
            "no_prox": True,
            "foreach": False,
        },
        note="The authors' repository, with decoupled weight decay.",
        ours=lambda rate, s: adan(rate, *s["betas"], s["eps"], weight_decay=s["weight_decay"]),
    )
}
