import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optimiz.optimizers.adagrad import adagrad
from tests.golden import fixture_a, parity, trajectory

# PyTorch 2.13 Adagrad on fixture A.
CONSTANT = """
.996946897307 -2.00112645082 2.99193900156 .491643989874 -.0179999999951 -.998580549398
.0937139067649 -.211642187564"""
VARYING = """
1.00595420307 -2.00897963327 2.9873314664 .48082199494 -.0139999999959 -.999861134844
.0974278135277 -.225051343243"""
VARYING_FROM_A_TENTH = """
1.00664716416 -2.00795302654 2.99010240582 .483036290221 -.0102630890329 -1.00011864711
.0979535836053 -.213098187974"""


def test_equals_pytorch():
    fixture_a.check(lambda: adagrad(0.01), CONSTANT)
    fixture_a.check(lambda: adagrad(fixture_a.varying), VARYING)
    fixture_a.check(lambda: adagrad(fixture_a.varying, 0.1), VARYING_FROM_A_TENTH)


def test_equals_the_equations():
    def direction(g, memory, t):
        memory["s"] = memory.get("s", 0) + g**2
        return g / (np.sqrt(memory["s"]) + 1e-10)

    trajectory.check_equations(adagrad, direction)


@pytest.mark.quick(1)
@pytest.mark.parametrize("args", [(0.1, 1e-7), (0.0, 1e-2), (0.0, 0.0)], ids=str)
def test_is_a_drop_in_for_optax_with_eps_under_the_root(args):
    trajectory.check_drop_in(
        lambda lr: adagrad(lr, *args, eps_in_sqrt=True), lambda lr: optax.adagrad(lr, *args)
    )


def test_default_is_the_papers_where_that_of_optax_starts_at_a_tenth():
    g = jnp.array([0.1])
    for tx, step in ((adagrad(1.0), 1.0), (optax.adagrad(1.0), 0.1 / np.sqrt(0.1 + 0.1**2))):
        updates, _ = tx.update(g, tx.init(g))
        np.testing.assert_allclose(updates, [-step], rtol=1e-6)


def test_sum_grows_in_bfloat16_where_that_of_optax_ends_at_256():
    def sum_of_300_ones(tx):
        g = jnp.ones(1, jnp.bfloat16)
        state = tx.init(g)
        update = jax.jit(lambda state: tx.update(g, state)[1])
        for _ in range(300):
            state = update(state)
        return float(state[0].sum_of_squares[0])

    assert sum_of_300_ones(adagrad(0.1)) == 300
    assert sum_of_300_ones(adagrad(0.1, accumulator_dtype=jnp.bfloat16)) == 256
    assert sum_of_300_ones(optax.adagrad(0.1, 0.0)) == 256


@pytest.mark.parametrize("param", [jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("gradient", [jnp.bfloat16, jnp.float32])
def test_state_keeps_its_dtype(param, gradient):
    tx = adagrad(0.1, 0.1)
    state = tx.init(jnp.zeros(2, param))
    after = tx.update(jnp.ones(2, gradient), state)[1]
    assert state[0].sum_of_squares.dtype == after[0].sum_of_squares.dtype == jnp.float32


@pytest.mark.parametrize("dtype", [None, jnp.bfloat16, jnp.float16])
def test_huge_gradients_leave_a_finite_sum(dtype):
    g = jnp.array([1e30])
    tx = adagrad(0.1, accumulator_dtype=dtype)
    state = tx.init(g)
    for _ in range(20):  # 16 squares of the largest that can be squared exceed float32
        updates, state = tx.update(g, state)
    assert np.isfinite(updates).all() and updates[0] < 0
    assert jnp.isfinite(state[0].sum_of_squares).all()


def test_a_huge_gradient_holds_the_coordinate_of_optax_for_good():
    g = jnp.array([1e30])
    updates, state = optax.adagrad(0.1).update(g, optax.adagrad(0.1).init(g))
    assert np.isinf(state[0].sum_of_squares) and updates == 0


@pytest.mark.parametrize("eps_in_sqrt", [False, True])
def test_eps_zero_leaves_a_coordinate_without_gradient_where_it_is(eps_in_sqrt):
    tx = adagrad(0.1, eps=0.0, eps_in_sqrt=eps_in_sqrt)
    g = jnp.array([0.0, 2.0])
    updates, _ = tx.update(g, tx.init(g))
    np.testing.assert_allclose(updates, [0.0, -0.1], rtol=1e-6)


def test_a_nan_gradient_stays_visible():
    g = jnp.array([jnp.nan, jnp.inf])
    updates, _ = adagrad(0.1).update(g, adagrad(0.1).init(g))
    assert not np.isfinite(updates).any()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"initial_accumulator_value": -0.1}, r"initial_accumulator_value must be in \[0, inf\), got -0.1"),
        ({"eps": float("nan")}, r"eps must be in \[0, inf\), got nan"),
        ({"weight_decay": -0.1}, r"weight_decay must be in \[0, inf\), got -0.1"),
    ],
)
def test_refuses_bad_arguments_by_name(kwargs, message):
    with pytest.raises(ValueError, match=message):
        adagrad(1e-3, **kwargs)


# The sources of the golden trajectories, and our arguments for their settings.
SOURCES = {
    "adagrad": parity.Case(
        title="AdaGrad",
        code="torch.optim.Adagrad",
        home="torch",
        settings={"eps": 1e-10, "weight_decay": 0.1},
        note=parity.L2,
        ours=lambda rate, s: parity.l2(s, adagrad(rate, eps=s["eps"])),
    )
}
