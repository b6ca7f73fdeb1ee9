import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optimiz.optimizers.amsgrad import amsgrad
from tests.golden import fixture_a, parity, trajectory

# PyTorch 2.13 Adam(amsgrad=True) on fixture A.
PYTORCH = """
.993495546404 -1.99781754772 2.97870850787 .487935488839 -.0249153309359 -.987321713732
.0838737347821 -.218563799806"""
PYTORCH_B2_HALF = """
.993185913236 -1.99677125682 2.97997548999 .48997423725 -.0231487476366 -.987509206438
.084580330525 -.217631235876"""
PYTORCH_B2_HALF_VARYING = """
.995091346482 -1.9983994599 2.97386835123 .485318080364 -.0252765079089 -.983920084208
.0824556462518 -.226050113197"""


def test_equals_pytorch_when_the_maximum_comes_before_the_correction():
    def make(learning_rate, **kwargs):
        return amsgrad(learning_rate, max_before_correction=True, **kwargs)

    fixture_a.check(lambda: make(0.01), PYTORCH)
    fixture_a.check(lambda: make(0.01, b2=0.5), PYTORCH_B2_HALF)
    fixture_a.check(lambda: make(fixture_a.varying, b2=0.5), PYTORCH_B2_HALF_VARYING)
    with pytest.raises(AssertionError):
        fixture_a.check(lambda: amsgrad(0.01, b2=0.5), PYTORCH_B2_HALF, f64=1e-4)


# An early gradient is the largest, so that the maximum matters.
def _rule(correct_mu, correct_nu, max_before_correction):
    def direction(g, memory, t):
        memory["m"] = 0.9 * memory.get("m", 0) + 0.1 * g
        memory["v"] = v = 0.5 * memory.get("v", 0) + 0.5 * g**2
        correction = 1 - 0.5**t if correct_nu else 1
        largest = v if max_before_correction else v / correction
        memory["max"] = largest = np.maximum(memory.get("max", 0), largest)
        root = np.sqrt(largest / correction if max_before_correction else largest)
        return memory["m"] / (1 - 0.9**t if correct_mu else 1) / (root + 1e-8)

    return direction


@pytest.mark.quick(2)
@pytest.mark.parametrize(
    ("correct_mu", "correct_nu", "max_before_correction"),
    [(True, True, False), (True, True, True), (False, False, False)],
    ids=["optax", "pytorch", "paper"],
)
def test_equals_the_equations(correct_mu, correct_nu, max_before_correction):
    def make(learning_rate, weight_decay):
        return amsgrad(
            learning_rate,
            b2=0.5,
            bias_correction_mu=correct_mu,
            bias_correction_nu=correct_nu,
            max_before_correction=max_before_correction,
            weight_decay=weight_decay,
        )

    trajectory.check_equations(make, _rule(correct_mu, correct_nu, max_before_correction))


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    "args",
    [(), (0.0, 0.5), (0.9, 0.9, 1e-3, 1e-3), (0.9, 0.9, 1e-8, 0.0, None, False, False)],
    ids=str,
)
def test_is_a_drop_in_for_optax(args):
    trajectory.check_drop_in(lambda lr: amsgrad(lr, *args), lambda lr: optax.amsgrad(lr, *args))


def test_second_moment_decays_in_bfloat16_where_that_of_optax_does_not():
    def after_silence(tx):
        params = jnp.zeros(1, jnp.bfloat16)
        state = tx.update(jnp.ones(1, jnp.bfloat16), tx.init(params))[1]
        update = jax.jit(lambda state: tx.update(jnp.zeros(1, jnp.bfloat16), state)[1])
        before = float(state[0].nu[0])
        for _ in range(700):
            state = update(state)
        return float(state[0].nu[0]) / before

    assert after_silence(amsgrad(1e-3)) == pytest.approx(0.999**700, rel=1e-3)
    assert after_silence(optax.amsgrad(1e-3)) == 1.0


@pytest.mark.parametrize("param", [jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("gradient", [jnp.bfloat16, jnp.float32])
def test_state_keeps_its_dtypes(param, gradient):
    tx = amsgrad(0.1)
    state = tx.init(jnp.zeros(2, param))
    after = tx.update(jnp.ones(2, gradient), state)[1]
    assert state[0].mu.dtype == after[0].mu.dtype == param
    for name in ("nu", "nu_max"):
        assert getattr(state[0], name).dtype == getattr(after[0], name).dtype == jnp.float32


def test_a_huge_gradient_leaves_a_finite_state_where_that_of_optax_is_infinite():
    g = jnp.array([1e30])
    for tx, finite in ((amsgrad(0.1), True), (optax.amsgrad(0.1), False)):
        updates, state = tx.update(g, tx.init(g))
        assert np.isfinite(updates) and np.isfinite(state[0].nu_max) == finite


def test_eps_zero_leaves_a_coordinate_without_gradient_where_it_is():
    g = jnp.array([0.0, 2.0])
    updates, _ = amsgrad(0.1, eps=0.0).update(g, amsgrad(0.1).init(g))
    np.testing.assert_allclose(updates, [0.0, -0.1], rtol=1e-5)
    updates, _ = optax.amsgrad(0.1, eps=0.0).update(g, optax.amsgrad(0.1).init(g))
    assert np.isnan(updates[0])


def test_a_nan_gradient_stays_visible():
    g = jnp.array([jnp.nan, jnp.inf])
    updates, _ = amsgrad(0.1).update(g, amsgrad(0.1).init(g))
    assert not np.isfinite(updates).any()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"b1": 1.0}, r"b1 must be in \[0, 1\), got 1"),
        ({"b2": -0.1}, r"b2 must be in \[0, 1\), got -0.1"),
        ({"eps": -1e-8}, r"eps must be in \[0, inf\), got -1e-08"),
        ({"eps_root": float("nan")}, r"eps_root must be in \[0, inf\), got nan"),
        ({"weight_decay": -0.1}, r"weight_decay must be in \[0, inf\), got -0.1"),
    ],
)
def test_refuses_bad_arguments_by_name(kwargs, message):
    with pytest.raises(ValueError, match=message):
        amsgrad(1e-3, **kwargs)


# The sources of the golden trajectories, and our arguments for their settings.
SOURCES = {
    "amsgrad": parity.Case(
        title="AMSGrad",
        code="torch.optim.AdamW",
        home="torch",
        settings=parity.MOMENTS | {"amsgrad": True},
        note="Ours with max_before_correction=True, which is PyTorch's order.",
        ours=lambda rate, s: amsgrad(
            rate, max_before_correction=True, weight_decay=s["weight_decay"], **parity.moments(s)
        ),
    )
}
