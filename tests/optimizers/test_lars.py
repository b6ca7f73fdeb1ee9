import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optimiz import groups
from optimiz.optimizers.lars import lars
from tests.golden import fixture_a, parity, stacked

# Fixture A, mu 0.9, c 0.001, wd 0.1, lr 1: the equations in float64, and for the norm Optax 0.2.8 as well.
PAPER = """
.997894169022 -1.99657651903 2.99041099726 .495457383222 -.00445790045885 -.995880702046
.0996248655412 -.200179219033"""
OPTAX = """
.997717279216 -1.99585355929 2.98851830022 .493828067306 -.00606720910612 -.996480515334
.099634541628 -.20022170444"""


def rate(count):
    return 3.0 / (1 + count)


def test_equals_the_golden_rows():
    fixture_a.check(lambda: lars(1.0, weight_decay=0.1), PAPER)
    fixture_a.check(lambda: lars(1.0, weight_decay=0.1, trust="norm"), OPTAX)


@pytest.mark.quick(2)
@pytest.mark.parametrize("trust", ["sum", "norm"])
@pytest.mark.parametrize("nesterov", [False, True])
def test_equals_the_equations_over_a_varying_rate(trust, nesterov):
    theta, gradients = stacked.arrays()
    lam, mu, c, eps = 0.05, 0.8, 0.01, 0.1
    spared = {
        "weight_decay_mask": groups.no_decay(),
        "trust_ratio_mask": {k: k != "scale" for k in stacked.SHAPES},
    }
    with jax.enable_x64(True):
        tx = lars(
            rate, lam, trust_coefficient=c, eps=eps, momentum=mu, nesterov=nesterov, trust=trust, **spared
        )
        got = stacked.run(tx, jnp.float64)

    def norm(x):
        return np.sqrt(np.sum(np.square(x)))

    v = {k: np.zeros(s) for k, s in stacked.SHAPES.items()}
    for t, g in enumerate(gradients):
        for k, w in theta.items():
            decay = lam * w if k in ("kernel", "stack") else np.zeros_like(w)
            below = norm(g[k]) + norm(decay) if trust == "sum" else norm(g[k] + decay)
            rho = 1.0 if k == "scale" else c * norm(w) / (below + eps)
            step = rate(t) * rho * (g[k] + decay)
            v[k] = mu * v[k] + step
            theta[k] = w - (step + mu * v[k] if nesterov else v[k])
    chex.assert_trees_all_close(got, theta, rtol=0, atol=1e-12)


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"eps": 0.1, "nesterov": True, "momentum": 0.5},
        {"weight_decay": 0.1, "trust": "norm"},
        {"weight_decay": 0.1, "trust": "norm", "weight_decay_mask": False},
        {"weight_decay": 0.1, "trust": "norm", "trust_ratio_mask": {k: k != "bias" for k in stacked.SHAPES}},
    ],
)
def test_is_a_drop_in_for_optax_with_the_norm(kwargs):
    for_optax = {k: v for k, v in kwargs.items() if k != "trust"}
    stacked.check_drop_in(lambda _: lars(rate, **kwargs), lambda _: optax.lars(rate, **for_optax))


def test_the_default_is_the_papers_denominator():
    params, g = jnp.array([3.0, 4.0]), jnp.array([0.1, 1.0])

    def step(make):
        tx = make(1.0, 0.1, trust_coefficient=1.0, momentum=0.0)
        return tx.update(g, tx.init(params), params)[0]

    np.testing.assert_allclose(step(lars), [-1.3289146, -4.6512012], rtol=1e-6)
    np.testing.assert_allclose(step(optax.lars), [-1.3736057, -4.80762], rtol=1e-6)


def test_layers_stacked_by_scan_train_as_they_would_alone():
    stacked.check_layers(functools.partial(lars, rate, 0.1))


@pytest.mark.parametrize("trust", ["sum", "norm"])
def test_a_gradient_of_zero_with_decay_shrinks_by_the_coefficient(trust):
    # The gradient is λ θ and the ratio c / λ: the step is η c θ whatever λ is.
    params = jnp.array([3.0, -4.0])
    for weight_decay in (0.1, 0.5):
        tx = lars(0.1, weight_decay, trust_coefficient=0.5, trust=trust)
        updates, _ = tx.update(jnp.zeros(2), tx.init(params), params)
        np.testing.assert_allclose(updates, -0.05 * params, rtol=1e-6)


@pytest.mark.parametrize("scale", [1e30, 1e-30])
def test_a_huge_or_tiny_gradient_makes_the_same_step_which_that_of_optax_does_not(scale):
    params, g = jnp.array([3.0, 4.0]), jnp.array([0.0, 2.0])

    def step(make, g):
        tx = make(1.0, trust_coefficient=1.0)
        return tx.update(g, tx.init(params), params)[0]

    np.testing.assert_allclose(step(lars, scale * g), step(lars, g), rtol=1e-6)
    assert abs(step(optax.lars, scale * g)[1]) < 1e-20


def test_parameters_at_zero_move_along_the_gradient():
    tx = lars(0.1, 0.5)
    updates, _ = tx.update(jnp.array([2.0, -3.0]), tx.init(jnp.zeros(2)), jnp.zeros(2))
    np.testing.assert_allclose(updates, [-0.2, 0.3], rtol=1e-6)


def test_momentum_has_and_keeps_the_given_dtype():
    params = jnp.ones(3, jnp.bfloat16)
    for dtype in (None, jnp.float32):
        tx = lars(jnp.float32(0.1), accumulator_dtype=dtype)
        state = tx.init(params)
        updates, after = tx.update(jnp.ones(3), state, params)
        assert updates.dtype == jnp.bfloat16
        wanted = jnp.bfloat16 if dtype is None else dtype
        assert state[-1].trace.dtype == after[-1].trace.dtype == wanted


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"learning_rate": -1.0}, "learning_rate must be in"),
        ({"weight_decay": -0.1}, "weight_decay must be in"),
        ({"trust_coefficient": 0.0}, "trust_coefficient must be in"),
        ({"eps": -1.0}, "eps must be in"),
        ({"momentum": 1.0}, r"momentum must be in \[0, 1\), got 1.0"),
        ({"trust": "paper"}, "trust must be one of 'sum', 'norm', got 'paper'"),
    ],
)
def test_refuses_bad_arguments_by_name(kwargs, message):
    with pytest.raises(ValueError, match=message):
        lars(**({"learning_rate": 1e-3} | kwargs))


def test_needs_the_parameters():
    tx = lars(1e-3)
    with pytest.raises(ValueError, match="needs the parameters"):
        tx.update(jnp.ones(3), tx.init(jnp.ones(3)))


# The sources of the golden trajectories, and our arguments for their settings.
def _step_with_the_rate_inside_the_momentum(optimizer, case, rate, curvature):
    del curvature
    for group in optimizer.param_groups:
        group["lr"] = 1.0
        group["trust_coeff"] = rate * case.settings["trust_coeff"]
    optimizer.step()


SOURCES = {
    "lars": parity.Case(
        title="LARS",
        code="timm.optim.Lars",
        home="timm",
        settings={"momentum": 0.9, "weight_decay": 0.1, "trust_coeff": 0.1, "eps": 1e-8},
        step=_step_with_the_rate_inside_the_momentum,
        note="The source's rate is outside the momentum, the paper's inside: it comes in by trust_coeff.",
        ours=lambda rate, s: lars(
            rate, s["weight_decay"], trust_coefficient=s["trust_coeff"], eps=s["eps"], momentum=s["momentum"]
        ),
    )
}
